"""The trained module: base checkpoint + LoRA, loss on learned tokens only, and its way out to a folder."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from placid.checkpoint_files import copy_beside
from placid.records import BadInputError
from placid.render import Rendered
from placid.train import attention, fused, tree
from placid.train.data import Example
from placid.train.losses import Loss, of
from placid.train.settings import TrainSettings

CHUNK = 1024
"""Labels whose logits exist at one time: with 262k tokens about 2.7 GB in bfloat16, float32 and gradient."""
NOT_TEXT = ("vision_tower", "multi_modal_projector")
"""Parts of a multimodal Gemma 3 that are never trained."""
BLOCK = 512
"""Packs are padded to a multiple of this on a GPU: four of FlexAttention's blocks."""


class Batch(NamedTuple):
    """Rows of one rank, packed into one sequence of L tokens (tree.py). Only places that predict are listed."""

    ids: Tensor
    """[L] token ids."""
    position: Tensor
    """[L] position of each token in its own row."""
    end: Tensor
    """[L] one past the last token that may see this one."""
    place: Tensor
    """[N] where a learned token is predicted from."""
    label: Tensor
    """[N] that token."""
    token: Tensor
    """[N] where that token itself stands."""
    row: Tensor
    """[N] the row that it belongs to, in the order given."""
    rows: int


def collate(rows: Sequence[Rendered], device: torch.device, share: bool = True, multiple: int = 1) -> Batch:
    """Pack `rows`, padded to a multiple of `multiple` tokens that nothing sees and that see only themselves."""
    packed = tree.pack([row.ids for row in rows], share)
    pad = -len(packed.ids) % multiple
    length = len(packed.ids)
    ids = torch.tensor(packed.ids + [0] * pad)
    position = torch.tensor(packed.position + [0] * pad)
    end = torch.tensor(packed.end + [length + n + 1 for n in range(pad)])
    spots = [
        (places[at - 1], row.ids[at], places[at], number)
        for number, (row, places) in enumerate(zip(rows, packed.places, strict=True))
        for at in range(1, len(row.ids))
        if row.learn[at]
    ]
    where = torch.tensor(spots, dtype=torch.long).reshape(-1, 4).T
    return Batch(*(part.to(device) for part in (ids, position, end, *where)), rows=len(rows))


class Learner(nn.Module):
    """A causal language model whose forward is the summed loss of some examples.

    The vocabulary projection runs on predicting positions only: a target is a tenth of its row, and with 262k
    tokens the projection would be most of the work and of the memory.
    """

    def __init__(self, model: nn.Module, loss: Loss, share: bool = True) -> None:
        """share: rows with a common prefix compute it once."""
        super().__init__()
        self.model = model
        self.loss = loss
        self.share = share

    @property
    def causal(self) -> Any:  # noqa: ANN401 - a transformers model, plain or below peft
        """The transformers model itself."""
        return self.model.get_base_model() if hasattr(self.model, "get_base_model") else self.model  # type: ignore[operator]

    @property
    def layers(self) -> Any:  # noqa: ANN401 - an nn.ModuleList
        """Its decoder layers."""
        return self.causal.get_decoder().layers

    def forward(self, examples: Sequence[Example]) -> Tensor:
        """The loss's weighted sum over the examples."""
        return self.loss.total(self, examples)

    def pack(self, rows: Sequence[Rendered]) -> Batch:
        """Rows as one sequence on this model's device."""
        device = next(self.parameters()).device
        return collate(rows, device, self.share, BLOCK if device.type == "cuda" else 1)

    def states(self, batch: Batch) -> Tensor:
        """[L, D] last hidden states, after the final norm."""
        config = self.causal.config.get_text_config()
        return self.causal.get_decoder()(
            input_ids=batch.ids[None],
            position_ids=batch.position[None],
            attention_mask=attention.masks(config, batch.position, batch.end),
            use_cache=False,
        ).last_hidden_state[0]

    def token_losses(self, states: Tensor, label: Tensor) -> Tensor:
        """[N] -log p(label) in float32 from [N, D] states."""
        cap = getattr(self.causal.config.get_text_config(), "final_logit_softcapping", None)
        return losses(self.causal.lm_head, states, label, cap)

    def in_chunks(self, what: Callable[[Tensor, Tensor], Tensor], states: Tensor, others: Tensor) -> Tensor:
        """[N] what(logits of states, logits of others), few logits at a time; both [N, D]."""
        head = self.causal.lm_head

        def some(left: Tensor, right: Tensor) -> Tensor:
            return what(head(left).float(), head(right).float())

        pieces = zip(states.split(CHUNK // 2), others.split(CHUNK // 2), strict=True)
        return torch.cat([cast("Tensor", checkpoint(some, *piece, use_reentrant=False)) for piece in pieces])

    @contextmanager
    def untrained(self) -> Iterator[None]:
        """Inside, the model is the base without its adapter, and nothing is kept for a backward pass."""
        with torch.no_grad(), self.model.disable_adapter():  # type: ignore[operator]
            yield


def losses(head: nn.Module, hidden: Tensor, label: Tensor, cap: float | None) -> Tensor:
    """[N] -log p(label) in float32; hidden: [N, D]. Beyond CHUNK labels, logits are recomputed in the backward pass.

    cap: the model's final_logit_softcapping.
    """

    def some(states: Tensor, wanted: Tensor) -> Tensor:
        logits = head(states).float()
        if cap is not None:
            logits = torch.tanh(logits / cap) * cap
        return functional.cross_entropy(logits, wanted, reduction="none")

    if len(label) <= CHUNK:
        return some(hidden, label)
    pieces = zip(hidden.split(CHUNK), label.split(CHUNK), strict=True)
    parts = [cast("Tensor", checkpoint(some, states, wanted, use_reentrant=False)) for states, wanted in pieces]
    return torch.cat(parts)


def build(settings: TrainSettings) -> Learner:
    """Load the base and put the adapter on. Under ZeRO-3 the caller holds an HfDeepSpeedConfig alive."""
    from transformers import AutoModelForCausalLM

    attention.register()
    dtype = getattr(torch, settings.dtype)
    model = AutoModelForCausalLM.from_pretrained(
        str(settings.model),
        dtype=dtype,
        local_files_only=True,
        attn_implementation=attention.NAME,
        trust_remote_code=False,
        use_safetensors=True,
    )
    fused.recompute(model, settings.recompute or 0.0, settings.recompute_mlp)
    if torch.cuda.is_available():
        fused.fuse(model)
    torch.manual_seed(settings.seed)  # the adapter's first values: equal on every rank and at every ZeRO stage
    if settings.method == "full":
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(not any(part in name for part in NOT_TEXT))
    adapted = _adapted(model, settings) if settings.method == "lora" else model
    return Learner(adapted, of(settings), settings.share_prefixes)


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


def weights(learner: Learner, settings: TrainSettings) -> dict[str, Tensor]:
    """The tensors to export by name, copied to the CPU: the adapter's, or all of the model's. Every rank must call it.

    Raises:
        RuntimeError: a tensor is empty (a ZeRO-3 shard that was not gathered would be exported as a no-op).
    """
    state: dict[str, Tensor] = {}
    for name, parameter in learner.model.named_parameters():
        if parameter.requires_grad or settings.method == "full":
            with whole([parameter], settings.zero):
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
        copy_beside(settings.model, folder)
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
