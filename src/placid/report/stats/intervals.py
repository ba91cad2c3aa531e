"""Means, rates and trajectories of clustered data with their 95 % intervals."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Z = 1.959963984540054
"""97.5 % quantile of the normal distribution."""


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


def around(centre: float, se: float, df: int) -> Estimate:
    """centre ± t se; no interval without a degree of freedom."""
    if df < 1:
        return Estimate(centre, None, None)
    half = quantile_t(df) * se
    return Estimate(centre, centre - half, centre + half)


def quantile_t(df: int) -> float:
    """97.5 % point of Student's t."""
    from scipy import stats  # its import takes seconds, and every command reads this room's settings

    return float(stats.t.ppf(0.975, df))


def numbered(clusters: Sequence[str]) -> tuple[Ints, int]:
    """Number of each value's cluster, in the order of their sorted names, and how many clusters there are."""
    if not len(clusters):
        return np.zeros(0, np.int64), 0
    names, index = np.unique(np.asarray(clusters), return_inverse=True)
    return index.astype(np.int64), len(names)


def sums_by(index: Ints, values: Floats, c: int) -> Floats:
    """Sums per cluster [c, ...] of values [n, ...]."""
    result = np.zeros((c, *values.shape[1:]))
    np.add.at(result, index, values)
    return result


def cluster_se(influence_C: Floats) -> Floats:
    """Standard error of an estimate from its summed influence per cluster (axis 0), with the C / (C - 1) correction."""
    c = len(influence_C)
    return np.sqrt(c / (c - 1) * (influence_C**2).sum(axis=0))


def mean(values: Sequence[float], clusters: Sequence[str]) -> Estimate:
    """Mean over values with a cluster-robust t interval, C - 1 degrees of freedom. One cluster: no interval."""
    if not len(values):
        return NOTHING
    x = np.asarray(values, float)
    index, c = numbered(clusters)
    centre = float(x.mean())
    if c < 2:
        return Estimate(centre, None, None)
    se = cluster_se(sums_by(index, x - centre, c)) / len(x)
    return around(centre, float(se), c - 1)


def bootstrap_t(values: Sequence[float], clusters: Sequence[str], resamples: int, seed: int) -> Estimate:
    """The same mean with a studentised bootstrap over clusters: the check on the t interval when values are skewed.

    Resamples whose clusters all agree have no standard error and are left out. No interval with fewer than 3 clusters.
    """
    if not len(values):
        return NOTHING
    x = np.asarray(values, float)
    index, c = numbered(clusters)
    centre = float(x.mean())
    if c < 3:
        return Estimate(centre, None, None)
    sums, counts = sums_by(index, x, c), np.bincount(index, minlength=c).astype(float)
    se = float(cluster_se(sums - counts * centre)) / len(x)
    chosen = np.random.default_rng(seed).integers(0, c, size=(resamples, c))
    drawn, n = sums[chosen], counts[chosen]
    means = drawn.sum(1) / n.sum(1)
    errors = np.sqrt(c / (c - 1) * ((drawn - n * means[:, None]) ** 2).sum(1)) / n.sum(1)
    usable = errors > 1e-12 * max(1.0, abs(centre))
    if se == 0 or not usable.any():
        return Estimate(centre, centre, centre)
    low, high = np.percentile((means[usable] - centre) / errors[usable], [2.5, 97.5])
    return Estimate(centre, centre - float(high) * se, centre - float(low) * se)


def wilson(p: float, n: float) -> Estimate:
    """Wilson's interval of a share `p` of `n` (n need not be whole). Never empty: 0 of n has an upper end above 0."""
    centre = (p + Z**2 / (2 * n)) / (1 + Z**2 / n)
    half = Z / (1 + Z**2 / n) * float(np.sqrt(p * (1 - p) / n + Z**2 / (4 * n**2)))
    return Estimate(p, 0.0 if p <= 0 else max(0.0, centre - half), 1.0 if p >= 1 else min(1.0, centre + half))


def exact(p: float, n: float) -> Estimate:
    """Clopper and Pearson's interval of a share `p` of `n` (n need not be whole): never too narrow, often too wide."""
    from scipy import stats

    hits = p * n
    low = 0.0 if p <= 0 else float(stats.beta.ppf(0.025, hits, n - hits + 1))
    high = 1.0 if p >= 1 else float(stats.beta.ppf(0.975, hits + 1, n - hits))
    return Estimate(p, low, high)


