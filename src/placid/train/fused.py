"""Less memory traffic and less kept memory per layer, the same numbers: compiled norms and gates, recomputed MLPs.

Written out op by op in float32, Gemma 3's four norms a layer keep about 260 kB per token for the backward pass at
27B, more than all its matrix products; compiled to one kernel each they keep their input. What remains is mostly the
two inputs of the gate (86 kB per token), which can be recomputed by themselves: two of a layer's products, not all.
"""

from functools import cache
from types import MethodType
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint


def fuse(model: nn.Module) -> None:
    """Compile the norms and gates of a Gemma 3 on the GPU. Nothing else is changed: other models, the CPU."""
    for module in model.modules():
        if type(module).__name__ == "Gemma3RMSNorm":
            module.forward = MethodType(_norm_forward, module)


def recompute(model: Any, layers: float, mlps: float = 0.0) -> None:  # noqa: ANN401 - a transformers model
    """Recompute the activations of a share `layers` of the layers, and of a share `mlps` of the rest their MLPs'.

    The whole layers come first. May be called again with other shares.
    """
    decoder = model.get_decoder().layers
    whole = round(layers * len(decoder))
    if whole:
        model.gradient_checkpointing_enable({"use_reentrant": False})
    else:
        model.gradient_checkpointing_disable()
    for at, layer in enumerate(decoder):
        layer.gradient_checkpointing = at < whole
        mlp = layer.mlp
        if hasattr(mlp, "gate_proj"):
            mlp.placid_recompute = whole <= at < whole + round(mlps * (len(decoder) - whole))
            mlp.forward = MethodType(_mlp_forward, mlp)


def _mlp_forward(mlp: Any, x: Tensor) -> Tensor:  # noqa: ANN401 - a gated MLP of transformers
    def inner(x: Tensor) -> Tensor:
        gate, up = mlp.gate_proj(x), mlp.up_proj(x)
        tanh = x.is_cuda and type(mlp).__name__ == "Gemma3MLP"
        return mlp.down_proj(_compiled_gate()(gate, up) if tanh else mlp.act_fn(gate) * up)

    if mlp.placid_recompute and torch.is_grad_enabled():
        return cast("Tensor", checkpoint(inner, x, use_reentrant=False))
    return inner(x)


def _norm_forward(norm: Any, x: Tensor) -> Tensor:  # noqa: ANN401 - a Gemma3RMSNorm
    return (_compiled_norm() if x.is_cuda else _norm)(x, norm.weight, norm.eps)


def _norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """As in transformers: all of it in float32, the weight counted from 1."""
    wide = x.float()
    return (wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + eps) * (1.0 + weight.float())).type_as(x)


def _gate(gate: Tensor, up: Tensor) -> Tensor:
    return functional.gelu(gate, approximate="tanh") * up


@cache
def _compiled_norm() -> Any:  # noqa: ANN401 - torch.compile's wrapper
    return torch.compile(_norm)


@cache
def _compiled_gate() -> Any:  # noqa: ANN401 - torch.compile's wrapper
    return torch.compile(_gate)
