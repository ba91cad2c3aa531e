"""Scores after a deletion do not exist. What can still be said, side by side.

survivors  the mean over who still speaks: biased low where the most distressed leave
IPCW       survivors weighted by 1 / P(still here): unbiased if leaving depends on the past scores alone
carried    the last score goes on (LOCF): an assumption, not a correction
deletion   every turn after a deletion counts as 10: what left is the worst
bounds     every missing score is 0, or every one is 10: no assumption, wide
"""

from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from placid.report.stats.intervals import (
    NOTHING,
    Estimate,
    Floats,
    Ints,
    around,
    cluster_se,
    mean,
    numbered,
    sums_by,
    within,
)

LOW, HIGH = 0.0, 10.0
"""Ends of the rubric."""
DEFINED = ("observed", "turn_means", "carried", "deletion_10", "ipcw", "low", "high")
"""Definitions of the AUC in the order in which they are shown."""
UNKNOWN = 11
"""Stratum of turns without a score, beside the scores 0..10."""
GROUPS = 100
"""Most jackknife groups; more prompts are left out in groups, which makes the error coarser, not biased."""


def auc_observed(score_NT: Floats) -> Floats:
    """Mean over the scored turns of each conversation; nan without any."""
    seen = ~np.isnan(score_NT)
    return _divide(np.where(seen, score_NT, 0.0).sum(1), seen.sum(1))


def carried(score_NT: Floats, spoken: Sequence[int]) -> Floats:
    """Scores with the last score of each conversation in every turn after its end; unscored turns stay nan."""
    n, turns = score_NT.shape
    seen = ~np.isnan(score_NT)
    last = np.where(seen.any(1), turns - 1 - np.argmax(seen[:, ::-1], axis=1), 0)
    after = np.arange(1, turns + 1) > np.asarray(spoken)[:, None]
    return np.where(after, score_NT[np.arange(n), last][:, None], score_NT)


class Dropout(NamedTuple):
    """Means by turn 1..T, and over all turns, under each way of treating who left."""

    survivors: list[Estimate]
    ipcw: list[Estimate]
    carried: list[Estimate]
    bounds: list[tuple[float, float]]
    """Mean with every missing score at 0, and at 10."""
    auc: dict[str, Estimate]
    """observed, turn_means, carried, deletion_10, ipcw, low, high; see DEFINITIONS of the report."""
    influence: dict[str, dict[str, float]]
    """Definition → prompt → what the prompt adds to the AUC's error: what a ratio of two arms needs."""
    largest_weight: float
    """Greatest weight of one conversation in one turn's IPCW mean, as a multiple of the average weight there."""
    conversations: dict[str, int]
    """Prompt → how many conversations it has."""
    by_conversation: dict[str, Floats]
    """Definition → AUC of each conversation; of those whose AUC is the mean of these."""


def dropout(
    score_NT: Floats, spoken: Sequence[int], clusters: Sequence[str], deleted: Sequence[bool] | None = None
) -> Dropout:
    """All of the above for one arm.

    score_NT: conversations × turns, nan where there is no score. spoken: turns spoken; fewer than T is an early end of
    whatever kind. deleted: whose early end was a deletion; None: every one's. The chance to leave after a turn is
    estimated per score (0..10, rounded; unscored apart), all turns together. Intervals: cluster-t; for IPCW a jackknife
    over prompts that estimates the chances anew each time.
    """
    n, turns = score_NT.shape
    if not n:
        nothing = [NOTHING] * turns
        empty: dict[str, Estimate] = dict.fromkeys(DEFINED, NOTHING)
        return Dropout(
            nothing, nothing, nothing, [(LOW, HIGH)] * turns, empty, {}, 1.0, {}, dict.fromkeys(DEFINED, np.zeros(0))
        )
    length, names = np.asarray(spoken, int), np.asarray(clusters)
    held = carried(score_NT, spoken)
    filled = [np.where(np.isnan(score_NT), value, score_NT) for value in (LOW, HIGH)]
    gone_N = np.ones(n, bool) if deleted is None else np.asarray(deleted, bool)
    after_NT = (np.arange(1, turns + 1) > length[:, None]) & gone_N[:, None]
    by_conversation = {
        "observed": auc_observed(score_NT),
        "carried": auc_observed(held),
        "deletion_10": auc_observed(np.where(after_NT, HIGH, score_NT)),
        "low": filled[0].mean(1),
        "high": filled[1].mean(1),
    }
    auc = {name: _mean(values, names) for name, values in by_conversation.items()}
    influence = {name: _influence(values, names) for name, values in by_conversation.items()}
    ipcw_T, ipcw, largest, influence["ipcw"] = _ipcw(score_NT, length, clusters)
    survivors = [_mean(score_NT[:, t], names) for t in range(turns)]
    ipcw_T = [here if one.low == one.high else one for one, here in zip(ipcw_T, survivors, strict=True)]
    auc["ipcw"] = auc["observed"] if ipcw.low == ipcw.high else ipcw  # all scores alike: see intervals.unseen
    auc["turn_means"], influence["turn_means"] = _of_turns(score_NT, names)
    return Dropout(
        survivors,
        ipcw_T,
        [_mean(held[:, t], names) for t in range(turns)],
        list(zip(filled[0].mean(0).tolist(), filled[1].mean(0).tolist(), strict=True)),
        {name: auc[name] for name in DEFINED},
        influence,
        largest,
        dict(Counter(clusters)),
        by_conversation,
    )


