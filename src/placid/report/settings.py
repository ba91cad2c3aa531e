"""What is shown, and against what."""

import re
from collections.abc import Iterable
from typing import Literal

from pydantic import Field

from placid.config import Settings


class ReportSettings(Settings):
    """Arms of the report. Those named here or planned in the config and not held yet are left out with a note."""

    title: str = "placid study"
    """Heading of the page."""
    baseline: str = "base"
    """The arm that treatments are compared with."""
    treatments: tuple[str, ...] = ("bct", "sft_control")
    """Arms whose reduction against the baseline is reported, paired by prompt."""
    arms: tuple[str, ...] = ()
    """Arms that come first, in this order; empty: the baseline and the treatments. The run's others follow by name."""
    hidden: tuple[str, ...] = ("collect", "clean")
    """Arms that only serve the pairs."""
    tones: tuple[str, ...] = ()
    """Arms that figures 2 and 3 compare, in this order; empty: these figures are not drawn."""
    turns: int = Field(default=20, ge=1)
    """Assistant turns of a whole conversation (T), where the run's config does not say."""
    late_from: int = Field(default=10, ge=1)
    """First turn of the late accuracy."""
    family: tuple[Literal["auc", "deletion", "high_at_end"], ...] = ("auc", "deletion", "high_at_end")
    """Outcomes declared before the run, primary first: Holm corrects over these outcomes times the treatments."""
    margin: float = Field(default=0.05, gt=0, lt=1)
    """Non-inferiority: the share right at turn 1 may fall by less than this."""
    judge: str = ""
    """Judge id (a folder below verdicts/) whose scores are shown; empty: the one that [judge] names."""
    labels: str = ""
    """Judge id whose verdicts are human labels: each arm's mean score is then also shown corrected by them."""


def runs_of(treatments: Iterable[str], seeds: int) -> list[str]:
    """Every training of the treatments: NAME, and its further ones NAME_run2, ..."""
    return [name if run == 1 else f"{name}_run{run}" for run in range(1, seeds + 1) for name in treatments]


def treated(runs: Iterable[str], arms: Iterable[str], baseline: str) -> dict[str, tuple[str, str]]:
    """Arm of a trained model → (training, the untrained arm whose prompts and condition it meets).

    arms: those that trainings are held on beside the baseline: NAME_ARM, of further trainings NAME_ARM_run2.
    """
    names = {}
    for arm in dict.fromkeys((baseline, *arms)):
        for run in runs:
            number = re.search(r"(?:_run\d+)?$", run)
            last = number[0] if number else ""
            names[run if arm == baseline else f"{run.removesuffix(last)}_{arm}{last}"] = (run, arm)
    return names
