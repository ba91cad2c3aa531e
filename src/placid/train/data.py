"""Pairs → token ids with a mask → optimizer steps, the same for every number of processes → packs per rank. Pure."""

import hashlib
import json
import math
from collections import Counter
from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol

from placid.records import BadInputError, Message, Pair
from placid.render import Rendered, Renderer
from placid.train import tree


class Example(NamedTuple):
    """One pair as token rows."""

    rows: tuple[Rendered, ...]
    """What the trained model reads: one row, or the chosen and the rejected one."""
    clean: Rendered | None = None
    """What the untrained model reads beside it, where the loss compares with it."""

    @property
    def all(self) -> tuple[Rendered, ...]:
        """Every row that costs time."""
        return (*self.rows, self.clean) if self.clean else self.rows


class Maker(Protocol):
    """The half of a loss (losses/) that planning needs."""

    def example(self, renderer: Renderer, pair: Pair) -> Example:
        """The token rows of a pair."""
        ...

    def weight(self, example: Example) -> int:
        """How many equal parts of the mean this example is: learned tokens, or 1."""
        ...


class Step(NamedTuple):
    """One optimizer step: the numbers of its examples, those that share a prefix side by side, and what they hold."""

    rows: list[int]
    tokens: int
    """Tokens of all rows, context and target; a shared prefix counts for every row."""
    learned: int
    """Sum of the examples' weights: the divisor of the step's loss."""


def clean_context(messages: Sequence[Message]) -> Sequence[Message]:
    """The bare prompt of a conversation: everything up to its first user message."""
    first = next(at for at, message in enumerate(messages) if message.role == "user")
    return messages[: first + 1]


class Encoded(NamedTuple):
    """Rows as examples, and what became of those that are too long, by the turn that their target answers."""

    examples: list[Example]
    dropped: Counter[int]
    cut: Counter[int]


def encode(maker: Maker, renderer: Renderer, pairs: Sequence[Pair], max_tokens: int, too_long: str = "drop") -> Encoded:
    """The pairs as examples whose every row has at most `max_tokens`; longer ones dropped, or cut from the left.

    Raises:
        BadInputError: an empty target, or no row is left.
    """
    found = Encoded([], Counter(), Counter())
    shortest = math.inf
    for number, pair in enumerate(pairs, 1):
        if not pair.target.strip():
            raise BadInputError(
                f"row {number} (prompt {pair.prompt_id!r}) has an empty target: nothing to learn from it"
            )
        turn = sum(message.role == "user" for message in pair.messages)
        example = maker.example(renderer, pair)
        size = longest(example)
        shortest = min(shortest, size)
        if size > max_tokens and too_long == "cut" and (shorter := cut(example, max_tokens)):
            found.cut[turn] += 1
            found.examples.append(shorter)
        elif size > max_tokens:
            found.dropped[turn] += 1
        else:
            found.examples.append(example)
    if not found.examples:
        raise BadInputError(
            f"none of {len(pairs)} training rows fits max_tokens = {max_tokens}; the shortest has {shortest:.0f}"
        )
    return found


def cut(example: Example, max_tokens: int) -> Example | None:
    """The last `max_tokens` of each row; None if a token that is learned would go with the first ones."""
    if any(any(row.learn[:-max_tokens]) for row in example.all):
        return None
    clean = example.clean
    return Example(
        tuple(Rendered(row.ids[-max_tokens:], row.learn[-max_tokens:]) for row in example.rows),
        Rendered(clean.ids[-max_tokens:], clean.learn[-max_tokens:]) if clean else None,
    )


def longest(example: Example) -> int:
    """Tokens of its longest row."""
    return max(len(row.ids) for row in example.all)


def sample(examples: Sequence[Example], most: int) -> list[Example]:
    """`most` of the examples, the same for every seed of a training; all of them if they are fewer."""
    return [examples[n] for n in sorted(sorted(range(len(examples)), key=lambda n: _draw("sample", n))[:most])]


