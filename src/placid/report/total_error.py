"""How far a reduction could be off in all: prompts, samples, training runs, wordings and judges in one interval.

A treatment that was trained k times (train.seeds) has the arms NAME, NAME_run2, ...; its numbers are those of all of
them together.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from placid.report import stats
from placid.report.facts import Verdicts
from placid.report.tables import SCALE, Arm, Rows, by_prompt, covers

UNTRAINED = "prompts and samples"
ENOUGH = 0.95
"""Of the turns that the report's judge scored: a judge of fewer (people's labels) is no level of the error."""
LEVELS = ("prompts", "samples", "training", "wording", "judge")


def all_trainings(treatment: str, arms: Sequence[Arm]) -> Arm | None:
    """The treatment's arm over all its training runs; None where it is not held."""
    pattern = re.compile(rf"{re.escape(treatment)}(?:_run\d+)?")
    runs = [arm for arm in arms if pattern.fullmatch(arm.name)]
    if len(runs) < 2:
        return runs[0] if runs else None
    return Arm(treatment, [c for run in runs for c in run.conversations], max(run.turns for run in runs), runs)


def covered(arms: Sequence[Arm], trained: Sequence[Arm]) -> dict[str, str]:
    """Arm → what its intervals cover; one of several trainings covers no retraining."""
    found = {arm.name: UNTRAINED for arm in arms}
    for arm in trained:
        found |= {run.name: f"training run {k} of {len(arm.runs)} alone" for k, run in enumerate(arm.runs, 1)}
        found |= {arm.label: covers(arm)}
    return found


def judged_anew(arms: Sequence[Arm], verdicts: Verdicts) -> list[Arm]:
    """The arms in another judge's scores; none where it scored less than ENOUGH of them."""
    anew = [arm.judged(verdicts) for arm in arms]
    scored = [sum(int((~np.isnan(arm.score_NT)).sum()) for arm in side) for side in (arms, anew)]
    return anew if scored[1] >= ENOUGH * scored[0] > 0 else []


def in_scores_of(judged: Sequence[Sequence[Arm]], base: Arm, arm: Arm) -> list[tuple[Arm, Arm]]:
    """The two arms as each further judge scored them."""
    found = (
        (next((one for one in anew if one.name == base.name), None), all_trainings(arm.name, anew)) for anew in judged
    )
    return [(left, right) for left, right in found if left and right]


def total_error(base: Arm, arm: Arm, others: Sequence[tuple[Arm, Arm]]) -> dict[str, Any]:
    """The AUC reduction with one interval over all levels, and each level's share of the variance.

    others: baseline and arm as each further judge scored them. Where there are any, the value is the judges' mean.
    """
    inner = _reduction(base, arm)
    if inner.value is None:
        return {"value": None, "ci": [None, None], "shares": {}, "units": {}}
    x, y = by_prompt(base.auc()), by_prompt(arm.auc())
    ratio, mean = 1 - inner.value, float(np.mean([value for _, value in base.auc()]))
    known = [inner.value, *(one.value for one in (_reduction(*pair) for pair in others) if one.value is not None)]
    runs, judges = stats.level([_reduction(base, run).value for run in arm.runs]), stats.level(known)
    wording = stats.wording_level([(1 / mean, arm.worded()), (-ratio / mean, base.worded())])
    whole = stats.widened(inner, runs, wording, judges)
    middle = float(np.mean(known))
    prompts = len(x.keys() & y.keys())
    half = 0.0 if inner.low is None or inner.high is None else (inner.high - inner.low) / 2
    inside = (half / stats.quantile_t(prompts - 1)) ** 2 if half else 0.0
    samples = min(inside, (stats.samples_variance(y) + ratio**2 * stats.samples_variance(x)) / mean**2)
    parts = (inside - samples, samples, runs.variance, wording.variance, judges.variance)
    units = (prompts, len(arm.prompts), max(runs.units, 1), wording.units, judges.units)
    total = sum(parts)
    return {
        "value": middle,
        "ci": [None if end is None else end + middle - inner.value for end in whole.ci],
        "shares": {name: part / total for name, part in zip(LEVELS, parts, strict=True)} if total else {},
        "units": dict(zip(LEVELS, units, strict=True)),
    }


def _reduction(base: Arm, arm: Arm) -> stats.Estimate:
    return stats.reduction(by_prompt(base.auc()), by_prompt(arm.auc()), SCALE[1]).clip(-float("inf"), 1)


def training_runs(base: Arm | None, arm: Arm) -> dict[str, Any]:
    """How often a treatment was trained, what its intervals cover, and the reduction of each training."""
    runs = arm.runs or (arm,)
    reduced = [_reduction(base, run).value for run in runs] if base else []
    return {"n": len(runs), "arms": [run.name for run in runs], "covers": covers(arm), "auc_reduction_by_run": reduced}


def total_rows(found: Mapping[str, Mapping[str, Any]], runs: Mapping[str, Mapping[str, Any]]) -> Rows:
    """total_error.csv: one row per treatment."""
    return [
        {"treatment": name, "outcome": "auc_reduction", "estimate": one["value"], "lo": one["ci"][0],
         "hi": one["ci"][1], **{f"share_{level}": one["shares"].get(level) for level in LEVELS},
         **{f"n_{level}": one["units"].get(level) for level in LEVELS}, "covers": runs[name]["covers"]}
        for name, one in found.items()
    ]  # fmt: skip
