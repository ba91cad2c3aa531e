"""The trained module: base checkpoint + LoRA, loss on learned tokens only, and its way out to a folder."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from placid.records import BadInputError
from placid.render import Rendered
from placid.train.settings import TrainSettings


class Batch(NamedTuple):
    """Rows of one rank, padded on the right. Only positions that predict a learned token are listed."""

    ids: Tensor
    """[B, L] token ids."""
    row: Tensor
    """[N] row of each predicting position."""
    column: Tensor
    """[N] column of each predicting position."""
    label: Tensor
    """[N] the token that follows it."""


def collate(rows: list[Rendered], device: torch.device) -> Batch:
    """Right padding needs no attention mask: under causal attention no real token sees what stands after it."""
    longest = max(len(row.ids) for row in rows)
    ids = torch.zeros(len(rows), longest, dtype=torch.long)
    spots: list[tuple[int, int, int]] = []
    for number, row in enumerate(rows):
        ids[number, : len(row.ids)] = torch.tensor(row.ids)
        spots += [(number, at - 1, row.ids[at]) for at in range(1, len(row.ids)) if row.learn[at]]
    where = torch.tensor(spots, dtype=torch.long).reshape(-1, 3).T
    return Batch(*(part.to(device) for part in (ids, *where)))


class Learner(nn.Module):
    """A causal language model whose forward is the summed loss of the learned tokens.

    The vocabulary projection runs on predicting positions only: a target is a tenth of its row, and with 262k
    tokens the projection would be most of the work and of the memory.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    @property
    def causal(self) -> Any:  # noqa: ANN401 - a transformers model, plain or below peft
        """The transformers model itself."""
        return self.model.get_base_model() if hasattr(self.model, "get_base_model") else self.model  # type: ignore[operator]

    def forward(self, ids: Tensor, row: Tensor, column: Tensor, label: Tensor) -> Tensor:
        """Sum over the N labels of -log p(label); see Batch for the shapes."""
        hidden = self.causal.get_decoder()(input_ids=ids, use_cache=False).last_hidden_state
        logits = self.causal.lm_head(hidden[row, column]).float()
        cap = getattr(self.causal.config.get_text_config(), "final_logit_softcapping", None)
        if cap is not None:
            logits = torch.tanh(logits / cap) * cap
        return functional.cross_entropy(logits, label, reduction="sum")


def build(settings: TrainSettings) -> Learner:
    """Load the base and put the adapter on. Under ZeRO-3 the caller holds an HfDeepSpeedConfig alive."""
    from transformers import AutoModelForCausalLM

    dtype = getattr(torch, settings.dtype)
    model = AutoModelForCausalLM.from_pretrained(
        str(settings.model), dtype=dtype, local_files_only=True, attn_implementation="sdpa"
    )
    if settings.checkpointing:
        model.gradient_checkpointing_enable({"use_reentrant": False})
        model.enable_input_require_grads()
    torch.manual_seed(settings.seed)  # the adapter's first values: equal on every rank and at every ZeRO stage
    return Learner(_adapted(model, settings) if settings.method == "lora" else model)


def _adapted(model: Any, settings: TrainSettings) -> nn.Module:  # noqa: ANN401 - a transformers model
    from peft import LoraConfig, get_peft_model

    lora = settings.lora
    vision = any("vision_tower" in name for name, _ in model.named_modules())
    config = LoraConfig(
        task_type="CAUSAL_LM",
        r=lora.rank,
        lora_alpha=cast("int", lora.alpha),  # peft takes a float as well
        lora_dropout=lora.dropout,
        target_modules=list(lora.targets),
        exclude_modules=r".*vision_tower.*" if vision else None,
        bias="none",
    )
    try:
        return get_peft_model(model, config)
    except ValueError as error:  # peft: no module matches
        wanted = ", ".join(lora.targets)
        raise BadInputError(f"lora.targets = {wanted}: {settings.model} has no such module ({error})") from None


@contextmanager
def whole(parameters: list[nn.Parameter], zero: int) -> Iterator[None]:
    """Inside, ZeRO-3 parameters hold their full values (a collective: every rank must enter)."""
    if zero < 3:
        yield
        return
    import deepspeed

    with deepspeed.zero.GatheredParameters(parameters):
        yield


def weights(learner: Learner, zero: int) -> dict[str, Tensor]:
    """Trained tensors by name, copied to the CPU; every rank must call it.

    Raises:
        RuntimeError: a tensor is empty (a ZeRO-3 shard that was not gathered would be exported as a no-op).
    """
    state: dict[str, Tensor] = {}
    for name, parameter in learner.model.named_parameters():
        if parameter.requires_grad:
            with whole([parameter], zero):
                state[name] = parameter.detach().cpu().clone()
    refuse_empty(state.items())
    return state


def refuse_empty(state: Iterable[tuple[str, Tensor]]) -> None:
    """Raises RuntimeError if nothing, an empty tensor or a tensor that is not finite would be exported."""
    tensors = list(state)
    bad = [name for name, tensor in tensors if not tensor.numel() or not torch.isfinite(tensor).all()]
    if bad or not tensors:
        raise RuntimeError(
            f"export refused: {len(bad)} of {len(tensors)} tensors are empty or not finite, e.g. {bad[:2]}"
        )


def export(learner: Learner, state: dict[str, Tensor], folder: Path, settings: TrainSettings) -> None:
    """Write `state` as a PEFT adapter (keys of the served text model), or as a whole model folder. Rank 0 only."""
    model: Any = learner.model
    if settings.method == "full":
        model.save_pretrained(folder, state_dict={name: t.to(torch.bfloat16) for name, t in state.items()})
        for file in settings.model.iterdir():  # tokenizer and chat template travel with the weights
            if file.is_file() and not (folder / file.name).exists() and file.suffix != ".safetensors":
                (folder / file.name).write_bytes(file.read_bytes())
        return
    from peft import get_peft_model_state_dict
    from safetensors.torch import save_file

    adapter = get_peft_model_state_dict(model, state_dict=state, save_embedding_layers=False)
    refuse_empty(adapter.items())
    save_file({name: tensor.contiguous() for name, tensor in adapter.items()}, folder / "adapter_model.safetensors")
    config = model.peft_config["default"]
    config.inference_mode = True
    config.base_model_name_or_path = str(settings.model)
    config.save_pretrained(str(folder))
