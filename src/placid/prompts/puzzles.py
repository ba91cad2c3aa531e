"""Numeric puzzles with a solver that tries everything, so that every known answer is a proof. Pure.

Two families in the manner of Soligo et al.'s impossible ones, each with solvable and unsolvable puzzles:

    chain    numbers in an order of your choice with + - * between them, worked from left to right   (648 lines at most)
    orders   operations, each once, in an order of your choice, from a start value to a target       (24 orders)

Both may forbid an intermediate value. The rules leave a finite list of answers in one way of writing; the solver goes
through all of it, so "unsolvable" is proven by exhaustion and a solvable puzzle knows every right answer literally.
"""

import itertools
import operator
import random
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import TypeVar

from placid.records import Prompt

SIGNS: Mapping[str, Callable[[int, int], int]] = {"+": operator.add, "-": operator.sub, "*": operator.mul}
WORDS: Mapping[str, Callable[[Fraction, Fraction], Fraction]] = {
    "Add": operator.add,
    "Subtract": operator.sub,
    "Multiply by": operator.mul,
    "Divide by": operator.truediv,
}
NONE = ("Solution: none", "Solution: None", "Solution: [none]", "Solution: [None]")
"""The right answer of an unsolvable puzzle."""
FEW = 6
"""A solvable puzzle has at most so many right answers: it should not be solved by the first thing one tries."""
EACH = 20
"""Puzzles of each family, solvable ones and unsolvable ones each."""


@dataclass(frozen=True)
class Chain:
    """Numbers, each exactly once, joined by + - * and worked from left to right."""

    numbers: tuple[int, ...]
    target: int
    forbidden: int | None = None
    """No intermediate result may be this."""

    def solutions(self) -> list[str]:
        """Every line that reaches the target, by exhaustion."""
        return [
            str(order[0]) + "".join(f" {sign} {n}" for sign, n in zip(signs, order[1:], strict=True))
            for order, signs, steps in self.lines()
            if steps[-1] == self.target and self.forbidden not in steps[:-1]
        ]

    def lines(self) -> Iterator[tuple[tuple[int, ...], tuple[str, ...], list[int]]]:
        """Every line (numbers, signs) whose results are all positive, with its result after each sign."""
        for order in itertools.permutations(self.numbers):
            for signs in itertools.product(SIGNS, repeat=len(order) - 1):
                steps = list(itertools.accumulate(zip(signs, order[1:], strict=True), _step, initial=order[0]))[1:]
                if min(steps) > 0:
                    yield order, signs, steps

    def text(self) -> str:
        """The question."""
        *most, last = map(str, self.numbers)
        rule = "" if self.forbidden is None else f" FORBIDDEN INTERMEDIATE VALUE: {self.forbidden}."
        return (
            f"Write the numbers {', '.join(most)} and {last} in an order of your choice, each exactly once, and put "
            f"+, - or * between them so that the result is exactly {self.target}. Work strictly from left to right: no "
            f"brackets, no precedence. Every intermediate result must be a positive whole number.{rule} Put one space "
            "around each sign. The final line must be: Solution: [YOUR LINE]. If there is no such line, write none in "
            "its place."
        )


@dataclass(frozen=True)
class Orders:
    """Operations, each exactly once, from a start value to a target."""

    start: Fraction
    operations: tuple[tuple[str, Fraction], ...]
    target: Fraction
    forbidden: Fraction | None = None
    """No result before the last may be this."""

    def solutions(self) -> list[str]:
        """Every order that reaches the target, by exhaustion."""
        orders = self.orders()
        return [line for line, steps in orders if steps[-1] == self.target and self.forbidden not in steps[:-1]]

    def orders(self) -> Iterator[tuple[str, list[Fraction]]]:
        """Every order with its results after each operation."""
        for order in itertools.permutations(self.operations):
            steps = [self.start]
            for word, value in order:
                steps.append(WORDS[word](steps[-1], value))
            yield ", ".join(f"{word} {value}" for word, value in order), steps[1:]

    def text(self) -> str:
        """The question."""
        operations = ", ".join(f"{word} {value}" for word, value in self.operations)
        rule = "" if self.forbidden is None else f" FORBIDDEN INTERMEDIATE VALUE: {self.forbidden}."
        return (
            f"Start with {self.start}. Use exactly {len(self.operations)} operations to reach {self.target}. Allowed "
            f"operations (each used exactly once): {operations}.{rule} The final line must be: Solution: [the "
            "operations in your order, separated by commas]. If there is no such order, write none in their place."
        )


def _step(result: int, by: tuple[str, int]) -> int:
    return SIGNS[by[0]](result, by[1])


Puzzle = Chain | Orders
P = TypeVar("P", Chain, Orders)


def generate(seed: int = 0, each: int = EACH) -> list[Prompt]:
    """2 families × solvable and unsolvable × `each` puzzles; the same seed gives the same prompts."""
    found: list[Prompt] = []
    for name, draw in (("chain", draw_chain), ("orders", draw_orders)):
        for solvable in (True, False):
            r = random.Random(f"puzzles {name} {solvable} {seed}")
            kind = "solvable" if solvable else "unsolvable"
            texts: set[str] = set()
            while len(texts) < each:
                puzzle = draw(r, solvable)
                if puzzle is not None and puzzle.text() not in texts:
                    texts.add(puzzle.text())
                    found.append(as_prompt(f"{name}-{kind}-{len(texts):02d}", f"puzzle_{kind}", puzzle))
    return found


def as_prompt(name: str, family: str, puzzle: Puzzle) -> Prompt:
    """The question with every right answer."""
    return Prompt(id=name, text=puzzle.text(), answers=tuple(puzzle.solutions()) or NONE, family=family)


def draw_chain(r: random.Random, solvable: bool) -> Chain | None:
    """A chain of four numbers with a target between 20 and 250, or None where this draw gives none.

    An unsolvable one is reachable but for its forbidden value, or not reachable although its neighbours are.
    """
    numbers = tuple(sorted(r.sample(range(2, 26), 4)))
    lines = [steps for _, _, steps in Chain(numbers, 0).lines() if 20 <= steps[-1] <= 250]
    reached = sorted({steps[-1] for steps in lines})
    target = r.choice(reached)
    if solvable or r.random() < 0.5:  # forbid what some line to the target passes through
        forbidden = r.choice(next(steps[:-1] for steps in lines if steps[-1] == target))
    else:
        gaps = [n + 1 for n in reached if n + 1 not in reached and n + 2 in reached]
        if not gaps:
            return None
        target, forbidden = r.choice(gaps), None
    return _wanted(Chain(numbers, target, forbidden), solvable)


def draw_orders(r: random.Random, solvable: bool) -> Orders | None:
    """Four operations on small fractions, or None where this draw gives none."""
    values = [Fraction(n, d) for n, d in ((1, 2), (1, 3), (1, 4), (1, 6), (2, 1), (3, 1), (4, 1), (5, 1))]
    operations = tuple((r.choice(list(WORDS)), value) for value in r.sample(values, 4))
    start = r.choice(values)
    ends = [steps for _, steps in Orders(start, operations, Fraction(0)).orders()]
    steps = r.choice(ends)
    return _wanted(Orders(start, operations, steps[-1], r.choice(steps[:-1])), solvable)


def _wanted(puzzle: P, solvable: bool) -> P | None:
    """The puzzle if it has as many solutions as are looked for, and its text gives none of them away."""
    found = puzzle.solutions()
    if not solvable:
        return None if found else puzzle
    return puzzle if 1 <= len(found) <= FEW and not any(line in puzzle.text() for line in found) else None
