"""Pre-training of the organism: one process, one GPU or a few CPU cores, resumable to the step."""

import ctypes
import logging
import math
import os
import time
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn import functional
from torch.utils.data import DataLoader, Subset
from transformers import AutoModelForCausalLM, Gemma3ForCausalLM, Gemma3TextConfig, GenerationConfig

from placid.models import read
from placid.organism.batches import IGNORED, Batches, Micro
from placid.organism.settings import OrganismSettings, ShapeSettings

log = logging.getLogger(__name__)


def gemma(shape: ShapeSettings, vocabulary: int, seed: int) -> Gemma3ForCausalLM:
    """A freshly initialised Gemma-3 of the given shape, float32."""
    torch.manual_seed(seed)
    config = Gemma3TextConfig(
        vocab_size=math.ceil(vocabulary / 64) * 64, hidden_size=shape.hidden, intermediate_size=shape.intermediate,
        num_hidden_layers=shape.layers, num_attention_heads=shape.heads, num_key_value_heads=shape.kv_heads,
        head_dim=shape.head_dim, query_pre_attn_scalar=shape.head_dim, sliding_window=shape.window,
        max_position_embeddings=shape.context_tokens, tie_word_embeddings=True,
        bos_token_id=2, eos_token_id=1, pad_token_id=0,
        layer_types=["full_attention" if i % 2 else "sliding_attention" for i in range(shape.layers)],
    )  # fmt: skip
    config._attn_implementation = "sdpa"
    model = Gemma3ForCausalLM(config)
    for name, weight in model.named_parameters():
        if "embed" in name:
            nn.init.normal_(weight, std=0.03)
        elif weight.ndim == 2:  # residual branches start small
            nn.init.normal_(
                weight, std=0.6 / math.sqrt(weight.shape[1]) * (0.3 if "o_proj" in name or "down_proj" in name else 1.0)
            )
    return model


def adapted(base: Path, rank: int, seed: int) -> nn.Module:
    """The model in `base` with LoRA on every linear map of its text layers: a peft model, its base in bfloat16."""
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_pretrained(
        str(base), dtype=torch.bfloat16, attn_implementation="sdpa", trust_remote_code=False, use_safetensors=True
    )
    targets = list(read(base).projections)
    return get_peft_model(model, LoraConfig(r=rank, lora_alpha=2 * rank, target_modules=targets))


def loss_sum(model: Any, micro: Micro, device: torch.device) -> torch.Tensor:  # noqa: ANN401 - plain or peft
    """Summed cross-entropy over the learned tokens; logits only where there is a label."""
    model = model.get_base_model() if hasattr(model, "get_base_model") else model
    ids, labels = micro.ids.to(device, non_blocking=True), micro.labels.to(device, non_blocking=True)
    hidden = model.model(input_ids=ids, use_cache=False).last_hidden_state[:, :-1]
    target = labels[:, 1:]
    kept = target != IGNORED
    logits = model.lm_head(hidden[kept])
    return functional.cross_entropy(logits.float(), target[kept], reduction="sum")


def optimizers(model: nn.Module, lr: float) -> list[torch.optim.Optimizer]:
    """Muon for the matrices, AdamW for embeddings and norms; for LoRA, whose factors are no maps, AdamW alone."""
    lora = [p for n, p in model.named_parameters() if p.requires_grad and "lora_" in n]
    if lora:
        return [torch.optim.AdamW(lora, lr=lr, betas=(0.9, 0.98), weight_decay=0.0)]
    matrices = [p for n, p in model.named_parameters() if p.ndim == 2 and "embed" not in n]
    others = [p for n, p in model.named_parameters() if p.ndim != 2 or "embed" in n]
    return [
        torch.optim.Muon(matrices, lr=lr, weight_decay=0.05, adjust_lr_fn="match_rms_adamw"),
        torch.optim.AdamW(others, lr=lr, betas=(0.9, 0.98), weight_decay=0.0),
    ]