def plan(
    maker: Maker, examples: Sequence[Example], batch: int, epochs: int, seed: int, share: bool = True
) -> list[Step]:
    """Which examples meet in which step of `batch` examples: each once an epoch, in seeded order.

    With `share`, those of one conversation come together so that their common prefix is computed once, but they fill
    half a step at most: a step of one conversation alone would be a poor estimate of the gradient.
    """
    most = max(1, batch // 2) if share else 1
    groups = tree.families([example.rows[0].ids for example in examples], most)
    steps: list[Step] = []
    for epoch in range(epochs):
        ranked = sorted(range(len(groups)), key=lambda group: _draw(seed, epoch, groups[group]))
        order = [row for group in ranked for row in groups[group]]
        steps += [_step(maker, examples, order[at : at + batch]) for at in range(0, len(order), batch)]
    return steps


def _step(maker: Maker, examples: Sequence[Example], numbers: list[int]) -> Step:
    tokens = sum(len(row.ids) for n in numbers for row in examples[n].all)
    return Step(numbers, tokens, sum(maker.weight(examples[n]) for n in numbers))


def size(examples: Sequence[Example], share: bool = True) -> int:
    """Tokens that are computed for one pack of these examples."""
    rows = [row.ids for example in examples for row in example.rows]
    clean = [example.clean.ids for example in examples if example.clean]
    return tree.size(rows, share) + tree.size(clean, share)


def spread(examples: Sequence[Example], step: Step, packs: int, share: bool = True) -> list[list[int]]:
    """The step's examples in `packs` packs (micro-batches x ranks) of about equal work, each in exactly one.

    Examples that share a prefix stay in one pack unless it would be the one that all others wait for.
    """

    def cost(unit: list[int]) -> int:
        return size([examples[n] for n in unit], share)

    families = tree.families([examples[n].rows[0].ids for n in step.rows], len(step.rows) if share else 1)
    units = [[step.rows[at] for at in family] for family in families]
    laid = _laid(units, packs, cost)
    while len(largest := max(units, key=lambda unit: (len(unit) > 1, cost(unit)))) > 1:
        half = len(largest) // 2
        units = [unit for unit in units if unit is not largest] + [largest[:half], largest[half:]]
        finer = _laid(units, packs, cost)
        if max(map(cost, finer)) < max(map(cost, laid)):
            laid = finer
    return laid


def micro_batches(
    examples: Sequence[Example], steps: Sequence[Step], ranks: int, least: int, max_tokens: int, share: bool = True
) -> int:
    """Micro-batches of a step, at least `least`, with which no rank computes more than `max_tokens` tokens at once.

    What the planner counts on. An example that has more by itself (a chosen and a rejected reply) stays whole.
    """
    micro = least
    for step in steps:
        while micro * ranks < len(step.rows) and any(
            len(pack) > 1 and size([examples[n] for n in pack], share) > max_tokens
            for pack in spread(examples, step, micro * ranks, share)
        ):
            micro += 1
    return micro


def _laid(units: Sequence[list[int]], packs: int, cost: Callable[[list[int]], int]) -> list[list[int]]:
    """Largest first, each unit into the pack with least work so far."""
    bins: list[list[int]] = [[] for _ in range(packs)]
    load = [0] * packs
    for units_cost, unit in sorted(((cost(unit), unit) for unit in units), key=lambda item: (-item[0], item[1])):
        at = load.index(min(load))
        bins[at].extend(unit)
        load[at] += units_cost
    return bins


def learning_rate(step: int, steps: int, warmup: float, schedule: str = "linear") -> float:
    """Factor on the peak learning rate at `step` (0..steps-1): linear up over the warmup, then as `schedule` says."""
    rising = int(steps * warmup)
    if step < rising:
        return (step + 1) / (rising + 1)
    if schedule == "constant":
        return 1.0
    return max(0.0, (steps - step) / max(1, steps - rising))


def _draw(*parts: object) -> bytes:
    """A sort key that depends on `parts` alone."""
    return hashlib.sha256(json.dumps(parts).encode()).digest()
