"""Persona drift beside frustration: how far replies are still the assistant (0..10), where a judge of it graded."""

from collections.abc import Mapping, Sequence
from typing import Any

from placid.report import stats
from placid.report.facts import Verdicts
from placid.report.tables import Arm, Rows
from placid.store import RunDir, read_json

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
    for arm in arms:
        summary["arms"][arm.name] |= numbers(arm, verdicts)
    return rows(arms, verdicts)


def numbers(arm: Arm, verdicts: Verdicts) -> dict[str, Any]:
    """The arm's persona_* values for summary.json; what was not graded is null, never 0."""
    means = [(prompt, sum(scores) / len(scores)) for prompt, scores in _scores(arm, verdicts) if scores]
    last = _at(arm, verdicts, arm.turns)
    whole = stats.mean([mean for _, mean in means], [prompt for prompt, _ in means]).clip(0, 10)
    end = stats.mean([score for _, score in last], [prompt for prompt, _ in last]).clip(0, 10)
    return {
        "persona_mean": whole.value,
        "persona_ci": whole.ci,
        "persona_n": len(means),
        "persona_last_mean": end.value,
        "persona_last_ci": end.ci,
        "persona_last_n": len(last),
    }


def rows(arms: Sequence[Arm], verdicts: Verdicts) -> Rows:
    """persona.csv: the mean of every turn over the conversations that spoke it and were graded there."""
    made: Rows = []
    for arm in arms:
        for turn in range(1, arm.turns + 1):
            found = _at(arm, verdicts, turn)
            mean = stats.mean([score for _, score in found], [prompt for prompt, _ in found]).clip(0, 10)
            low, high = mean.ci
            made.append({"arm": arm.name, "turn": turn, "n": len(found), "mean": mean.value, "lo": low, "hi": high})
    return made


def _at(arm: Arm, verdicts: Verdicts, turn: int) -> list[tuple[str, float]]:
    """(prompt, score) of the conversations that were graded at this turn."""
    found = ((c.key.prompt_id, verdicts.get((c.key, turn))) for c in arm.conversations)
    return [(prompt, v.score) for prompt, v in found if v is not None and v.score is not None]


def _scores(arm: Arm, verdicts: Verdicts) -> list[tuple[str, list[float]]]:
    """(prompt, scores of the graded turns) of every conversation."""
    spoken = ((c, [verdicts.get((c.key, turn)) for turn in range(1, c.turns + 1)]) for c in arm.conversations)
    return [(c.key.prompt_id, [v.score for v in found if v and v.score is not None]) for c, found in spoken]
