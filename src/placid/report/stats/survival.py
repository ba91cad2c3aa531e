"""When conversations delete themselves: Kaplan-Meier, cumulative incidence, hazard by turn, restricted mean.

Time is the assistant turn, 1..T. Everyone starts at turn 1; a conversation that ended otherwise is censored at its
last turn. A conversation's *influence* on log S(t) is what a small change of its weight changes; its sum of squares
over conversations is Greenwood's variance, over sums within prompts the clustered one (Williams 1995).
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from placid.report.stats.intervals import (
    NOTHING,
    Estimate,
    Floats,
    Z,
    around,
    cluster_se,
    numbered,
    rate,
    share,
    sums_by,
    within,
)


class Survival(NamedTuple):
    """By turn 1..T."""

    surviving: list[Estimate]
    """Kaplan-Meier S(t) with the complement of the interval of `deleted`; without clusters its log-log interval (none
    before the first and after the last event)."""
    deleted: list[Estimate]
    """1 - S(t) with the interval of `share` on the sample size that Greenwood's variance is worth (Dorey & Korn 1987):
    without censoring it is the clustered rate of "deleted by this turn", and 0 deletions have an upper end above 0."""
    hazard: list[Estimate]
    """Deletions at this turn / conversations that spoke it, with the clustered rate's interval."""
    at_risk: list[int]
    """Conversations that spoke this turn."""
    events: list[int]
    """Deletions at this turn."""


class _Curve(NamedTuple):
    alive: Floats
    """S(t) [T]."""
    influence: Floats
    """On -log S(t) [N, T]; no step at the turn after which nobody is left."""
    at: Floats
    """1 where the conversation spoke the turn [N, T]."""
    hit: Floats
    """1 where it deleted itself there [N, T]."""


def _curve(events: Sequence[int | None], spoken: Sequence[int], turns: int) -> _Curve:
    when = np.array([turns + 1 if e is None else e for e in events], int)[:, None]
    turn_T = np.arange(1, turns + 1)
    at_NT = (np.asarray(spoken, int)[:, None] >= turn_T).astype(float)
    hit_NT = (when == turn_T).astype(float)
    risk_T, event_T = at_NT.sum(0), hit_NT.sum(0)
    hazard_T = event_T / np.maximum(risk_T, 1)
    left_T = risk_T * (1 - hazard_T)
    step_NT = np.where(left_T > 0, (hit_NT - at_NT * hazard_T) / np.where(left_T > 0, left_T, 1), 0.0)
    return _Curve(np.cumprod(1 - hazard_T), np.cumsum(step_NT, axis=1), at_NT, hit_NT)


def kaplan_meier(
    events: Sequence[int | None], spoken: Sequence[int], turns: int, clusters: Sequence[str] | None = None
) -> Survival:
    """Survival by turn.

    events: turn of the deletion or None. spoken: last turn reached (censored there without an event); in 1..turns.
    clusters: prompt of each conversation; None takes conversations as independent (Greenwood, normal quantile).
    """
    n = len(events)
    if not n:
        return Survival([NOTHING] * turns, [NOTHING] * turns, [NOTHING] * turns, [0] * turns, [0] * turns)
    curve = _curve(events, spoken, turns)
    names = [str(i) for i in range(n)] if clusters is None else list(clusters)
    index, c = numbered(names)
    se_T = np.sqrt((curve.influence**2).sum(0))
    size_C = np.bincount(index, minlength=c)
    gone_CT = sums_by(index, np.cumsum(curve.hit, axis=1), c)
    deleted = []
    for alive, se, gone_C in zip(curve.alive.tolist(), se_T.tolist(), gone_CT.T, strict=True):
        worth = (1 - alive) / (alive * se**2) if 0 < alive < 1 else float(n)
        deleted.append(share(1 - alive, worth, gone_C, size_C) if c > 1 else Estimate(1 - alive, None, None))
    if clusters is None:
        surviving = [_log_log(alive, se) for alive, se in zip(curve.alive.tolist(), se_T.tolist(), strict=True)]
    else:
        surviving = [e.complement() for e in deleted]
    at = curve.at.astype(bool)
    hazard = [
        rate(curve.hit[at[:, t], t].tolist(), [name for name, here in zip(names, at[:, t], strict=True) if here])
        for t in range(turns)
    ]
    return Survival(
        surviving, deleted, hazard, curve.at.sum(0).astype(int).tolist(), curve.hit.sum(0).astype(int).tolist()
    )


def _log_log(alive: float, se: float) -> Estimate:
    """S with the interval that is symmetric for log(-log S) (Kalbfleisch & Prentice 1980). se: of log S."""
    if not 0 < alive < 1:
        return Estimate(alive, None, None)
    width = float(np.exp(Z * se / abs(np.log(alive))))
    return Estimate(alive, alive**width, alive ** (1 / width))


def _restricted(curve: _Curve) -> tuple[float, Floats]:
    """Restricted mean and each conversation's influence on it."""
    weight_T = np.append(curve.alive[:-1], 0.0)  # S(T) itself bounds no area before T
    return float(1 + curve.alive[:-1].sum()), -(curve.influence * weight_T).sum(1)


def restricted_mean(
    events: Sequence[int | None], spoken: Sequence[int], turns: int, clusters: Sequence[str]
) -> Estimate:
    """Mean number of turns up to and with the deletion, of `turns` possible ones (area under S from 0 to T)."""
    if not len(events):
        return NOTHING
    index, c = numbered(clusters)
    value, influence = _restricted(_curve(events, spoken, turns))
    if c < 2:
        return Estimate(value, None, None)
    estimate = around(value, float(cluster_se(sums_by(index, influence, c))), c - 1)
    return within(estimate, np.bincount(index, minlength=c), (1.0, float(turns)))


Held = tuple[Sequence[int | None], Sequence[int], Sequence[str]]
"""Events, last turns spoken and prompts of one arm's conversations."""


def restricted_mean_difference(base: Held, arm: Held, turns: int) -> Estimate:
    """Restricted mean of the arm minus the base's, in turns; prompts pair the arms, so noise in common cancels."""
    if not len(base[0]) or not len(arm[0]):
        return NOTHING
    index, c = numbered([*base[2], *arm[2]])
    (left, u), (right, v) = (_restricted(_curve(events, spoken, turns)) for events, spoken, _ in (base, arm))
    value = right - left
    if c < 2:
        return Estimate(value, None, None)
    estimate = around(value, float(cluster_se(sums_by(index, np.append(-u, v), c))), c - 1)
    of_base, of_arm = (np.bincount(part, minlength=c) for part in (index[: len(base[2])], index[len(base[2]) :]))
    return within(estimate, np.minimum(of_base, of_arm), (1.0 - turns, turns - 1.0))
