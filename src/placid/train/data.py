"""Rows → token ids with a mask → optimizer steps, the same for every number of processes → packs per rank. Pure."""

import hashlib
import json
from collections.abc import Callable, Sequence
from typing import NamedTuple

from placid.records import BadInputError, Pair
from placid.render import Rendered, Renderer
from placid.train import tree


class Step(NamedTuple):
    """One optimizer step: its row numbers, those that share a prefix side by side, and what they hold."""

    rows: list[int]
    tokens: int
    """Tokens of all rows, context and target; a shared prefix counts for every row."""
    learned: int
    """Tokens that carry loss: the divisor of the step's loss."""


def encode(renderer: Renderer, pairs: Sequence[Pair], max_tokens: int) -> tuple[list[Rendered], int]:
    """Rendered rows that fit into `max_tokens`, and how many did not.

    Raises:
        BadInputError: no row fits.
    """
    rows = [renderer.example(pair.messages, pair.target) for pair in pairs]
    kept = [row for row in rows if len(row.ids) <= max_tokens]
    if not kept:
        shortest = min((len(row.ids) for row in rows), default=0)
        raise BadInputError(
            f"none of {len(rows)} training rows fits max_tokens = {max_tokens}; the shortest has {shortest}"
        )
    return kept, len(rows) - len(kept)


def plan(rows: Sequence[Rendered], batch: int, epochs: int, seed: int, share: bool = True) -> list[Step]:
    """Which rows meet in which step of `batch` rows: every row once an epoch, in seeded order.

    With `share`, rows of one conversation come together so that their common prefix is computed once, but they fill
    half a step at most: a step of one conversation alone would be a poor estimate of the gradient.
    """
    most = max(1, batch // 2) if share else 1
    groups = tree.families([row.ids for row in rows], most)
    steps: list[Step] = []
    for epoch in range(epochs):
        ranked = sorted(range(len(groups)), key=lambda group: _draw(seed, epoch, groups[group]))
        order = [row for group in ranked for row in groups[group]]
        steps += [_step(rows, order[at : at + batch]) for at in range(0, len(order), batch)]
    return steps


def _step(rows: Sequence[Rendered], numbers: list[int]) -> Step:
    return Step(numbers, sum(len(rows[n].ids) for n in numbers), sum(sum(rows[n].learn[1:]) for n in numbers))


def spread(rows: Sequence[Rendered], step: Step, packs: int, share: bool = True) -> list[list[int]]:
    """The step's rows in `packs` packs (micro-batches x ranks) of about equal work, each row in exactly one.

    Rows that share a prefix stay in one pack unless it would be the one that all others wait for.
    """

    def cost(unit: list[int]) -> int:
        return tree.size([rows[n].ids for n in unit], share)

    families = tree.families([rows[n].ids for n in step.rows], len(step.rows) if share else 1)
    units = [[step.rows[at] for at in family] for family in families]
    laid = _laid(units, packs, cost)
    while True:
        largest = max(units, key=cost)
        if len(largest) == 1:
            return laid
        half = len(largest) // 2
        units = [unit for unit in units if unit is not largest] + [largest[:half], largest[half:]]
        finer = _laid(units, packs, cost)
        if max(map(cost, finer)) >= max(map(cost, laid)):
            return laid
        laid = finer


def _laid(units: Sequence[list[int]], packs: int, cost: Callable[[list[int]], int]) -> list[list[int]]:
    """Largest first, each unit into the pack with least work so far."""
    bins: list[list[int]] = [[] for _ in range(packs)]
    load = [0] * packs
    for size, unit in sorted(((cost(unit), unit) for unit in units), key=lambda item: (-item[0], item[1])):
        at = load.index(min(load))
        bins[at].extend(unit)
        load[at] += size
    return bins


def learning_rate(step: int, steps: int, warmup: float) -> float:
    """Factor on the peak learning rate at `step` (0..steps-1): linear up over the warmup, linear down to 0."""
    rising = int(steps * warmup)
    if step < rising:
        return (step + 1) / (rising + 1)
    return max(0.0, (steps - step) / max(1, steps - rising))


def _draw(*parts: object) -> bytes:
    """A sort key that depends on `parts` alone."""
    return hashlib.sha256(json.dumps(parts).encode()).digest()
