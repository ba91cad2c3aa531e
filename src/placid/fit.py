"""How a study lies on given GPUs: tensor parallel, cache, context, ZeRO stage, micro-batches; and why.

`placid plan --site` prints what is chosen here as overrides; nothing is chosen behind a user's back, and a key that was
given as an override stays as it is. Memory follows from config.json (models.py) and the site's profile, training from
train/planner.py. Speed is the data sheet's times what one H200 reached of it at Gemma-3-27B's shape (LAB.md).
"""

import math
from collections.abc import Collection
from typing import Any, NamedTuple

from placid import models
from placid.cluster.preflight import USABLE
from placid.cluster.site import SiteSettings
from placid.records import BadInputError
from placid.rollout.planned import plan as planned
from placid.rollout.schedule import FILL
from placid.study.settings import StudySettings, rollout_settings
from placid.train import planner

GIB = 2**30
WORKING = 6.5 * GIB
"""Of a GPU, beside weights and cache: activations of a step, logits, CUDA graphs. With it the two caches come out that
were run beside 51 GiB of weights: 68 GiB on an H200, 14 GiB on an H100 (LAB.md)."""
ROUND_GIB = 8
"""A cache of at least so many GiB is chosen in whole ones."""
MOST_OPEN = 256
"""Conversations of one engine at once. Measured up to 103; with many more, arithmetic and not memory is the limit."""
WEIGHTS_READ, CACHE_READ = 0.71, 0.64
"""Share of the data sheet's bandwidth at which a step reads weights and cache: 15.7 ms and 0.19 ms a conversation of
1,900 tokens at the 27B shape on one H200 (LAB.md: 24.0, 29.3 and 32.3 ms with 42, 72 and 84 of them)."""
STEP_S = 0.005
"""A step takes that long at least: samplers, norms, and what lies between kernels (LAB.md: 4.8 ms)."""


class Card(NamedTuple):
    """Data sheet of a GPU."""

    bandwidth: float
    """Bytes a second of its memory."""
    peak: float
    """Dense bfloat16 FLOP/s."""


CARDS = {"h200": Card(4.8e12, 989e12), "h100": Card(3.35e12, 989e12), "a100": Card(2.04e12, 312e12)}


class Fit(NamedTuple):
    """What was chosen for a study on a site."""

    chosen: dict[str, Any]
    """Dotted key of the study → value, where the config has another."""
    rates: dict[str, Any]
    """Keys of a profile in plan.toml that follow from the GPUs; its turns_per_s no longer holds."""
    lines: list[str]
    """For a person: what, and why."""


def fit(settings: StudySettings, site: SiteSettings, said: Collection[str] = ()) -> Fit:
    """Choose for `settings` on `site`. said: dotted keys that the user gave; they stay.

    Raises:
        BadInputError: weights and one conversation do not fit, or training does not; says what would help each.
    """
    if settings.engine.kind != "vllm" or not site.gpus_per_node:
        return Fit({}, {}, [])
    unknown = "" if site.gpu_memory_gb else "no gpu_memory_gb is given (--site.gpu_memory_gb N, GiB of a GPU)"
    if settings.engine.dtype != "bfloat16":
        unknown = "it is counted for engine.dtype = bfloat16 only"
    if unknown:
        return Fit({}, {}, [f"engine      what fits is not known: {unknown}"])
    known = next((name for name in CARDS if site.gpu_type.lower().startswith(name)), "")
    card = CARDS[known or "h100"]
    found, refused = Fit({}, {}, []), list[str]()
    for part in (_engine, _training):
        try:
            more = part(settings, site, said, card)
        except BadInputError as error:  # both are told at once
            refused.append(str(error))
        else:
            found = Fit(found.chosen | more.chosen, found.rates | more.rates, found.lines + more.lines)
    if refused:
        raise BadInputError("; and for training: ".join(refused))
    kind = known.upper() if known else "an H100: gpu_type names none that is known"
    speed = (
        f"speed       {card.bandwidth / 1e12:g} TB/s and {card.peak / 1e12:g} TFLOP/s ({kind}) times what one H200 "
        "reached of its own at the 27B shape; messages between the GPUs of an engine are not counted"
    )
    return Fit(found.chosen, found.rates, [*found.lines, speed])


