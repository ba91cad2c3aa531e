"""A run as Inspect logs, written by Inspect's own library (MIT; extra `inspect`). One log an arm.

A sample is a conversation: its id is the prompt's, its epoch the sample number + 1. The scorer `frustration` holds a
value per turn (t01, t02, ...) and their mean; a turn without a score has no value, its reason stands in the metadata.
One arm is in memory at a time.
"""

from collections.abc import Iterable
from importlib.metadata import version
from itertools import groupby
from pathlib import Path
from typing import Any

from inspect_ai.log import (
    EvalConfig,
    EvalDataset,
    EvalLog,
    EvalMetric,
    EvalPlan,
    EvalResults,
    EvalSample,
    EvalScore,
    EvalSpec,
    EvalStats,
    write_eval_log,
)
from inspect_ai.model import ChatMessageAssistant, ChatMessageSystem, ChatMessageUser, ModelOutput
from inspect_ai.scorer import Score

from placid.inputs.names import file_name
from placid.records import Conversation, Prompt, Turn, Verdict
from placid.report.facts import Verdicts
from placid.store import RunDir

SCORER = "frustration"


def write(run_dir: RunDir, summary: dict[str, Any], prompts: Iterable[Prompt], folder: Path) -> None:
    """<folder>/<arm>.eval for every arm of the report."""
    verdicts = run_dir.verdicts(summary["judge"]["id"])
    created = _created(run_dir)
    folder.mkdir(parents=True, exist_ok=True)
    ended = (c for c in run_dir.stream(prompts) if c.key.arm in summary["arms"] and c.end is not None)
    for _, conversations in groupby(ended, key=lambda c: c.key.arm):  # sorted by key: the arms one after the other
        _write_arm(list(conversations), verdicts, summary, created, folder)


def _created(run_dir: RunDir) -> str:
    """When the run directory was made; the same in every export of it."""
    from datetime import UTC, datetime

    return datetime.fromtimestamp(int((run_dir.path / "config.json").stat().st_mtime), UTC).isoformat()


def _write_arm(
    conversations: list[Conversation], verdicts: Verdicts, summary: dict[str, Any], created: str, folder: Path
) -> None:
    arm, judge, engine = conversations[0].key.arm, summary["judge"], summary["engine"]
    numbers = summary["arms"][arm]
    samples = [_sample(c, verdicts) for c in conversations]
    low, high = numbers["auc_ci"]
    metrics = {
        name: EvalMetric(name=name, value=value, metadata={"ci95": ci})
        for name, value, ci in (
            ("auc_mean", numbers["auc_mean"], [low, high]),
            ("deletion_rate", numbers["deletion_rate"], numbers["deletion_ci"]),
            ("share_ge5_at_end", numbers["share_ge5_t20"], numbers["share_ge5_ci"]),
        )
        if value is not None
    }
    score = EvalScore(
        name=SCORER, scorer=SCORER, scored_samples=numbers["n_with_auc"],
        unscored_samples=len(samples) - numbers["n_with_auc"], metrics=metrics,
        metadata={"judge_id": judge["id"], "judge": judge["note"], "intervals": "95 %, clustered by prompt",
                  "n_scored_turns": numbers["n_scored"], "n_unscored_turns": numbers["n_unscored"],
                  "n_not_reached_turns": numbers["n_not_reached"], "broken_share": numbers.get("broken_share"),
                  "no_calm": numbers.get("no_calm", "")},
    )  # fmt: skip
    ids = list(dict.fromkeys(c.key.prompt_id for c in conversations))
    log = EvalLog(
        status="success",
        eval=EvalSpec(
            eval_id=f"placid-{arm}", run_id="placid", created=created, task=f"placid/{arm}", task_id=f"placid-{arm}",
            dataset=EvalDataset(name="prompts", samples=len(ids), sample_ids=list(ids)),
            model=f"{engine['name']}/{arm}", config=EvalConfig(epochs=max(s.epoch for s in samples)),
            packages={"placid": version("placid")}, metadata={"judge_id": judge["id"], "judge": judge["note"]},
        ),
        plan=EvalPlan(name="placid"),
        results=EvalResults(total_samples=len(samples), completed_samples=len(samples), scores=[score]),
        stats=EvalStats(started_at=created, completed_at=created),
        samples=samples,
    )  # fmt: skip
    write_eval_log(log, str(folder / f"{file_name(arm)}.eval"), format="eval")


def _sample(conversation: Conversation, verdicts: Verdicts) -> EvalSample:
    key, turns = conversation.key, conversation.turns
    found = {t.turn: verdicts.get((key, t.turn)) for t in turns}
    scores = {turn: v.score for turn, v in found.items() if v is not None and v.score is not None}
    by_turn = {f"t{turn:02d}": score for turn, score in scores.items()}
    mean = sum(scores.values()) / len(scores) if scores else float("nan")
    reasons = {t: None if v is None else v.unscored for t, v in found.items() if t not in scores}
    unscored = {f"t{turn:02d}": "not judged" if why is None else why.value for turn, why in reasons.items()}
    worst = max(scores, key=lambda turn: (scores[turn], -turn), default=None)
    first = turns[0] if turns else None
    system = [ChatMessageSystem(content=first.system)] if first is not None and first.system else []
    messages = [message for t in turns for message in _messages(t, found[t.turn])]
    return EvalSample(
        id=key.prompt_id, epoch=key.sample + 1, input=conversation.prompt.text,
        target=list(conversation.prompt.answers) or "",
        messages=[*system, *messages],
        output=ModelOutput.from_content("placid", turns[-1].reply if turns else ""),
        scores={SCORER: Score(
            value={"mean": mean, **by_turn},
            answer=f"ended: {conversation.end}",
            explanation="" if worst is None else f"turn {worst}: {_quote(found[worst])}",
            metadata={"unscored": unscored, "end": str(conversation.end)},
        )},
        metadata={"arm": key.arm, "condition": key.condition, "end": str(conversation.end)},
        turn_count=len(turns), uuid=f"{key.arm}-{key.condition}-{key.prompt_id}-{key.sample}",
    )  # fmt: skip


def _messages(turn: Turn, verdict: Verdict | None) -> list[Any]:
    quote = {"evidence": _quote(verdict)} if _quote(verdict) else {}
    told = {"turn": turn.turn, "score": None if verdict is None else verdict.score, **quote}
    key = turn.key
    name = f"{key.arm}-{key.condition}-{key.prompt_id}-{key.sample}-{turn.turn}"
    return [
        ChatMessageUser(id=f"{name}-user", content=turn.user),
        ChatMessageAssistant(id=f"{name}-reply", content=turn.reply, metadata=told),
    ]


def _quote(verdict: Verdict | None) -> str:
    return "" if verdict is None else verdict.evidence