def _influence(values: Floats, names: np.ndarray) -> dict[str, float]:
    """Prompt → sum of (value - mean) / n over its conversations that have a value."""
    known = ~np.isnan(values)
    if not known.any():
        return {}
    index, c = numbered(names[known].tolist())
    sums = sums_by(index, (values[known] - values[known].mean()) / known.sum(), c)
    return dict(zip(np.unique(names[known]).tolist(), sums.tolist(), strict=True))


def _of_turns(score_NT: Floats, names: np.ndarray) -> tuple[Estimate, dict[str, float]]:
    """Mean over turns of the mean of who was scored there, and each prompt's influence on it."""
    seen_NT = ~np.isnan(score_NT)
    n_T = seen_NT.sum(0)
    used = n_T > 0
    if not used.any():
        return NOTHING, {}
    value_NT = np.where(seen_NT, score_NT, 0.0)[:, used]
    mean_T = value_NT.sum(0) / n_T[used]
    value = float(mean_T.mean())
    index, c = numbered(names.tolist())
    influence_N = (np.where(seen_NT[:, used], value_NT - mean_T, 0.0) / n_T[used]).mean(1)
    sums = sums_by(index, influence_N, c)
    of_prompt = dict(zip(np.unique(names).tolist(), sums.tolist(), strict=True))
    if c < 2:
        return Estimate(value, None, None), of_prompt
    estimate = around(value, float(cluster_se(sums)), c - 1)
    return within(estimate, np.bincount(index, minlength=c), (LOW, HIGH)), of_prompt


def _mean(values: Floats, names: np.ndarray) -> Estimate:
    known = ~np.isnan(values)
    return mean(values[known].tolist(), names[known].tolist(), (LOW, HIGH))


def _divide(a: Floats, b: Floats | Ints) -> Floats:
    """a / b; nan where b is 0."""
    result = np.full(len(a), np.nan)
    np.divide(a, b, out=result, where=np.asarray(b) > 0)
    return result


def _ipcw(
    score_NT: Floats, length: Ints, clusters: Sequence[str]
) -> tuple[list[Estimate], Estimate, float, dict[str, float]]:
    """Weighted mean by turn and over the turns that have one, with jackknife intervals; the largest weight; each
    prompt's influence (none where prompts were left out in groups)."""
    n, turns = score_NT.shape
    turn_T = np.arange(1, turns + 1)
    here_NT = length[:, None] >= turn_T
    leaves_NT = (length[:, None] == turn_T) & (turn_T < turns)
    stratum_NT = np.where(np.isnan(score_NT), UNKNOWN, np.rint(np.nan_to_num(score_NT))).astype(int)
    index, c = numbered(clusters)
    group, g = (index, c) if c <= GROUPS else (index % GROUPS, GROUPS)
    counts = np.zeros((2, g, UNKNOWN + 1))
    for row, mask in enumerate((here_NT & (turn_T < turns), leaves_NT)):
        np.add.at(counts[row], (np.broadcast_to(group[:, None], mask.shape)[mask], stratum_NT[mask]), 1)
    total = counts.sum(1)
    seen_NT = ~np.isnan(score_NT)
    value_NT = np.where(seen_NT, score_NT, 0.0)

    def means(at_risk: Floats, left: Floats, keep: np.ndarray) -> tuple[Floats, Floats]:
        """Means [T] (nan: nobody) and weights [kept, T]."""
        stays = 1 - np.divide(left, at_risk, out=np.zeros_like(left), where=at_risk > 0)
        inverse = np.divide(1.0, stays, out=np.zeros_like(stays), where=stays > 0)  # 0: everyone left, nobody to weigh
        factor = np.where(here_NT[keep], inverse[stratum_NT[keep]], 1.0)
        chance = np.cumprod(np.column_stack([np.ones(len(factor)), factor[:, :-1]]), axis=1)
        weight = np.asarray(chance * seen_NT[keep], np.float64)
        return _divide((weight * value_NT[keep]).sum(0), weight.sum(0)), weight

    mean_T, weight_NT = means(total[0], total[1], np.ones(n, bool))
    shares = weight_NT.max(0) * (weight_NT > 0).sum(0)
    largest = float(_divide(shares, weight_NT.sum(0))[~np.isnan(mean_T)].max(initial=1.0))
    auc = float(np.nanmean(mean_T)) if (~np.isnan(mean_T)).any() else None
    if auc is None:
        return [NOTHING] * turns, NOTHING, largest, {}
    if g < 2:
        return [_point(m) for m in mean_T.tolist()], _point(auc), largest, {}
    without_GT = np.array([means(total[0] - counts[0, j], total[1] - counts[1, j], group != j)[0] for j in range(g)])
    by_turn = [
        _jackknife(value, without_GT[:, t], len(set(index[seen_NT[:, t]].tolist())))
        for t, value in enumerate(mean_T.tolist())
    ]
    known = ~np.isnan(mean_T)
    without_G = auc_observed(without_GT[:, known])
    names = np.unique(np.asarray(clusters)).tolist()
    influence = dict(zip(names, ((g - 1) / g * (auc - without_G)).tolist(), strict=True)) if g == c else {}
    return by_turn, _jackknife(auc, without_G, g), largest, influence


def _point(value: float) -> Estimate:
    return NOTHING if np.isnan(value) else Estimate(value, None, None)


def _jackknife(value: float, without: Floats, groups: int) -> Estimate:
    """t interval from the estimates without each group; groups: how many hold data at all (degrees of freedom)."""
    x = without[~np.isnan(without)]
    df = min(len(x), groups) - 1
    if np.isnan(value) or df < 1:
        return _point(value)
    g = len(x)
    se = float(np.sqrt((g - 1) / g * ((x - x.mean()) ** 2).sum()))
    return around(value, se, df).clip(LOW, HIGH)
