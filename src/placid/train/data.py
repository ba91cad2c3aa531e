"""Rows → token ids with a mask → a plan of micro-batches that is the same for every number of processes. Pure."""

import hashlib
import json
from collections.abc import Sequence
from typing import NamedTuple

from placid.records import BadInputError, Pair
from placid.render import Rendered, Renderer

WINDOW = 8
"""Steps' worth of rows that are sorted by length together: less padding, order still seeded."""


class Step(NamedTuple):
    """One optimizer step: `accumulate` micro-batches of row numbers (some may be empty), and what they hold."""

    batches: list[list[int]]
    tokens: int
    """Tokens of all rows, context and target."""
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


def plan(rows: Sequence[Rendered], batch: int, accumulate: int, epochs: int, seed: int) -> list[Step]:
    """Which rows meet in which micro-batch: every row once an epoch, similar lengths together, seeded order."""
    steps: list[Step] = []
    for epoch in range(epochs):
        order = sorted(range(len(rows)), key=lambda row: _draw(seed, epoch, "row", row))
        size = WINDOW * batch * accumulate
        for window, start in enumerate(range(0, len(order), size)):
            near = sorted(order[start : start + size], key=lambda row: len(rows[row].ids))
            chunks = [near[at : at + batch] for at in range(0, len(near), batch)]
            ranked = sorted(range(len(chunks)), key=lambda chunk: _draw(seed, epoch, f"window {window}", chunk))
            for at in range(0, len(chunks), accumulate):
                chosen = [chunks[chunk] for chunk in ranked[at : at + accumulate]]
                steps.append(_step(rows, chosen + [[] for _ in range(accumulate - len(chosen))]))
    return steps


def _step(rows: Sequence[Rendered], batches: list[list[int]]) -> Step:
    numbers = [row for chunk in batches for row in chunk]
    return Step(batches, sum(len(rows[n].ids) for n in numbers), sum(sum(rows[n].learn[1:]) for n in numbers))


def share(chunk: Sequence[int], rank: int, processes: int) -> list[int]:
    """The rows of one micro-batch that belong to `rank`: disjoint over the ranks, together the whole."""
    return list(chunk[rank::processes])


def learning_rate(step: int, steps: int, warmup: float) -> float:
    """Factor on the peak learning rate at `step` (0..steps-1): linear up over the warmup, linear down to 0."""
    rising = int(steps * warmup)
    if step < rising:
        return (step + 1) / (rising + 1)
    return max(0.0, (steps - step) / max(1, steps - rising))


def _draw(*parts: object) -> bytes:
    """A sort key that depends on `parts` alone."""
    return hashlib.sha256(json.dumps(parts).encode()).digest()
