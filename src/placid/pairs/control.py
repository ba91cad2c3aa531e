"""Instruct rows: the 1:1 mix, and a control with as many tokens and, where they allow it, as many rows. Pure."""

import bisect
import itertools
import math
from collections.abc import Callable, Sequence

from placid.pairs.select import draw
from placid.records import BadInputError, Pair

Count = Callable[[Pair], int]
LEAST_SHARE = 0.95
"""A control with less than this share of the wanted tokens says nothing about them: it is refused."""


class ControlError(BadInputError):
    """These instruct rows cannot hold as many tokens as the rows they are the control of."""


def characters(pair: Pair) -> int:
    """The default measure of a row: letters of context and target."""
    return sum(len(message.content) for message in pair.messages) + len(pair.target)


def different(rows: Sequence[Pair]) -> list[Pair]:
    """`rows` without those that say what an earlier one says, whatever their ids are."""
    return list({(row.messages, row.target): row for row in reversed(rows)}.values())[::-1]


def mix(rows: Sequence[Pair], wanted: int, seed: int, purpose: str) -> list[Pair]:
    """`wanted` rows by hash, each used once before any is used again."""
    order = sorted(range(len(rows)), key=lambda n: draw(seed, purpose, n))
    return [rows[order[n % len(order)]] for n in range(wanted)]


def match(rows: Sequence[Pair], wanted: int, total: int, seed: int, count: Count) -> list[Pair]:
    """`wanted` of the different `rows` whose summed `count` is as near to `total` as these rows allow.

    More than `wanted` where so many reach `total` by no choice: as many as it takes. No row repeats unless there are
    fewer than `wanted`; then every row is used equally often, or once more.

    Raises:
        ControlError: their sum is below LEAST_SHARE of `total`.
    """
    sizes = [count(row) for row in rows]
    draws = [draw(seed, "control", n) for n in range(len(rows))]
    number = wanted
    if wanted < len(rows) and sum(sorted(sizes)[-wanted:]) < total:
        number = max(wanted, _enough(sizes, total, draws))
    times, rest = divmod(number, len(rows))
    chosen = list(range(len(rows))) * times
    if rest:
        chosen += _sample(sizes, rest, total - times * sum(sizes), draws)
    reached = sum(sizes[n] for n in chosen)
    if reached < LEAST_SHARE * total:
        needed = math.ceil(total * len(sizes) / sum(sizes))
        raise ControlError(
            f"the control would hold {reached / total:.0%} of the wanted tokens ({reached:,} of {total:,}) with all "
            f"{len(rows):,} different instruct rows; give more of them "
            f"(pairs.instruct; about {needed:,} of this length), "
            'or take the paper\'s control, as many instruct rows as there are BCT rows (pairs.control = "rows")'
        )
    return [rows[n] for n in chosen]


def _enough(sizes: Sequence[int], total: int, draws: Sequence[float]) -> int:
    """How many rows in hashed order sum to `total`; all of them if they do not."""
    order = sorted(range(len(sizes)), key=lambda n: draws[n])
    sums = list(itertools.accumulate(sizes[n] for n in order))
    return min(len(sizes), bisect.bisect_left(sums, total) + 1)


def _sample(sizes: Sequence[int], wanted: int, total: int, draws: Sequence[float]) -> list[int]:
    """`wanted` different row numbers whose sizes sum to about `total`, otherwise as random as that permits.

    A sample without replacement in which a row weighs exp(tilt * size), drawn by the Gumbel-top-k trick (Kool et al.
    2019): with the noise fixed its sum rises with the tilt, so bisection finds the tilt.
    """
    noise = [-math.log(-math.log(value)) if value else -math.inf for value in draws]

    def chosen(tilt: float) -> list[int]:
        return sorted(range(len(sizes)), key=lambda n: tilt * sizes[n] + noise[n], reverse=True)[:wanted]

    def misses(numbers: Sequence[int]) -> tuple[bool, int]:
        gap = total - sum(sizes[n] for n in numbers)
        return gap > (1 - LEAST_SHARE) * total, abs(gap)

    low = -64.0  # here size alone decides: noise spans less, and sizes are whole numbers
    high = 64.0
    for _ in range(50):
        middle = (low + high) / 2
        if sum(sizes[n] for n in chosen(middle)) < total:
            low = middle
        else:
            high = middle
    return _exchanged(sizes, min(chosen(low), chosen(high), key=misses), total)


def _exchanged(sizes: Sequence[int], chosen: list[int], total: int) -> list[int]:
    """`chosen` with the one exchange that brings its sum nearest to `total`."""
    gap = total - sum(sizes[n] for n in chosen)
    most = (1 - LEAST_SHARE) * total
    taken = set(chosen)
    free = sorted((sizes[n], n) for n in range(len(sizes)) if n not in taken)
    best: tuple[int, int, int] | None = None
    for place, old in enumerate(chosen):
        at = bisect.bisect_left(free, (sizes[old] + gap, 0))
        for size, new in free[max(0, at - 1) : at + 1]:
            left = gap + sizes[old] - size
            if left <= most and abs(left) < abs(gap) and (best is None or abs(left) < best[0]):
                best = (abs(left), place, new)
    if best:
        chosen[best[1]] = best[2]
    return chosen
