"""Before a study: what it could detect. After it: how two judges agree, a judge's mean corrected by human labels."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from placid.report.stats.intervals import NOTHING, Estimate, Floats, Ints, around, cluster_se, numbered, sums_by


def detectable(
    prompts: int,
    samples: int,
    sd: float,
    icc: float,
    shared: float = 0.0,
    power: float = 0.8,
    alpha: float = 0.05,
) -> float | None:
    """Smallest true difference of two arms on the same prompts that a paired t test over prompts finds with `power`.

    sd: standard deviation of one conversation's value (for a rate p: sqrt(p (1 - p))). icc: its share between prompts.
    shared: correlation between the arms of a prompt's own effect (0 is cautious, 1: a prompt moves both arms alike).
    The variance of a prompt's difference is 2 sd² (icc (1 - shared) + (1 - icc) / samples); the power is that of the
    noncentral t (Miller 2024, arXiv 2411.00640, §5, with t instead of the normal). None with one prompt.
    """
    from scipy import optimize, stats

    if prompts < 2:
        return None
    spread = sd * float(np.sqrt(2 * (icc * (1 - shared) + (1 - icc) / samples)))
    if spread == 0:
        return 0.0
    df = prompts - 1
    limit = float(stats.t.ppf(1 - alpha / 2, df))

    def missing(effect: float) -> float:
        shift = effect * np.sqrt(prompts)
        other = stats.nct.cdf(-limit, df, shift)  # scipy has no value (nan) far in the other tail, where it is 0
        return float(stats.nct.sf(limit, df, shift) + np.nan_to_num(other)) - power

    high = 1.0
    while missing(high) < 0:
        high *= 2
    return spread * float(np.asarray(optimize.brentq(missing, 0.0, high, xtol=1e-12)))


class Labelled(NamedTuple):
    """One arm's turns: those that the judge alone scored, and those that people scored too."""

    judge: Sequence[float]
    """Scores of the turns without a human label, and their prompts."""
    judge_prompts: Sequence[str]
    human: Sequence[float]
    """Labels, the judge's scores there, and their prompts."""
    judge_there: Sequence[float]
    prompts: Sequence[str]
    weights: Sequence[float] | None = None
    """How many turns each labelled one stands for where they were not drawn evenly (e.g. stratified by score)."""


def _corrected(arm: Labelled, index: Ints) -> tuple[float, Floats]:
    """The corrected mean, and each turn's influence on it summed by prompt. index: prompts of judge, then of human."""
    f, y, g = (np.asarray(x, float) for x in (arm.judge, arm.human, arm.judge_there))
    w = np.ones(len(y)) if arm.weights is None else np.asarray(arm.weights, float)
    w = w / w.sum()
    centre, off = float(f.mean()), float(w @ (y - g))
    influence = np.append((f - centre) / len(f), w * (y - g - off))
    return centre + off, sums_by(index, influence, int(index.max()) + 1)


def corrected_mean(arm: Labelled) -> Estimate:
    """Prediction-powered mean (Angelopoulos et al. 2023): the judge's mean plus what humans say it is off by.

    The interval is a cluster-t over all prompts; with fewer than two labelled prompts there is none.
    """
    if not len(arm.judge) or not len(arm.human):
        return NOTHING
    index, _ = numbered([*arm.judge_prompts, *arm.prompts])
    value, influence = _corrected(arm, index)
    return _interval(value, influence, len(set(arm.prompts)))


def corrected_difference(base: Labelled, arm: Labelled) -> Estimate:
    """Corrected mean of the arm minus that of the base; a prompt's influence on both is summed, so what it moves in
    both arms alike cancels. Degrees of freedom: labelled prompts of the arm with fewer of them, less 1.
    """
    if not all(len(one.judge) and len(one.human) for one in (base, arm)):
        return NOTHING
    index, c = numbered([*base.judge_prompts, *base.prompts, *arm.judge_prompts, *arm.prompts])
    cut = len(base.judge) + len(base.human)
    (left, u), (right, v) = _corrected(base, index[:cut]), _corrected(arm, index[cut:])
    influence = np.zeros(c)
    influence[: len(v)] += v
    influence[: len(u)] -= u
    return _interval(right - left, influence, min(len(set(base.prompts)), len(set(arm.prompts))))


def _interval(value: float, influence: Floats, labelled: int) -> Estimate:
    if labelled < 2:
        return Estimate(value, None, None)
    return around(value, float(cluster_se(influence)), labelled - 1)


def weighted_kappa(pairs: Mapping[tuple[int, int], int], top: int) -> float | None:
    """Quadratic-weighted kappa (Cohen 1968) of ratings 0..top. pairs: (one's rating, other's rating) → how many.

    None where both judges gave one and the same rating throughout: then chance alone explains all there is.
    """
    counts = np.zeros((top + 1, top + 1))
    for (one, other), n in pairs.items():
        counts[one, other] += n
    apart = np.subtract.outer(np.arange(top + 1), np.arange(top + 1)) ** 2
    by_chance = np.outer(counts.sum(1), counts.sum(0)) / counts.sum()
    expected = float((apart * by_chance).sum())
    return 1 - float((apart * counts).sum()) / expected if expected else None
