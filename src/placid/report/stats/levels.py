"""Chance beside prompts and samples: training runs, wordings and judges, each crossed with the prompts.

The variance of each level is added to that of the prompts with its own quantile (MOVER, Zou & Donner 2008), because
one t for the sum (Satterthwaite) covers 87 % with two training runs. Few units tell little: their interval is wide.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from placid.report.stats.compare import Grouped
from placid.report.stats.intervals import Estimate, Floats, Ints, quantile_t

UNWORDED = -1
"""Wording of a turn that answers no fixed text."""


class Level(NamedTuple):
    """One source of error: how many units of it were seen, and the variance that it gives the estimate."""

    units: int
    variance: float


class Worded(NamedTuple):
    """What the wordings of one arm do to its estimate."""

    influence: dict[int, float]
    """Wording → sum of weight times residual over the turns that answered it."""
    noise: float
    """Sum of (weight times residual) squared: the variance that wordings without any effect would show."""


def level(values: Sequence[float | None]) -> Level:
    """Of an estimate that is the mean of these, one of each unit. What samples move in them is counted twice."""
    known = [value for value in values if value is not None]
    return Level(len(known), float(np.var(known, ddof=1)) / len(known) if len(known) > 1 else 0.0)


def widened(estimate: Estimate, *levels: Level) -> Estimate:
    """The estimate with an interval that covers these levels too. A level of fewer than two units adds nothing."""
    value, low, high = estimate
    if value is None or low is None or high is None:
        return estimate
    more = sum(quantile_t(one.units - 1) ** 2 * one.variance for one in levels if one.units > 1)
    return Estimate(value, value - np.hypot(value - low, more**0.5), value + np.hypot(high - value, more**0.5))


def p_value(estimate: Estimate, runs: Level, prompts: int, null: float = 0.0) -> float | None:
    """Two-sided p of "the truth is `null`": the level at which the interval over prompts and runs just reaches it.

    estimate: with its interval over prompts alone.
    """
    from scipy import optimize, stats

    value, low, high = estimate
    if value is None or low is None or high is None or prompts < 2:
        return None
    error = (value - low if value > null else high - value) / quantile_t(prompts - 1)

    def beyond(p: float) -> float:
        """Half width of the interval at level 1 - p, less the distance to `null`; both squared."""
        t_prompts, t_runs = (float(stats.t.isf(p / 2, df)) for df in (prompts - 1, runs.units - 1))
        return t_prompts**2 * error**2 + t_runs**2 * runs.variance - (value - null) ** 2

    least = 1e-12
    return least if beyond(least) <= 0 else float(np.asarray(optimize.brentq(beyond, least, 1.0)))


def worded(value_NT: Floats, weight_NT: Floats, wording_NT: Ints) -> Worded:
    """What wordings do to a sum of weight times value over conversations and turns; nan: not observed.

    Residuals are from the mean of their turn, so wordings that come in a fixed order show no effect: with one wording a
    turn, wording and turn cannot be told apart.
    """
    known_NT = ~np.isnan(value_NT) & (wording_NT != UNWORDED)
    filled_NT = np.where(known_NT, value_NT, 0.0)
    mean_T = filled_NT.sum(0) / np.maximum(known_NT.sum(0), 1)
    part_NT = np.where(known_NT, weight_NT * (filled_NT - mean_T), 0.0)
    varied_T = np.array(
        [len(set(column[seen].tolist())) > 1 for column, seen in zip(wording_NT.T, known_NT.T, strict=True)]
    )
    chosen_NT = known_NT & varied_T
    names, index = np.unique(wording_NT[chosen_NT], return_inverse=True)
    sums = np.bincount(index, part_NT[chosen_NT], len(names))
    return Worded(dict(zip(names.tolist(), sums.tolist(), strict=True)), float((part_NT[chosen_NT] ** 2).sum()))


def wording_level(parts: Sequence[tuple[float, Worded]]) -> Level:
    """Of an estimate that moves by `factor` with each arm: what a wording moves in two arms alike cancels.

    Wordings are drawn by chance, so the variance between them that chance alone explains is known and taken off.
    """
    sums: Mapping[int, float] = {
        name: sum(factor * arm.influence.get(name, 0.0) for factor, arm in parts)
        for name in {name for _, arm in parts for name in arm.influence}
    }
    units = len(sums)
    if units < 2:
        return Level(units, 0.0)
    noise = sum(factor**2 * arm.noise for factor, arm in parts)
    return Level(units, max(0.0, units / (units - 1) * sum(u * u for u in sums.values()) - noise))


def samples_variance(values: Grouped) -> float:
    """Variance of a mean that comes of the samples within prompts; of prompts with one sample nothing is known."""
    n = sum(len(found) for found in values.values())
    spread = sum(len(found) * float(np.var(found, ddof=1)) for found in values.values() if len(found) > 1)
    return spread / max(n, 1) ** 2
