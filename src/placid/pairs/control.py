"""Instruct rows: the 1:1 mix, and a control with the same number of rows and of tokens. Pure."""

import bisect
from collections import Counter
from collections.abc import Callable, Sequence

from placid.pairs.select import draw
from placid.records import Pair

Count = Callable[[Pair], int]


def characters(pair: Pair) -> int:
    """The default measure of a row: letters of context and target."""
    return sum(len(message.content) for message in pair.messages) + len(pair.target)


def mix(rows: Sequence[Pair], wanted: int, seed: int, purpose: str) -> list[Pair]:
    """`wanted` rows by hash, each used once before any is used again."""
    order = sorted(range(len(rows)), key=lambda n: draw(seed, purpose, n))
    return [rows[order[n % len(order)]] for n in range(wanted)]


def match(rows: Sequence[Pair], wanted: int, total: int, seed: int, count: Count) -> list[Pair]:
    """`wanted` rows whose summed `count` is as near to `total` as these rows allow.

    Starts from a hashed choice and changes one row after the other for the one that brings the sum closest, so rows
    stay as random as the total permits; a row repeats only where it must.
    """
    sizes = sorted((count(row), draw(seed, "tie", n), n) for n, row in enumerate(rows))
    order = sorted(range(len(rows)), key=lambda n: draw(seed, "control", n))
    chosen = [order[n % len(order)] for n in range(wanted)]
    size = {n: amount for amount, _, n in sizes}
    used = Counter(chosen)
    gap = total - sum(size[n] for n in chosen)
    for place in sorted(range(wanted), key=lambda n: draw(seed, "swap", n)):
        if not gap:
            break
        old = chosen[place]
        new = _nearest(sizes, size[old] + gap, used)
        if abs(gap - size[new] + size[old]) < abs(gap):
            gap -= size[new] - size[old]
            used[old] -= 1
            used[new] += 1
            chosen[place] = new
    return [rows[n] for n in chosen]


def _nearest(sizes: Sequence[tuple[int, float, int]], wanted: int, used: dict[int, int]) -> int:
    """The row nearest in size to `wanted`, among its neighbours the least used one."""
    at = bisect.bisect_left(sizes, (wanted, 0.0, 0))
    near = sizes[max(0, at - 32) : at + 32]
    return min(near, key=lambda item: (used.get(item[2], 0), abs(item[0] - wanted)))[2]
