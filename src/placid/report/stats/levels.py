"""Two levels of chance: prompts (with their samples) and training runs, crossed: all runs meet the same prompts."""

from collections.abc import Sequence

import numpy as np

from placid.report.stats.compare import Grouped
from placid.report.stats.intervals import NOTHING, Estimate, Floats, quantile_t

Shares = dict[str, float]
"""Source of error → its share of the variance."""


def two_levels(values_KP: Floats) -> tuple[Estimate, Shares]:
    """Mean of values [runs K, prompts P] with a t interval over both levels.

    Half width² = t²(K - 1) s²_K / K + t²(P - 1) s²_P / P with the variances of the runs' and of the prompts' means,
    each level with its own quantile: Satterthwaite's single t covers 87 % with two runs. What both levels hold of the
    remaining noise is counted twice, which is cautious. Two runs tell little of their spread: their interval is wide.
    """
    k, p = values_KP.shape
    if k < 2 or p < 2:
        return NOTHING, {}
    centre = float(values_KP.mean())
    runs = float(values_KP.mean(1).var(ddof=1)) / k
    prompts = float(values_KP.mean(0).var(ddof=1)) / p
    total = runs + prompts
    if total <= 0:
        return Estimate(centre, centre, centre), {}
    half = float(np.sqrt(quantile_t(k - 1) ** 2 * runs + quantile_t(p - 1) ** 2 * prompts))
    return Estimate(centre, centre - half, centre + half), {"training": runs / total, "prompts": prompts / total}


def _table(base: Grouped, runs: Sequence[Grouped]) -> tuple[Floats, Floats]:
    """Means by prompt of the base [P] and of the runs [K, P], over the prompts that all hold."""
    shared = sorted(set(base).intersection(*runs))
    means = [[float(np.mean(one[prompt])) for prompt in shared] for one in (base, *runs)]
    return np.array(means[0]), np.array(means[1:]).reshape(len(runs), len(shared))


def two_level_difference(base: Grouped, runs: Sequence[Grouped]) -> tuple[Estimate, Shares]:
    """Mean of (run - base) over prompts and runs; see `two_levels`."""
    base_P, runs_KP = _table(base, runs)
    return two_levels(runs_KP - base_P)


def two_level_reduction(base: Grouped, runs: Sequence[Grouped]) -> tuple[Estimate, Shares]:
    """1 - mean of the runs / mean of the base, linearised around it; see `two_levels`. Prompts weigh alike."""
    base_P, runs_KP = _table(base, runs)
    if not base_P.size or not base_P.mean():
        return NOTHING, {}
    ratio = runs_KP.mean() / base_P.mean()
    return two_levels(1 - ratio - (runs_KP - ratio * base_P) / base_P.mean())