def _engine(settings: StudySettings, site: SiteSettings, said: Collection[str], card: Card) -> Fit:
    """Tensor parallel, cache, open conversations, context."""
    model, engine = models.read(settings.model), settings.engine
    turns = max(arm.turns for arm in settings.arms.values())
    expected = models.final_tokens(turns, settings.max_tokens)
    most = turns * (settings.max_tokens + models.USER_TOKENS) + models.PROMPT_TOKENS
    context = engine.context_tokens
    if "engine.context_tokens" not in said and not expected <= context <= model.context_tokens:
        context = min(model.context_tokens, 1024 * math.ceil(most / 1024))
    split, why = _split(model, expected, site, _given(engine.tensor_parallel, "tensor_parallel", said))
    each = model.kv_bytes(expected, split)
    room = _usable(site) - 2 * model.parameters / split
    useful = math.ceil(MOST_OPEN * each / FILL / GIB)
    whole = int(room / GIB) if room >= ROUND_GIB * GIB else math.floor(100 * room / GIB) / 100
    kv = _given(engine.kv_gib, "kv_gib", said) or min(useful, whole)
    if kv * GIB > room:
        raise BadInputError(
            f"engine.kv_gib = {kv:g}, but beside {2 * model.parameters / split / GIB:.1f} GiB of weights a GPU of "
            f"{site.gpu_memory_gb:g} GiB has room for {room / GIB:.1f}; lower it, or raise engine.tensor_parallel"
        )
    held, engines = int(kv * GIB / each), site.nodes * site.engines(split)
    # admission keeps more of them active than whole ones fit: most are not at their last turn
    most_open = min(MOST_OPEN, held * (2 if settings.schedule == "admission" else 1))
    at_once = _given(engine.max_concurrent, "max_concurrent", said) or max(1, most_open)
    values = {"tensor_parallel": split, "kv_gib": kv, "max_concurrent": at_once, "context_tokens": context}
    chosen = {f"engine.{key}": value for key, value in values.items() if value != getattr(engine, key)}
    if engines != settings.workers:
        chosen["workers"] = engines
    share = len(planned(rollout_settings(settings))) / engines
    lengths = [models.final_tokens(turn, settings.max_tokens) for turn in range(1, turns + 1)]
    mean = sum(model.kv_bytes(length, split) for length in lengths) / turns
    n = max(1.0, min(FILL * kv * GIB / mean, at_once, share))
    read = 2 * model.parameters / WEIGHTS_READ + n * split * mean / CACHE_READ
    rates = {
        "gpus": split,
        "turns_per_s": None,
        "speed": "speed from the GPUs",
        "reply_tokens_per_s": n / max(STEP_S, read / (split * card.bandwidth)),
    }
    enough = f"enough for {MOST_OPEN}" if kv == useful else f"{room / GIB:.1f} are left"
    lines = [
        f"engine      tensor_parallel = {split}, {site.engines(split)} engine(s) a node: {why}",
        f"cache       kv_gib = {kv:g} a GPU ({enough}): about {held:,} whole conversations an engine, "
        f"max_concurrent = {at_once}",
        f"context     context_tokens = {context:,}, the model reads {model.context_tokens:,}: a conversation is "
        f"expected to reach {expected:,}, from a short question at most {most:,}",
    ]
    return Fit(chosen, rates, lines)


def _given(value: Any, key: str, said: Collection[str]) -> Any:  # noqa: ANN401 - a setting's value
    """The engine's setting where the user gave it, else None."""
    return value if f"engine.{key}" in said else None


def _usable(site: SiteSettings) -> float:
    """Bytes of one GPU for weights and cache."""
    return site.gpu_memory_gb * GIB * USABLE - WORKING


