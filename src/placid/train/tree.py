"""Rows that begin alike, packed so that every shared prefix is there once. Pure.

The rows of one conversation nest: the context of turn t is a prefix of the context of turn t+1. Laid out depth first
as a prefix tree, whatever may see a token (the rest of its own run and every branch below it) stands right behind it:

    token k is seen by token q  <=>  k <= q < end[k]   and, in a sliding layer,   position[q] - position[k] < window

`end` alone is the whole mask. With no sharing it is the end of the document, so plain sequence packing is the same
thing. Loss and gradients equal those of separate rows (tests/test_tree.py); the idea: Tree Training, arXiv 2511.00413.
"""

import itertools
from collections.abc import Sequence
from typing import NamedTuple

SHORTEST = 16
"""Fewer common tokens (<bos>, the template's first words) are not worth a branch."""


class Packed(NamedTuple):
    """One sequence of L tokens that holds several rows."""

    ids: list[int]
    position: list[int]
    """[L] depth of each token in its own row: the position the model sees."""
    end: list[int]
    """[L] one past the last token that may see this one."""
    places: list[list[int]]
    """For each row, in the order given, where each of its tokens stands."""


def common(left: Sequence[int], right: Sequence[int]) -> int:
    """Length of the longest common prefix."""
    longest = min(len(left), len(right))
    low, high = 0, longest
    if left[:longest] == right[:longest]:
        return longest
    while high - low > 1:  # left[:low] agrees, left[:high] does not; slices compare in C
        middle = (low + high) // 2
        low, high = (middle, high) if left[low:middle] == right[low:middle] else (low, middle)
    return low


def shared(left: Sequence[int], right: Sequence[int]) -> int:
    """How many leading tokens two neighbouring rows share in a tree."""
    length = common(left, right)
    return length if length >= SHORTEST else 0


def pack(rows: Sequence[list[int]], share: bool = True) -> Packed:
    """Rows (token ids) as one sequence; without `share` every row stands for itself."""
    packed = Packed([], [], [], [[] for _ in rows])
    before: list[int] = []
    path: list[int] = []
    for number in sorted(range(len(rows)), key=lambda n: rows[n]):  # sorted, every prefix meets its continuations
        row = rows[number]
        keep = shared(before, row) if share else 0
        _close(packed, path[keep:])
        fresh = range(len(packed.ids), len(packed.ids) + len(row) - keep)
        packed.ids.extend(row[keep:])
        packed.position.extend(range(keep, len(row)))
        packed.end.extend([0] * len(fresh))
        path = [*path[:keep], *fresh]
        packed.places[number].extend(path)
        before = row
    _close(packed, path)
    return packed


class Run(NamedTuple):
    """Tokens start..stop-1 follow one another without a branch; `before`: the places of all tokens above them."""

    start: int
    stop: int
    before: list[int]


def runs(position: Sequence[int], end: Sequence[int]) -> list[Run]:
    """A packed sequence cut where it branches. An only child ends where its parent ends."""
    found: list[Run] = []
    path: list[int] = []  # by depth: the tokens on the way to the current one
    for at in range(len(end)):
        goes_on = at and position[at] == position[at - 1] + 1 and end[at] == end[at - 1]
        if goes_on:
            found[-1] = found[-1]._replace(stop=at + 1)
        else:
            found.append(Run(at, at + 1, path[: position[at]]))
        path[position[at] :] = [at]
    return found


def _close(packed: Packed, path: Sequence[int]) -> None:
    """Nothing more comes below these tokens."""
    for place in path:
        packed.end[place] = len(packed.ids)


def size(rows: Sequence[list[int]], share: bool = True) -> int:
    """Tokens of pack(rows), without building it."""
    if not share:
        return sum(map(len, rows))
    ordered = sorted(rows)
    return sum(map(len, ordered)) - sum(shared(a, b) for a, b in itertools.pairwise(ordered))


def families(rows: Sequence[list[int]], most: int) -> list[list[int]]:
    """Row numbers grouped so that rows that share a prefix are together, at most `most` in a group, each row once."""
    groups: list[list[int]] = []
    before: list[int] = []
    for number in sorted(range(len(rows)), key=lambda n: rows[n]):
        if groups and len(groups[-1]) < most and shared(before, rows[number]):
            groups[-1].append(number)
        else:
            groups.append([number])
        before = rows[number]
    return groups
