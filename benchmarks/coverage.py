"""Do the 95 % intervals cover 95 times in 100? Simulated studies with known truth.

    python benchmarks/coverage.py            every design at 300 studies, printed (about two minutes)
    python benchmarks/coverage.py --full     at 4,000 studies, and the tables of docs/statistics.md are replaced

Rates: beta-binomial replies, the chance of a prompt drawn anew in every study. Means: scores 0 to 10 from a latent
normal. Wanted: 93 to 97 % for means, 92 to 98 % for rates. Where no possible sample excludes a rare truth, or one
outcome more or less jumps over 98 %, coverage is above it; such cells are counted.
"""

import argparse
import re
from pathlib import Path

import numpy as np

from placid.report import stats

RATES = (0.005, 0.01, 0.02, 0.05, 0.1)
ICCS = (0.0, 0.1, 0.3, 0.5)
DESIGNS = {
    "15 x 5": [5] * 15,
    "20 x 5": [5] * 20,
    "25 x 4": [4] * 25,
    "30 x 7": [7] * 30,
    "50 x 3": [3] * 50,
    "24 x 10": [10] * 24,
    "32 of 1 to 10": [1, 2, 3, 4, 5, 6, 8, 10] * 4,
}
"""Prompts x samples of each."""
DOCS = Path(__file__).resolve().parents[1] / "docs" / "statistics.md"
Sizes = list[int]


def names_of(sizes: Sizes) -> list[str]:
    """Prompt of each reply."""
    return [f"p{i:03d}" for i, size in enumerate(sizes) for _ in range(size)]


def rate_coverage(sizes: Sizes, rate: float, icc: float, studies: int, seed: int) -> float:
    """Share of studies whose interval of a rate holds the true one."""
    rng = np.random.default_rng(seed)
    names = names_of(sizes)
    covered = 0
    for _ in range(studies):
        chance = np.full(len(sizes), rate)
        if icc:
            spread = (1 - icc) / icc
            chance = rng.beta(rate * spread, (1 - rate) * spread, len(sizes))
        estimate = stats.rate((rng.random(len(names)) < np.repeat(chance, sizes)).tolist(), names)
        covered += estimate.low <= rate <= estimate.high
    return covered / studies


def mean_coverage(sizes: Sizes, icc: float, studies: int, seed: int) -> float:
    """The same of a mean score 0 to 10 (4 + 2.5 z, rounded and cut to the scale)."""
    from scipy.stats import norm

    rng = np.random.default_rng(seed)
    names = names_of(sizes)
    truth = float(norm.sf((np.arange(10) + 0.5 - 4) / 2.5).sum())
    covered = 0
    for _ in range(studies):
        latent = np.repeat(rng.normal(size=len(sizes)), sizes) * np.sqrt(icc)
        latent += rng.normal(size=len(names)) * np.sqrt(1 - icc)
        estimate = stats.mean(np.clip(np.rint(4 + 2.5 * latent), 0, 10).tolist(), names, (0, 10))
        covered += estimate.low <= truth <= estimate.high
    return covered / studies


def rates(studies: int) -> list[str]:
    """Markdown rows by design, rate and ICC; mirror images (99.5 % for 0.5 %) are the same by construction."""
    head = " | ".join(f"{100 * rate:g} %" for rate in RATES)
    lines = [f"| prompts x samples | ICC | mean score | {head} |", "|---|---|---|" + "---|" * len(RATES)]
    every: list[float] = []
    for name, sizes in DESIGNS.items():
        for icc in ICCS:
            mean = mean_coverage(sizes, icc, studies, seed=1)
            found = [rate_coverage(sizes, rate, icc, studies, seed=2 + k) for k, rate in enumerate(RATES)]
            every += found
            lines.append(f"| {name} | {icc:g} | {100 * mean:.1f} | {' | '.join(f'{100 * c:.1f}' for c in found)} |")
    below, above = (sum(c < 0.92 for c in every), sum(c > 0.98 for c in every))
    return [*lines, "", f"Rates: {len(every)} cells, {below} below 92 %, {above} above 98 %; {studies} studies a cell."]


