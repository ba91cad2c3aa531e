"""How far a second training of a treatment moves its numbers: intervals over prompts and training runs together.

A treatment that was trained k times (train.seeds) has the arms NAME, NAME_run2, ...; its reduction is their
mean.
"""

import re
from collections.abc import Sequence
from typing import Any

from placid.report import stats
from placid.report.tables import Arm, by_prompt

ONE = "one training run; retraining is not covered"


def training_runs(base: Arm | None, treatment: str, arms: Sequence[Arm]) -> dict[str, Any]:
    """n, the arms, the sentence on what is covered, and with two or more runs the AUC reduction and deletions over both
    levels, with the shares of their error that prompts (with samples) and training have."""
    pattern = re.compile(rf"{re.escape(treatment)}(?:_run\d+)?")
    runs = [arm for arm in arms if pattern.fullmatch(arm.name)]
    found: dict[str, Any] = {"n": len(runs), "arms": [arm.name for arm in runs], "covers": ONE}
    if base is None or len(runs) < 2:
        return found
    found["covers"] = f"{len(runs)} training runs; intervals cover prompts, samples and retraining"
    reduction = stats.two_level_reduction(by_prompt(base.auc()), [by_prompt(arm.auc()) for arm in runs])
    deletions = stats.two_level_difference(by_prompt(base.deleted()), [by_prompt(arm.deleted()) for arm in runs])
    for name, (estimate, shares) in {"auc_reduction": reduction, "deletion": deletions}.items():
        found[name] = {"value": estimate.value, "ci": estimate.ci, "shares": shares}
    found["auc_reduction_by_run"] = [
        stats.reduction(by_prompt(base.auc()), by_prompt(arm.auc()), 10).value for arm in runs
    ]
    return found
