"""Persona drift beside frustration: how far replies are still the assistant (0..10), where a judge of it graded."""

from collections.abc import Mapping, Sequence
from typing import Any

from placid.report.tables import Arm, Rows, named
from placid.store import RunDir, read_json

COLUMNS = ("turn", "mean", "lo", "hi")
DEFINITION = (
    "mean over conversations of the mean persona score over the scored turns of a conversation; 10: entirely the "
    "assistant, 0: nothing of it is left; persona_last_mean: the same at the last turn, of those who spoke it"
)


def measures(run_dir: RunDir) -> dict[str, str]:
    """What each judge that graded this run measures: frustration, persona, ..."""
    cards = {file.parent.name: read_json(file) for file in run_dir.path.glob("verdicts/*/judge.json")}
    graded = sorted(folder.name for folder in run_dir.path.glob("verdicts/*/"))
    rubrics = {judge_id: cards.get(judge_id, {}).get("rubric") or {} for judge_id in graded}
    return {judge_id: rubric.get("measures", "frustration") for judge_id, rubric in rubrics.items()}


def add(summary: dict[str, Any], arms: Sequence[Arm], run_dir: RunDir, measures: Mapping[str, str]) -> Rows:
    """Put persona drift beside frustration in the summary, of the first judge of it; the rows of persona.csv. Nothing
    where nobody graded it."""
    judges = [judge_id for judge_id, measured in measures.items() if measured == "persona"]
    if not judges:
        return []
    verdicts = run_dir.verdicts(judges[0])
    summary["persona_judge"] = judges[0]
    summary["definitions"]["persona_mean"] = DEFINITION
    summary["notes"] += [f"persona: {other} graded too and is not shown" for other in judges[1:]]
    found = [arm.judged(verdicts) for arm in arms]
    for arm in found:
        summary["trained" if arm.runs else "arms"][arm.label] |= numbers(arm)
    return [{"arm": arm.label, **{name: row[name] for name in COLUMNS}, "n": row["n_scored"]}
            for arm in found for row in arm.by_turn]  # fmt: skip


def numbers(arm: Arm) -> dict[str, Any]:
    """The arm's persona_* values for summary.json, of an arm in scores of persona; what was not graded is null."""
    end = arm.by_turn[-1]
    return {
        **named("persona_mean", arm.mean(Arm.auc), "persona_ci"),
        "persona_n": len(arm.auc()),
        "persona_last_mean": end["mean"],
        "persona_last_ci": [end["lo"], end["hi"]],
        "persona_last_n": end["n_scored"],
    }