def _split(model: models.Model, tokens: int, site: SiteSettings, own: int | None) -> tuple[int, str]:
    """GPUs of an engine, and why: the fewest of which the weights take at most half, else the most of a node.

    Reading the weights is the price of every step, however many speak: so at least as much is left to those who do.
    """
    weights, usable = 2 * model.parameters, _usable(site)
    parts = [n for n in range(1, site.gpus_per_node + 1) if site.gpus_per_node % n == 0 and model.heads % n == 0]
    if own and own not in parts:
        raise BadInputError(
            f"engine.tensor_parallel = {own}: {model.heads} attention heads on nodes of {site.gpus_per_node} GPU(s) "
            f"can be split into {', '.join(map(str, parts))}"
        )

    def needed(n: int) -> float:
        return weights / n + model.kv_bytes(tokens, n)

    fitting = [n for n in ([own] if own else parts) if usable >= needed(n)]
    if not fitting:
        top = own or parts[-1]
        more = next((n for n in range(top + 1, 65) if model.heads % n == 0 and usable >= needed(n)), 0)
        nodes = f" (gpus_per_node = {more})" if more > site.gpus_per_node else ""
        helps = [f"engine.tensor_parallel = {more}{nodes}"] if more else []
        helps.append(f"GPUs of {math.ceil((needed(top) + WORKING) / USABLE / GIB)} GiB")
        raise BadInputError(
            f"{model.folder.name} does not fit: {weights / GIB:.1f} GiB of weights and "
            f"{model.kv_bytes(tokens) / GIB:.2f} GiB for one conversation, but {top} GPU(s) of "
            f"{site.gpu_memory_gb:g} GiB have {max(0.0, top * usable) / GIB:.1f} GiB for them; what would help: "
            f"{' or '.join(helps)}"
        )
    split = next((n for n in fitting if weights <= n * usable / 2), fitting[-1])
    room = split * usable
    why = "at most half" if weights <= room / 2 else "more than half, but no more GPUs can share an engine"
    return split, (
        f"{weights / GIB:.1f} GiB of weights take {weights / room:.0%} of {room / GIB:.0f} GiB "
        f"({USABLE:.0%} of {site.gpu_memory_gb:g} a GPU, less {WORKING / GIB:g}); {'as given' if own else why}"
    )


def _training(settings: StudySettings, site: SiteSettings, said: Collection[str], card: Card) -> Fit:
    """ZeRO stage, micro-batches, recomputation, by the recipe that arms without their own have.

    One row a pack: the planner counts packs of max_tokens, and several rows may be longer than that together.
    """
    if settings.train is None:
        return Fit({}, {}, [])
    recipe = settings.train.recipe
    if recipe.dtype != "bfloat16":
        told = f"training    dtype = {recipe.dtype}: what fits is counted for train.recipe.dtype = bfloat16 only"
        return Fit({}, {"train_tokens_per_s": None}, [told])
    ranks, rows = site.train_nodes * site.ranks(), recipe.batch * recipe.accumulate
    values: dict[str, Any] = {"processes": ranks}
    if not {"train.recipe.batch", "train.recipe.accumulate"} & set(said):
        values |= {"batch": 1, "accumulate": rows}
    taken = recipe.model_copy(update=values)
    stages = (recipe.zero,) if "train.recipe.zero" in said else (1, 2, 3)
    best = planner.plan(taken, ranks, site.gpu_memory_gb, stages=stages)
    values["zero"] = best.zero
    chosen = {f"train.recipe.{key}": value for key, value in values.items() if value != getattr(recipe, key)}
    busy, packs = min(ranks, rows), min(ranks, rows) * taken.micro_batches(ranks)
    again = (best.recompute, best.recompute_mlp)
    hours = planner.gpu_hours(planner.shape_of(recipe.model), taken, 10**6, again) / recipe.epochs
    rate = 1e6 / 3600 / hours * card.peak / planner.PEAK * busy / ranks
    nodes = math.ceil(busy / site.ranks())
    spare = f"; --site.train_nodes {nodes} would do" if nodes < site.train_nodes and best.zero < 3 else ""
    lines = [
        f"training    {best.sentence().rpartition(';')[0]}",
        f"            {rows} rows of at most {recipe.max_tokens:,} tokens a step, {math.ceil(rows / packs)} at a time "
        f"on {busy} of {ranks} GPU(s){spare}; recomputation is chosen again from the memory that training finds",
    ]
    return Fit(chosen, {"train_tokens_per_s": rate}, lines)
