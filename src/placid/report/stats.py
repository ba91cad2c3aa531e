"""Intervals for clustered data (pure). Clusters are prompts: samples of one prompt are not independent.

Means get a cluster-t interval, rates and cumulative incidences Wilson on the effective sample size, ratios a paired
bootstrap over prompts. All are 95 %. tests/test_stats.py simulates the coverage of the first two.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import stats

Floats = NDArray[np.float64]
Z = float(stats.norm.ppf(0.975))


class Estimate(NamedTuple):
    """A value with its 95 % interval; all None where nothing was observed."""

    value: float | None
    low: float | None
    high: float | None

    @property
    def ci(self) -> list[float | None]:
        """[low, high] for JSON."""
        return [self.low, self.high]

    def clip(self, low: float, high: float) -> "Estimate":
        """The same with its interval cut to the possible range; that costs no coverage."""
        if self.low is None or self.high is None:
            return self
        return Estimate(self.value, max(low, self.low), min(high, self.high))


NOTHING = Estimate(None, None, None)


def cluster_means(values: Sequence[float], clusters: Sequence[str]) -> tuple[Floats, Floats]:
    """Mean and number of values per cluster, in the clusters' sorted order."""
    names, index = np.unique(np.asarray(clusters), return_inverse=True)
    counts = np.bincount(index, minlength=len(names)).astype(float)
    return np.bincount(index, weights=np.asarray(values, float), minlength=len(names)) / counts, counts


def mean(values: Sequence[float], clusters: Sequence[str]) -> Estimate:
    """Mean over values with a cluster-robust t interval, C - 1 degrees of freedom. One cluster: no interval."""
    if not len(values):
        return NOTHING
    x = np.asarray(values, float)
    centre = float(x.mean())
    means, counts = cluster_means(x.tolist(), clusters)
    c = len(means)
    if c < 2:
        return Estimate(centre, None, None)
    residual = counts * (means - centre)
    se = float(np.sqrt(c / (c - 1) * (residual**2).sum()) / len(x))
    half = float(stats.t.ppf(0.975, c - 1)) * se
    return Estimate(centre, centre - half, centre + half)


def wilson(p: float, n: float) -> Estimate:
    """Wilson's interval of a share `p` of `n` (n need not be whole). Never empty: 0 of n has an upper end above 0."""
    centre = (p + Z**2 / (2 * n)) / (1 + Z**2 / n)
    half = Z / (1 + Z**2 / n) * float(np.sqrt(p * (1 - p) / n + Z**2 / (4 * n**2)))
    return Estimate(p, 0.0 if p <= 0 else max(0.0, centre - half), 1.0 if p >= 1 else min(1.0, centre + half))


def effective_n(p: float, n: int, variance: float, clusters: int) -> float:
    """n / deff, and times (z / t)² where clustering costs anything (Korn & Graubard 1998); deff >= 1.

    variance: the cluster-robust variance of `p`. At 0 of n and n of n the design effect cannot be seen and n stays.
    """
    if not 0 < p < 1:
        return float(n)
    deff = variance / (p * (1 - p) / n)
    if deff <= 1:
        return float(n)
    return max(1.0, n / deff * (Z / float(stats.t.ppf(0.975, clusters - 1))) ** 2)


def rate(hits: Sequence[bool], clusters: Sequence[str]) -> Estimate:
    """Share of hits: Wilson on the effective sample size. One cluster: no interval."""
    n = len(hits)
    if not n:
        return NOTHING
    x = np.asarray(hits, float)
    p = float(x.mean())
    means, counts = cluster_means(x.tolist(), clusters)
    c = len(means)
    if c < 2:
        return Estimate(p, None, None)
    variance = c / (c - 1) * float(((counts * (means - p)) ** 2).sum()) / n**2
    return wilson(p, effective_n(p, n, variance, c))


Grouped = Mapping[str, Sequence[float]]
"""Prompt id → values of its conversations."""


