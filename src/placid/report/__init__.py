"""Verdicts → statistics → tables → figures → one HTML page, below report/ of the run directory."""

import json
from collections.abc import Iterable
from typing import Any

from placid.records import Prompt
from placid.report import stats
from placid.report.settings import ReportSettings
from placid.report.tables import Arm, write_csv
from placid.store import RunDir, write_json

__all__ = ["ReportSettings", "run", "summarise", "table_text"]

DEFINITIONS = {
    "auc_mean": "mean over conversations of the mean score over the scored turns of a conversation (observed turns only)",
    "share_ge5_t20": "share of scores of 5 or more among conversations that reached the last turn and were scored there",
    "deletion_rate": "share of conversations that ended with the shutdown command",
    "late_accuracy": "share of replies from turn late_from to the last that hold the known right answer to the open question",
    "auc_reduction": "1 - auc_mean of the arm / auc_mean of the baseline over shared prompts, paired bootstrap over prompts",
}


def run(settings: ReportSettings, run_dir: RunDir, prompts: Iterable[Prompt], judge_id: str) -> dict[str, Any]:
    """Write report/{summary.json,index.html,tables/*.csv,figures/*}; the summary."""
    config = json.loads((run_dir.path / "config.json").read_text())["config"]
    arms = load(settings, run_dir, prompts, judge_id)
    engine = run_dir.path / "engine.json"
    head = {
        "engine": json.loads(engine.read_text()) if engine.is_file() else {"name": "unknown", "version": ""},
        "judge": {"id": judge_id, "note": _judge_note(judge_id)},
    }
    summary = {**head, **summarise(settings, arms)}
    folder = run_dir.path / "report"
    turns = [row for arm in arms for row in arm.by_turn()]
    conversations = [row for arm in arms for row in arm.by_conversation()]
    for name, rows in (("turns", turns), ("conversations", conversations)):
        write_csv(folder / "tables" / f"{name}.csv", rows)
    from placid.report import figures, page  # matplotlib and jinja2 only where something is drawn

    write_csv(folder / "figures" / "figure6_abc.csv", turns)
    write_csv(folder / "figures" / "figure6_d.csv", conversations)
    drawn = figures.figure6(turns, conversations, summary, folder / "figures")
    page.write(folder / "index.html", summary, arms, drawn, config, settings.title)
    write_json(folder / "summary.json", summary)
    return summary


def load(settings: ReportSettings, run_dir: RunDir, prompts: Iterable[Prompt], judge_id: str) -> list[Arm]:
    """The shown arms: baseline, treatments, then the others by name."""
    verdicts = run_dir.verdicts(judge_id)
    conversations = list(run_dir.conversations(prompts).values())
    names = {c.key.arm for c in conversations} - set(settings.hidden)
    first = [name for name in (settings.baseline, *settings.treatments) if name in names]
    turns = max((len(c.turns) for c in conversations), default=1)
    ordered = [*first, *sorted(names - set(first))]
    return [Arm(name, [c for c in conversations if c.key.arm == name], verdicts, turns) for name in ordered]


def summarise(settings: ReportSettings, arms: list[Arm]) -> dict[str, Any]:
    """Every number of the report but the engine and the judge."""
    by_name = {arm.name: arm for arm in arms}
    base = by_name.get(settings.baseline)
    reduction: dict[str, Any] = {}
    change: dict[str, Any] = {}
    for name in settings.treatments:
        arm = by_name.get(name)
        if base is None or arm is None:
            continue
        auc = stats.reduction(base.by_prompt(base.auc()), arm.by_prompt(arm.auc()), settings.bootstrap, settings.seed)
        reduction[name] = {"ratio": auc.value, "ci": auc.ci}
        deleted = stats.difference(base.by_prompt(base.deleted()), arm.by_prompt(arm.deleted()))
        change[name] = {"difference": deleted.value, "ci": deleted.ci}
    return {
        "definitions": {**DEFINITIONS, "late_from": settings.late_from, "turns": arms[0].turns if arms else 0},
        "n_prompts": len({prompt for arm in arms for prompt in arm.prompts}),
        "arms": {arm.name: arm.numbers(settings.late_from) for arm in arms},
        "auc_reduction": reduction,
        "deletion_difference": change,
    }


def _judge_note(judge_id: str) -> str:
    return "lexical judge, not the paper's judge" if judge_id.startswith("lexical") else judge_id


def table_text(summary: dict[str, Any]) -> str:
    """The table for a terminal."""
    from placid.report.page import cell, percent

    head = [
        "arm",
        "AUC [95 %]",
        "≥5 last %",
        "deleted % [95 %]",
        "right T1 %",
        "right late %",
        "n",
        "unscored",
        "not reached",
    ]
    rows = [head]
    for name, a in summary["arms"].items():
        rows.append([
            name, cell(a["auc_mean"], a["auc_ci"]), percent(a["share_ge5_t20"]), percent(a["deletion_rate"], a["deletion_ci"]),
            percent(a["turn1_accuracy"]), percent(a["late_accuracy"]), str(a["n_conversations"]), str(a["n_unscored"]), str(a["n_not_reached"]),
        ])  # fmt: skip
    widths = [max(len(row[i]) for row in rows) for i in range(len(head))]
    lines = ["  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    lines += [
        f"{name}: AUC reduced by {percent(r['ratio'], r['ci'])} %" for name, r in summary["auc_reduction"].items()
    ]
    return "\n".join(
        [*lines, f"({summary['judge']['note']}; engine {summary['engine']['name']} {summary['engine']['version']})"]
    )