def level_coverage(level: str, units: int, spread: float, studies: int, seed: int) -> float:
    """Share of studies whose interval holds the true difference of two arms: 30 prompts, 3 samples, 10 turns.

    The prompts' own differences have spread 1. The treatment's units of `level` (training, wording, judge) move it by
    `spread` in standard deviations of these; the interval is that of `stats.widened`.
    """
    rng = np.random.default_rng(seed)
    shape = (30, 3, 10)
    names = [f"p{prompt:02d}" for prompt in range(30)]
    repeats = units if level == "training" else 1
    covered = 0
    for _ in range(studies):
        own, effects = rng.normal(size=(30, 1, 1)), spread * rng.normal(size=units)
        wording = rng.integers(0, units, size=shape)
        runs = np.array([own + rng.normal(size=(30, 3, 1)) + rng.normal(size=shape) for _ in range(repeats)])
        if level == "training":
            runs += effects[:, None, None, None]
            levels = [stats.level(runs.mean((1, 2, 3)).tolist())]
        elif level == "wording":
            runs += effects[wording]
            turns = runs[0].reshape(90, 10)
            weight = np.full(turns.shape, 1 / turns.size)
            levels = [stats.wording_level([(1.0, stats.worded(turns, weight, wording.reshape(90, 10)))])]
        else:
            found = [runs.mean() + effect for effect in effects]
            runs += effects.mean()
            levels = [stats.level(found)]
        inner = stats.mean(runs.mean((0, 2, 3)).tolist(), names)
        estimate = stats.widened(inner, *levels)
        covered += estimate.low <= 0 <= estimate.high
    return covered / studies


def levels(studies: int) -> list[str]:
    """Markdown rows: coverage by level of the error, number of its units, and by how much they move."""
    moves = (0.0, 0.1, 0.3, 1.0)
    lines = ["| level | units | " + " | ".join(f"SD {move:g}" for move in moves) + " |", "|---|---|---|---|---|---|"]
    for level, counts in (("training", (2, 3, 5)), ("wording", (2, 5, 20)), ("judge", (2, 3))):
        for units in counts:
            found = [level_coverage(level, units, move, studies, seed=3) for move in moves]
            lines.append(f"| {level} | {units} | {' | '.join(f'{100 * c:.1f}' for c in found)} |")
    return [*lines, "", f"{studies} studies a cell."]


def corrected_coverage(labelled: int, shared: float, studies: int, seed: int) -> float:
    """The same of a difference corrected by people: 24 prompts x 20 turns an arm, a judge off by 1 in one arm."""
    rng = np.random.default_rng(seed)
    names = names_of([20] * 24)
    covered = 0
    for _ in range(studies):
        common = rng.normal(size=24)
        arms = []
        for off in (0.0, 1.0):
            level = np.sqrt(shared) * common + np.sqrt(1 - shared) * rng.normal(size=24)
            truth = np.repeat(level, 20) + rng.normal(size=480)
            judge = truth + off + 0.3 * np.repeat(rng.normal(size=24), 20) + 0.5 * rng.normal(size=480)
            rows = rng.permutation(480)
            known, rest = (rows[:labelled], rows[labelled:])
            prompts = np.array(names)
            arms.append(
                stats.Labelled(
                    judge[rest].tolist(),
                    prompts[rest].tolist(),
                    truth[known].tolist(),
                    judge[known].tolist(),
                    prompts[known].tolist(),
                )
            )
        estimate = stats.corrected_difference(*arms)
        covered += estimate.low <= 0 <= estimate.high
    return covered / studies


def corrected(studies: int) -> list[str]:
    """Markdown rows: coverage by labels an arm and by how much of a prompt's effect the arms share."""
    lines = ["| labels an arm | shared 0 | shared 0.5 | shared 0.9 |", "|---|---|---|---|"]
    for labelled in (30, 60, 120):
        found = [corrected_coverage(labelled, shared, studies, seed=4) for shared in (0.0, 0.5, 0.9)]
        lines.append(f"| {labelled} | {' | '.join(f'{100 * c:.1f}' for c in found)} |")
    return [*lines, "", f"{studies} studies a cell."]


TABLES = {"rates": rates, "levels": levels, "corrected": corrected}


def write(name: str, lines: list[str]) -> None:
    """Replace the part of docs/statistics.md between the marks of a table."""
    text = DOCS.read_text()
    begin, end = f"<!-- coverage: {name} -->", f"<!-- end: {name} -->"
    pattern = re.compile(re.escape(begin) + ".*?" + re.escape(end), re.DOTALL)
    DOCS.write_text(pattern.sub(lambda _: "\n".join([begin, "", *lines, "", end]), text))


def main() -> None:
    """Simulate and print; with --full also write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--full", action="store_true", help="4,000 studies a cell, written to docs/statistics.md")
    parser.add_argument("--studies", type=int, default=300, help="studies a cell (300)")
    parser.add_argument("--only", choices=TABLES, help="one table")
    words = parser.parse_args()
    for name, table in TABLES.items():
        if words.only in (None, name):
            lines = table(4000 if words.full else words.studies)
            print("\n".join([f"{name}:", *lines, ""]), flush=True)
            if words.full:
                write(name, lines)


if __name__ == "__main__":
    main()
