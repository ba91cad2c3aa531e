"""Attention over packed rows: FlexAttention's blocks on a GPU, run by run on a CPU, a dense mask as the reference."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from placid.train import tree

NAME = "placid"
"""The attention's name among transformers' own: AutoModel...(attn_implementation=NAME)."""


def register() -> None:
    """Make NAME known to transformers."""
    from transformers import AttentionInterface

    AttentionInterface.register(NAME, attend)


def masks(config: Any, position: Tensor, end: Tensor) -> Any:  # noqa: ANN401 - what a transformers model takes as mask
    """The attention_mask argument of a model with this text config, for one packed sequence.

    position, end: [L], see tree.py. A dictionary by kind of layer where the model has sliding layers (Gemma 3, 2),
    else one mask.
    """
    make = _blocks if position.is_cuda else by_runs
    window = getattr(config, "sliding_window", None)
    if "sliding_attention" not in (getattr(config, "layer_types", None) or ()):
        return make(position, end, None)
    return {"full_attention": make(position, end, None), "sliding_attention": make(position, end, window)}


def dense(position: Tensor, end: Tensor, window: int | None) -> Tensor:
    """[1, 1, L, L], row = the token that looks, column = the token that is looked at."""
    at = torch.arange(len(end), device=end.device)
    sees = (at[None, :] <= at[:, None]) & (at[:, None] < end[None, :])
    if window is not None:
        sees &= position[:, None] - position[None, :] < window
    return sees[None, None]


class Runs:
    """The same mask for a CPU, where no kernel skips what a mask hides: each run looks at its own path only."""

    def __init__(self, parts: list[tuple[slice, Tensor, Tensor | None]]) -> None:
        """parts: (the run, the places it looks at [K], which of them [Q, K], or None for plain causal attention)."""
        self.parts = parts


def by_runs(position: Tensor, end: Tensor, window: int | None) -> Runs:
    """Same meaning as dense()."""
    parts: list[tuple[slice, Tensor, Tensor | None]] = []
    for run in tree.runs(position.tolist(), end.tolist()):
        # the first token of the run looks furthest back: window - 1 tokens
        before = run.before if window is None else run.before[max(0, len(run.before) - window + 1) :]
        places = torch.tensor([*before, *range(run.start, run.stop)])
        asks, seen = position[run.start : run.stop, None], position[places][None, :]
        plain = not before and (window is None or len(places) <= window)
        sees = (seen <= asks) & ((asks - seen < window) if window is not None else torch.tensor(True))
        parts.append((slice(run.start, run.stop), places, None if plain else sees))
    return Runs(parts)


def _blocks(position: Tensor, end: Tensor, window: int | None) -> Any:  # noqa: ANN401 - BlockMask
    from torch.nn.attention.flex_attention import create_block_mask

    def sees(_batch: Tensor, _head: Tensor, q: Tensor, k: Tensor) -> Tensor:
        seen = (k <= q) & (q < end[k])
        return seen if window is None else seen & (position[q] - position[k] < window)

    length = len(end)
    return create_block_mask(sees, None, None, length, length, device=str(end.device))


def attend(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Any,  # noqa: ANN401 - a dense mask, a BlockMask, or None for plain causal attention
    scaling: float | None = None,
    **more: Any,  # noqa: ANN401 - transformers passes every model's own extras
) -> tuple[Tensor, None]:
    """transformers' attention interface: query [B, H, L, D], key and value [B, H/g, L, D] in, [B, L, H, D] out."""
    del module
    if more.get("softcap") is not None:
        raise NotImplementedError("attention with softcapped scores (Gemma 2) is not built; check() refuses it")
    if isinstance(attention_mask, Runs):
        parts = [
            _sdpa(query[:, :, run], key[:, :, places], value[:, :, places], sees, scaling)
            for run, places, sees in attention_mask.parts
        ]
        out = torch.cat(parts, dim=2)
    elif attention_mask is None or isinstance(attention_mask, Tensor):
        out = _sdpa(query, key, value, attention_mask, scaling)
    else:
        grouped = key.shape[1] != query.shape[1]
        out = _flex()(query, key, value, block_mask=attention_mask, scale=scaling, enable_gqa=grouped)
    return out.transpose(1, 2).contiguous(), None


def _sdpa(query: Tensor, key: Tensor, value: Tensor, sees: Tensor | None, scaling: float | None) -> Tensor:
    grouped = key.shape[1] != query.shape[1]
    return functional.scaled_dot_product_attention(
        query, key, value, attn_mask=sees, is_causal=sees is None, scale=scaling, enable_gqa=grouped
    )


_COMPILED: list[Callable[..., Any]] = []


def _flex() -> Callable[..., Any]:
    """FlexAttention; compiled once, unless the whole layer is being compiled already."""
    from torch.nn.attention.flex_attention import flex_attention

    if torch.compiler.is_compiling():
        return flex_attention
    if not _COMPILED:
        # One kernel for all lengths: a static one is a tenth faster, but each new length takes 10 to 40 s to compile,
        # on every rank, and few trainings are so long that this pays. Past dynamo's limit of kernels (8: kinds of
        # masks, with gradients or without) it would fall back to whole score matrices.
        torch._dynamo.config.recompile_limit = 64
        _COMPILED.append(torch.compile(flex_attention, dynamic=True))
    return _COMPILED[0]