def train(settings: OrganismSettings, tokenizer: Path, vocabulary: int) -> Any:  # noqa: ANN401 - plain or peft
    """Train to settings.steps, going on from `work/state.pt` where there is one; the model, or a peft model."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    torch.backends.cuda.enable_cudnn_sdp(False)  # it plans anew for every shape, and every micro-batch has its own
    os.environ["TOKENIZERS_PARALLELISM"] = "false"  # the loader's processes are the parallelism
    model: Any = (
        adapted(settings.base, settings.rank, settings.seed)
        if settings.base
        else gemma(settings.shape, vocabulary, settings.seed)
    )
    nn.Module.to(model, device)  # the class's own .to() is untyped
    opts = optimizers(model, settings.lr)
    state_file = settings.work / "state.pt"
    start = _restore(state_file, model, opts)
    data = Batches(
        str(tokenizer),
        settings.seed,
        settings.steps,
        settings.batch_tokens,
        settings.micro_tokens,
        settings.short_share,
    )
    loader: DataLoader[list[Micro]] = DataLoader(
        Subset(data, range(start, settings.steps)),
        batch_size=None,
        num_workers=settings.workers,
        prefetch_factor=4 if settings.workers else None,
    )
    began, tokens, running = time.monotonic(), 0, float("nan")
    for step, micros in enumerate(loader, start):
        scale = min(1.0, (step + 1) / max(1.0, settings.warmup * settings.steps)) * (1 - step / settings.steps)
        for group in (group for opt in opts for group in opt.param_groups):
            group["lr"] = settings.lr * scale
        learned = sum(int((m.labels != IGNORED).sum()) for m in micros)
        total = torch.zeros((), device=device)
        for micro in micros:
            with torch.autocast(device.type, torch.bfloat16):
                loss = loss_sum(model, micro, device) / learned
            loss.backward()
            total += loss.detach()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for opt in opts:
            opt.step()
            opt.zero_grad(set_to_none=True)
        tokens += sum(int((m.ids != 0).sum()) for m in micros)
        if step % 50 == 49 or step == start:
            running = total.item()
            rate = tokens / (time.monotonic() - began)
            log.info(
                "step %d/%d loss %.4f, %.1f M tokens, %.0f tokens/s",
                step + 1,
                settings.steps,
                running,
                tokens / 1e6,
                rate,
            )
        if device.type == "cpu":
            _trim()
        if (step + 1) % settings.save_every == 0:
            _keep(state_file, model, opts, step + 1)
    return model


def _trim() -> None:
    """Give freed memory back: glibc keeps what tensors of every past shape left, gigabytes after some hundred steps."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # another C library has none and needs none
    if trim is not None:
        trim(0)


def _restore(file: Path, model: nn.Module, opts: list[torch.optim.Optimizer]) -> int:
    """The step to go on from; 0 where nothing was kept."""
    if not file.is_file():
        return 0
    state: dict[str, Any] = torch.load(file, map_location="cpu", weights_only=True)
    model.load_state_dict(state["model"])
    for opt, kept in zip(opts, state["optimizers"], strict=True):
        opt.load_state_dict(kept)
    log.info("going on from step %d (%s)", state["step"], file)
    return state["step"]


def _keep(file: Path, model: nn.Module, opts: list[torch.optim.Optimizer], step: int) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    temporary = file.with_suffix(".tmp")
    torch.save({"model": model.state_dict(), "optimizers": [opt.state_dict() for opt in opts], "step": step}, temporary)
    temporary.replace(file)


def export(model: Any, out: Path, stop: list[int]) -> None:  # noqa: ANN401 - plain or peft
    """bf16 safetensors, adapters merged, with the ids that end a reply."""
    if hasattr(model, "merge_and_unload"):
        model = model.merge_and_unload()
    nn.Module.to(model, "cpu", torch.bfloat16)
    model.config.architectures = [type(model).__name__]
    model.generation_config = GenerationConfig(
        bos_token_id=2, eos_token_id=stop, pad_token_id=0, do_sample=True, temperature=1.0
    )
    model.save_pretrained(str(out))
