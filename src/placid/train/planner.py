"""What fits, before anything is launched: bytes on each GPU, and from them ZeRO stage, recomputation, micro-batches.

All arithmetic is per GPU and in bytes, for bfloat16 weights with float32 masters and AdamW moments, and for the kernels
of fused.py. Model states are those of DeepSpeed's own estimators; what one GPU held in benchmarks/results/ is met
within 2 % (tests/test_planner.py). No GPU is needed and no weight is read: config.json says all (models.py).
"""

import math
from collections import Counter
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import NamedTuple

from placid import models
from placid.records import BadInputError
from placid.train.settings import TrainSettings

GIB = 2**30
RESERVE = 2.5 * GIB
"""CUDA context, NCCL buffers, cuBLAS workspaces."""
FRAGMENTED = 0.95
"""Share of the rest that an allocator can really hand out."""
CHUNK = 1024
"""Labels whose logits exist at one time (model.CHUNK)."""
_MLPS = ((0.0, 0.0), (0.0, 0.25), (0.0, 0.5), (0.0, 0.75), (0.0, 1.0))
LADDER = (*_MLPS, (0.25, 1.0), (0.5, 1.0), (0.75, 1.0), (1.0, 0.0))
"""(share of layers recomputed, share of the rest whose MLP is), from fast to small."""
EFFICIENCY = 0.45
"""Share of the data sheet's FLOP/s that all products reach, recomputed ones included. Measured with LoRA on one
H100 at Gemma-3-27B's shape: 0.47 on plain rows, 0.49 on trees (benchmarks/results/train_throughput_h100.json)."""
PEAK = 989e12
"""Dense bfloat16 FLOP/s of an H100 or H200 (data sheet)."""


class Shape(NamedTuple):
    """The sizes of a decoder's text part that decide about memory and time, read off its weights."""

    parameters: int
    """All of them, tied weights once; without a vision tower."""
    layers: int
    layer_parameters: int
    width: int
    mlp: int
    query: int
    """Heads x head size."""
    key: int
    """The same of keys, and of values."""
    vocabulary: int
    projections: dict[str, int]
    """Name → inputs + outputs of the linear maps of that name in all layers: what LoRA's A and B hold per rank."""


class Plan(NamedTuple):
    """One way that fits."""

    zero: int
    accumulate: int
    recompute: float
    recompute_mlp: float
    gib: dict[str, float]
    """What lies on each GPU, by what it is, and its total; `available`: what the total may be."""
    gpu_hours: float
    """For the rows given, at EFFICIENCY; without loading and saving."""

    def sentence(self) -> str:
        """For a person."""
        own = {name: value for name, value in self.gib.items() if name not in ("total", "available")}
        parts = ", ".join(f"{name} {value:.1f}" for name, value in own.items())
        again = f"{self.recompute:.0%} of the layers and the MLPs of {self.recompute_mlp:.0%} of the others"
        return (
            f"ZeRO {self.zero}, {self.accumulate} micro-batches a step, recompute {again}: {self.gib['total']:.1f} "
            f"of {self.gib['available']:.1f} GiB a GPU ({parts}); about {self.gpu_hours:.2f} GPU-hours"
        )


@cache
def shape_of(model: Path) -> Shape:
    """The shape of a checkpoint folder, of which config.json is enough. Kept: a process plans for one model.

    Raises:
        BadInputError: no config.json, an unknown architecture, or a decoder without the usual projections.
    """
    weights = models.read(model).weights
    first = {name.removeprefix("layers.0."): size for name, size in weights.items() if name.startswith("layers.0.")}
    maps = {name.split(".")[-2]: size for name, size in first.items() if len(size) == 2}
    ends: Counter[str] = Counter()
    for name, size in weights.items():
        if name.startswith("layers.") and len(size) == 2:
            ends[name.split(".")[-2]] += sum(size)
    odd = [name for name in ("q_proj", "k_proj", "gate_proj") if name not in maps]
    if odd:
        raise BadInputError(f"{model}: no {odd[0]} in its layers; the planner knows decoders like Gemma and Llama")
    vocabulary, width = weights["embed_tokens.weight"]
    return Shape(
        parameters=sum(map(math.prod, weights.values())),
        layers=len({name.split(".")[1] for name in weights if name.startswith("layers.")}),
        layer_parameters=sum(map(math.prod, first.values())),
        width=width,
        mlp=maps["gate_proj"][0],
        query=maps["q_proj"][0],
        key=maps["k_proj"][0],
        vocabulary=vocabulary,
        projections=dict(ends),
    )


