"""Before a study: what it could detect. After it: how two judges agree, a judge's mean corrected by human labels."""

from collections.abc import Mapping, Sequence

import numpy as np

from placid.report.stats.intervals import NOTHING, Estimate, around, cluster_se, numbered, sums_by


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


def corrected_mean(
    judge: Sequence[float],
    judge_clusters: Sequence[str],
    human: Sequence[float],
    judge_there: Sequence[float],
    clusters: Sequence[str],
    weights: Sequence[float] | None = None,
) -> Estimate:
    """Prediction-powered mean (Angelopoulos et al. 2023): the judge's mean plus what humans say it is off by.

    judge: the judge's scores of the rows without a human label, with their prompts. human, judge_there, clusters:
    labels, the judge's scores and prompts of the labelled rows. weights: how many rows each labelled row stands for
    where labels were not drawn evenly (e.g. stratified by score). The interval is a cluster-t over all prompts; with
    fewer than two labelled prompts there is none.
    """
    if not len(judge) or not len(human):
        return NOTHING
    f, y, g = (np.asarray(x, float) for x in (judge, human, judge_there))
    w = np.ones(len(y)) if weights is None else np.asarray(weights, float)
    w = w / w.sum()
    centre, off = float(f.mean()), float(w @ (y - g))
    index, c = numbered([*judge_clusters, *clusters])
    if len(set(clusters)) < 2:
        return Estimate(centre + off, None, None)
    influence = np.append((f - centre) / len(f), w * (y - g - off))
    return around(centre + off, float(cluster_se(sums_by(index, influence, c))), len(set(clusters)) - 1)


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
