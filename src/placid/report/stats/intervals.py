"""Means, rates and trajectories of clustered data with their 95 % intervals."""

from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Scale = tuple[float, float]
"""Lowest and highest possible value."""
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

    def complement(self) -> "Estimate":
        """1 - value, with 1 - its interval."""
        if self.value is None or self.low is None or self.high is None:
            return Estimate(None if self.value is None else 1 - self.value, None, None)
        return Estimate(1 - self.value, 1 - self.high, 1 - self.low)


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


NARROWEST = 1e-3
"""Of the scale: a narrower interval would be shown as one number. It comes of cases that are all alike, or of one or
two that differ by little, whose spread tells nothing of what unseen cases do."""


def mean(values: Sequence[float], clusters: Sequence[str], scale: Scale | None = None) -> Estimate:
    """Mean over values with a cluster-robust t interval, C - 1 degrees of freedom. One cluster: no interval.

    scale: the interval is cut to it, and where all clusters agree it is `unseen` and not of no width.
    """
    if not len(values):
        return NOTHING
    x = np.asarray(values, float)
    index, c = numbered(clusters)
    centre = float(x.mean())
    if c < 2:
        return Estimate(centre, None, None)
    se = float(cluster_se(sums_by(index, x - centre, c))) / len(x)
    return within(around(centre, se, c - 1), np.bincount(index, minlength=c), scale)


def within(estimate: Estimate, size_C: Ints, scale: Scale | None) -> Estimate:
    """The estimate with its interval cut to the scale; one narrower than NARROWEST of it becomes that of `unseen`."""
    value, low, high = estimate
    if scale is None or value is None or low is None or high is None:
        return estimate
    if high - low > NARROWEST * (scale[1] - scale[0]):
        return estimate.clip(*scale)
    return unseen(value, size_C, scale)


def unseen(value: float, size_C: Ints, scale: Scale) -> Estimate:
    """Interval of a mean whose cases are all alike: a rule of three for clusters.

    Cases that differ were seen 0 times, so their share may be up to the upper end of that rate, and each of them may
    lie at an end of the scale.
    """
    cases_C = size_C[size_C > 0]
    if len(cases_C) < 2:
        return Estimate(value, None, None)
    other = share(0.0, float(cases_C.sum()), np.zeros(len(cases_C)), cases_C).high or 0.0
    return Estimate(value, value - other * (value - scale[0]), value + other * (scale[1] - value))


ICC = np.array([0, 0.01, 0.02, 0.04, 0.07, 0.1, 0.15, 0.2, 0.25, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9])
"""Intraclass correlations that a rate's interval considers."""
NO_CLUSTERING = 0.2
"""Prior weight of an ICC of exactly 0; the rest is spread evenly over 0..TOP (docs/statistics.md)."""
TOP = 0.95


def rate(hits: Sequence[bool], clusters: Sequence[str]) -> Estimate:
    """Share of hits with the interval of `share`. One cluster: no interval."""
    if not len(hits):
        return NOTHING
    x = np.asarray(hits, float)
    index, c = numbered(clusters)
    p = float(x.mean())
    if c < 2:
        return Estimate(p, None, None)
    return share(p, len(x), sums_by(index, x, c), np.bincount(index, minlength=c))


def share(p: float, n: float, hits_C: Floats, size_C: Ints) -> Estimate:
    """Interval of a share `p` of `n` whose hits fall into clusters, for rare rates too: it is nowhere of no width.

    p, n: the share and the number of independent cases that it is worth but for the clustering (n need not be whole).
    hits_C, size_C: hits and cases of each cluster, which tell how alike the cases of a cluster are.

    Every intraclass correlation of ICC is weighed by its beta-binomial likelihood and its prior; the ends are those p
    at which the score test's one-sided chance, averaged over these weights, is 2.5 %. For one ICC that is Wilson's
    interval on n / (1 + ICC (m - 1)), with t for z as far as the variance comes from the C clusters. So 0 of n, which
    does not tell its ICC, takes all of them into account. Without clusters (all of size 1) it is Wilson's interval.
    """
    cells, counts = np.unique(np.column_stack([hits_C, size_C]), axis=0, return_counts=True)
    table = tuple((float(k), float(m), int(number)) for (k, m), number in zip(cells, counts, strict=True))
    return _share(p, n, table)


@lru_cache(maxsize=4096)
def _share(p: float, n: float, table: tuple[tuple[float, float, int], ...]) -> Estimate:
    """table: (hits, cases, how many clusters have these)."""
    from scipy import special

    hits, size, number = (np.array(column, float) for column in zip(*table, strict=True))
    cases = (number * size).sum()
    deff = 1 + ICC * ((number * size**2).sum() / cases - 1)
    weight = _weights(hits, size, number, ((number * hits).sum() + 0.5) / (cases + 1))
    between = np.maximum((deff - 1) / deff, 1e-6)  # share of the variance that comes from the clusters (Satterthwaite)
    freedom = np.maximum(number.sum() - 1, 1) / between**2

    def above(rates: Floats) -> Floats:
        """Chance of `p` or more at these true rates [2]."""
        z = (p - rates[:, None]) / np.sqrt(rates[:, None] * (1 - rates[:, None]) * deff / n)
        return (weight * special.stdtr(freedom, -z)).sum(1)

    low, high = np.zeros(2), np.ones(2)
    for _ in range(40):
        middle = (low + high) / 2
        below = above(middle) < (0.025, 0.975)
        low, high = np.where(below, middle, low), np.where(below, high, middle)
    ends = ((low + high) / 2).tolist()
    return Estimate(p, 0.0 if p <= 0 else ends[0], 1.0 if p >= 1 else ends[1])


def _weights(hits: Floats, size: Floats, number: Floats, p: float) -> Floats:
    """Posterior weight of each ICC given the clusters' counts, at the rate p."""
    from scipy import special

    cut = (ICC[1:] + ICC[:-1]) / 2
    prior = (1 - NO_CLUSTERING) * np.diff(np.concatenate([[0.0], cut, [TOP]])) / TOP
    prior[0] += NO_CLUSTERING
    spread = ((1 - ICC[1:]) / ICC[1:])[:, None]
    a, b = p * spread, (1 - p) * spread
    alike = (number * (special.betaln(hits + a, size - hits + b) - special.betaln(a, b))).sum(1)
    apart = (number * (hits * np.log(p) + (size - hits) * np.log1p(-p))).sum()
    log = np.log(prior) + np.append(apart, alike)
    weight = np.exp(log - log.max())
    return weight / weight.sum()


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