def trained_parameters(shape: Shape, settings: TrainSettings) -> int:
    """How many weights get a gradient."""
    if settings.method == "full":
        return shape.parameters
    ends = [shape.projections.get(target, 0) for target in settings.lora.targets]
    return settings.lora.rank * sum(ends)


def bytes_on_gpu(
    shape: Shape, settings: TrainSettings, gpus: int, zero: int, recompute: tuple[float, float]
) -> dict[str, float]:
    """Bytes on each of `gpus` GPUs while one pack of settings.max_tokens tokens is trained on."""
    trained, split = trained_parameters(shape, settings), float(gpus)
    weights = 2.0 * (shape.parameters + (trained if settings.method == "lora" else 0))
    # bfloat16 gradients, split from ZeRO 2 on; their float32 copy for AdamW, split from ZeRO 1 on
    gradients = 2.0 * trained / (split if zero >= 2 else 1.0) + 4.0 * trained / (split if zero else 1.0)
    return {
        "weights": weights / split if zero == 3 else weights,
        "gradients": gradients,
        "optimizer": 0.0 if settings.offload and zero else 12.0 * trained / (split if zero else 1.0),
        "activations": activations(shape, settings.max_tokens, *recompute, settings.method == "full"),
        # bfloat16, float32 and its gradient
        "logits": 10.0 * min(CHUNK, settings.max_tokens) * shape.vocabulary,
        "gathered": 4.0 * max(shape.layer_parameters, shape.vocabulary * shape.width) if zero == 3 else 0.0,
        "reserve": float(RESERVE),
    }


def activations(shape: Shape, tokens: int, layers: float, mlps: float, full: bool) -> float:
    """Bytes kept for the backward pass, and the one layer that is being recomputed."""
    # inputs of four norms and of the adapters; queries and keys before and after their norm; values; attention's output
    attention = 5 * shape.width + 2 * (shape.query + shape.key) + shape.key + shape.query
    gate = 2 * shape.mlp
    if full:  # the inputs of all products are kept for the weights' gradients
        attention += shape.width
        gate += shape.mlp
    whole = 2.0 * tokens * (attention + gate)
    without_mlp = 2.0 * tokens * (attention + shape.width)
    recomputed = round(layers * shape.layers)
    thin = round(mlps * (shape.layers - recomputed))
    kept = recomputed * 2.0 * tokens * shape.width + thin * without_mlp + (shape.layers - recomputed - thin) * whole
    return kept + (whole if recomputed or thin else 0.0)


def plan(
    settings: TrainSettings,
    gpus: int,
    memory_gib: float,
    tokens: int = 0,
    computed: int = 0,
    stages: Sequence[int] = (1, 2, 3),
) -> Plan:
    """The fastest setting that fits on `gpus` GPUs of `memory_gib` GiB each.

    ZeRO 1 before 2 before 3, and in each as little recomputation as fits: a lower stage moves less over the network.
    tokens: of all rows of an epoch (for the cost); computed: those left once shared prefixes are counted once; stages:
    of ZeRO, those that may be taken.

    Raises:
        BadInputError: nothing fits; says how much is missing and what would help.
    """
    shape = shape_of(settings.model)
    available = usable(memory_gib * GIB)
    smallest: dict[str, float] = {}
    for zero in stages if gpus > 1 else stages[:1]:
        recompute, parts = least(shape, settings, gpus, zero, available)
        if sum(parts.values()) <= available:
            gib = {name: value / GIB for name, value in parts.items()}
            gib |= {"total": sum(parts.values()) / GIB, "available": available / GIB}
            hours = gpu_hours(shape, settings, computed or tokens, recompute)
            return Plan(zero, settings.micro_batches(gpus), *recompute, gib, hours)
        if not smallest or sum(parts.values()) < sum(smallest.values()):
            smallest = parts
    raise BadInputError(_missing(shape, settings, gpus, available, smallest, stages))