def _paired(a: Grouped, b: Grouped) -> tuple[Floats, Floats]:
    """[shared prompts, 2] of (sum, n) for both arms."""
    shared = sorted(a.keys() & b.keys())
    return (
        np.array([[sum(a[k]), len(a[k])] for k in shared], float).reshape(-1, 2),
        np.array([[sum(b[k]), len(b[k])] for k in shared], float).reshape(-1, 2),
    )


def reduction(base: Grouped, arm: Grouped, resamples: int, seed: int) -> Estimate:
    """1 - mean(arm) / mean(base) over the shared prompts, with a paired bootstrap over prompts (percentiles).

    No value where the base mean is 0; no interval with one prompt, or where a resample's base mean is 0.
    """
    left, right = _paired(base, arm)
    if not len(left) or not left[:, 0].sum():
        return NOTHING

    def ratio(x: Floats, y: Floats) -> Floats:
        return 1 - (y[..., 0].sum(-1) / y[..., 1].sum(-1)) / (x[..., 0].sum(-1) / x[..., 1].sum(-1))

    value = float(ratio(left, right))
    chosen = np.random.default_rng(seed).integers(0, len(left), size=(resamples, len(left)))
    if len(left) < 2 or not left[chosen][..., 0].sum(-1).all():
        return Estimate(value, None, None)
    low, high = np.percentile(ratio(left[chosen], right[chosen]), [2.5, 97.5])
    return Estimate(value, float(low), float(high))


def difference(base: Grouped, arm: Grouped) -> Estimate:
    """Mean over the shared prompts of (arm - base) with a t interval on the prompts' differences."""
    left, right = _paired(base, arm)
    if not len(left):
        return NOTHING
    delta = right[:, 0] / right[:, 1] - left[:, 0] / left[:, 1]
    centre = float(delta.mean())
    if len(delta) < 2:
        return Estimate(centre, None, None)
    half = float(stats.t.ppf(0.975, len(delta) - 1) * delta.std(ddof=1) / np.sqrt(len(delta)))
    return Estimate(centre, centre - half, centre + half)


class Incidence(NamedTuple):
    """Cumulative incidence by turn 1..T."""

    by_turn: list[Estimate]
    at_risk: list[int]
    """Conversations that spoke this turn."""


def cumulative(events: Sequence[int | None], spoken: Sequence[int], clusters: Sequence[str], turns: int) -> Incidence:
    """Kaplan-Meier cumulative incidence, each turn with a clustered interval.

    events: turn of the event or None; spoken: last turn reached (censored there without an event); both in 1..turns.
    The variance sums the linearised influence of each conversation on the survival over its cluster (Williams 1995);
    the interval is Wilson's on the sample size that this variance is worth (Dorey & Korn 1987), so that no event yet
    still has an upper end above 0. Without censoring it is `rate` of "event by this turn".
    """
    n = len(events)
    when = np.array([turns + 1 if e is None else e for e in events])
    last = np.array(spoken)
    _, index = np.unique(np.asarray(clusters), return_inverse=True)
    c = int(index.max()) + 1 if n else 0
    alive, influence, result, risk = 1.0, np.zeros(n), [], []
    for turn in range(1, turns + 1):
        at = last >= turn
        hit = when == turn
        risk.append(int(at.sum()))
        if risk[-1] and alive > 0:
            hazard = float(hit.sum()) / risk[-1]
            if hazard < 1:  # at 1 everyone is gone and the interval no longer uses the influence
                influence += (hit - at * hazard) / (risk[-1] * (1 - hazard))
            alive *= 1 - hazard
        gone = 1 - alive
        if c < 2:
            result.append(Estimate(gone, None, None) if n else NOTHING)
            continue
        sums = np.bincount(index, weights=influence)
        variance = alive**2 * c / (c - 1) * float((sums**2).sum())
        result.append(wilson(gone, effective_n(gone, n, variance, c)))
    return Incidence(result, risk)