def effective_n(p: float, n: int, variance: float, clusters: int) -> float:
    """n / deff, and times (z / t)² where clustering costs anything (Korn & Graubard 1998); deff >= 1.

    variance: the cluster-robust variance of `p`. C / (C - 1) times it is used, the jackknife's for equal clusters: with
    15 prompts, ICC 0.5 and a rate of 0.1 the interval then covers 96 and not 92 times in 100 (tests/test_coverage.py).
    At 0 of n and n of n the design effect cannot be seen and n stays.
    """
    if not 0 < p < 1:
        return float(n)
    deff = variance * clusters / (clusters - 1) / (p * (1 - p) / n)
    if deff <= 1:
        return float(n)
    return max(1.0, n / deff * (Z / quantile_t(clusters - 1)) ** 2)


def rate(hits: Sequence[bool], clusters: Sequence[str], interval: str = "wilson") -> Estimate:
    """Share of hits with its interval on the effective sample size. One cluster: no interval.

    interval: wilson, or exact (Clopper-Pearson), which is the cautious choice for rare events.
    """
    n = len(hits)
    if not n:
        return NOTHING
    x = np.asarray(hits, float)
    p = float(x.mean())
    index, c = numbered(clusters)
    if c < 2:
        return Estimate(p, None, None)
    variance = float(cluster_se(sums_by(index, x - p, c))) ** 2 / n**2
    return {"wilson": wilson, "exact": exact}[interval](p, effective_n(p, n, variance, c))


class Band(NamedTuple):
    """A mean by turn: the pointwise interval of each turn, and a band that holds the whole curve 95 times in 100."""

    pointwise: list[Estimate]
    simultaneous: list[Estimate]
    critical: float
    """The multiple of the standard error that the simultaneous band uses; nan where it could not be found."""


def bands(score_NT: Floats, clusters: Sequence[str], draws: int = 10_000, seed: int = 0) -> Band:
    """Mean by turn over conversations [N, T] (nan: no score), with pointwise cluster-t intervals and a sup-t band.

    The sup-t critical value is the 95 % point of max over turns of |t| under the estimated correlation between turns
    (Montiel Olea & Plagborg-Møller 2019), drawn as a multivariate t with C - 1 degrees of freedom because there are few
    clusters. Turns where all clusters agree have an interval of no width and do not enter it.
    """
    index, c = numbered(clusters)
    seen = ~np.isnan(score_NT)
    n_T = seen.sum(0)
    mean_T = np.where(seen, score_NT, 0.0).sum(0) / np.maximum(n_T, 1)
    residual_CT = sums_by(index, np.where(seen, score_NT - mean_T, 0.0), c) / np.maximum(n_T, 1)
    clusters_T = (sums_by(index, seen.astype(float), c) > 0).sum(0)
    se_T = np.sqrt(clusters_T / np.maximum(clusters_T - 1, 1) * (residual_CT**2).sum(0))
    usable = (clusters_T > 1) & (se_T > 1e-12)
    critical = float("nan")
    if usable.any():
        shape_CT = residual_CT[:, usable] / np.sqrt((residual_CT[:, usable] ** 2).sum(0))
        random = np.random.default_rng(seed)
        normal = random.standard_normal((draws, c)) @ shape_CT
        t = np.abs(normal).max(1) / np.sqrt(random.chisquare(c - 1, draws) / (c - 1))
        critical = max(float(np.quantile(t, 0.95)), quantile_t(c - 1))
    pointwise, simultaneous = [], []
    for m, n, se, groups in zip(mean_T.tolist(), n_T.tolist(), se_T.tolist(), clusters_T.tolist(), strict=True):
        pointwise.append(around(m, se, groups - 1) if n else NOTHING)
        if n and groups > 1:
            half = max(critical if se > 1e-12 else 0.0, quantile_t(groups - 1)) * se
            simultaneous.append(Estimate(m, m - half, m + half))
        else:
            simultaneous.append(pointwise[-1])
    return Band(pointwise, simultaneous, critical)