def usable(memory: float) -> float:
    """How many of a GPU's bytes a plan may count on."""
    return (memory - RESERVE) * FRAGMENTED + RESERVE


def least(
    shape: Shape, settings: TrainSettings, gpus: int, zero: int, available: float
) -> tuple[tuple[float, float], dict[str, float]]:
    """The least recomputation that fits at a ZeRO stage and the bytes then; if none fits, the one that needs least."""
    needs = [(rung, bytes_on_gpu(shape, settings, gpus, zero, rung)) for rung in LADDER]
    fitting = (need for need in needs if sum(need[1].values()) <= available)
    return next(fitting, min(needs, key=lambda need: sum(need[1].values())))


def at_hand(settings: TrainSettings, gpus: int, memory: float) -> TrainSettings:
    """The settings with their recomputation chosen for GPUs of `memory` bytes.

    Raises:
        BadInputError: nothing fits.
    """
    shape, available = shape_of(settings.model), usable(memory)
    (layers, mlps), parts = least(shape, settings, gpus, settings.zero, available)
    if sum(parts.values()) > available:
        raise BadInputError(_missing(shape, settings, gpus, available, parts, (settings.zero,)))
    return settings.model_copy(update={"recompute": layers, "recompute_mlp": mlps})


def gpu_hours(shape: Shape, settings: TrainSettings, tokens: int, recompute: tuple[float, float]) -> float:
    """Hours of one GPU for `tokens` computed tokens an epoch, times the epochs."""
    layers, mlps = recompute
    forward = 2.0 * shape.parameters
    again = forward * layers + (1 - layers) * mlps * 2.0 * shape.layers * 2 * shape.width * shape.mlp
    a_token = 2 * forward + 2.0 * trained_parameters(shape, settings) + again
    if settings.loss != "cross_entropy":
        a_token += forward  # the untrained model's pass
    return settings.epochs * tokens * a_token / (EFFICIENCY * PEAK) / 3600


def _missing(
    shape: Shape,
    settings: TrainSettings,
    gpus: int,
    available: float,
    smallest: dict[str, float],
    stages: Sequence[int],
) -> str:
    """One sentence. smallest: the bytes of the way that needs least; stages: the ZeRO stages that could be taken."""
    needed = sum(smallest.values())
    largest = max(smallest, key=lambda name: smallest[name])

    def stage(chosen: TrainSettings, count: int) -> int | None:
        """The lowest ZeRO stage with which that fits, however much is recomputed; also one that could not be taken."""
        lowest = stages[0] if gpus > 1 else 0  # on one GPU a higher stage only takes room
        sizes = ((zero, least(shape, chosen, count, zero, available)[1]) for zero in range(lowest, 4))
        return next((zero for zero, parts in sizes if sum(parts.values()) <= available), None)

    alone = stage(settings, gpus)
    counts = [count for count in (2, 4, 8, 16, 32, 64) if count > gpus]
    more = next(((count, zero) for count in counts if (zero := stage(settings, count)) is not None), None)
    moved = None if settings.offload else stage(settings.model_copy(update={"offload": True}), gpus)
    ways = [(f"{more[0]} GPUs", more[1])] if more else []
    ways += [("offload = true", moved)] if moved is not None else []
    helps = [f"zero = {alone}"] if alone is not None else []
    for what, zero in ways:
        if alone is None or zero < alone:  # else the stage by itself is enough
            helps.append(what if zero in stages else f"{what} with zero = {zero}")
    if smallest["activations"] > needed - available:
        helps.append(f"max_tokens below {settings.max_tokens}")
    who = f"{settings.model.name} ({shape.parameters / 1e9:.1f}e9 parameters, method {settings.method})"
    return (
        f"{who} does not fit on {gpus} GPU{'s' * (gpus > 1)}: {(needed - available) / GIB:.1f} GiB a GPU are missing "
        f"of {needed / GIB:.1f}, most of them {largest} ({smallest[largest] / GIB:.1f}); "
        f"what would help: {', '.join(helps) or 'a smaller model'}"
    )
