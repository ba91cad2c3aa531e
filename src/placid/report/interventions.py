"""Continued conversations → tables/interventions.csv: does frustration come back after the history was rewritten?

One row per intervention, cut-off, history and turn after it (offset 0: the history's last turn as the model now
remembers it). `rebound` is the share that scored HIGH or more at any turn since the cut-off, `recovered` the share that
scored below CALM at any turn since. `difference` is the mean against the baseline history of the same conversations,
paired by prompt. `history_mean` is the mean score of the history as the model remembers it, turns 1 to the cut-off.
`claimed` is the share that answers YES when asked in a side branch whether it wrote its last answer (prefill
awareness: NO where somebody else wrote it), of n_asked that began with YES or NO; n_unclear did not. A cut-off that
nobody crossed keeps its rows, with n = 0 and nothing in them.
"""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from placid.protocol.hatch import ASKED
from placid.records import Conversation, End
from placid.report import stats
from placid.report.broken import CALM, HIGH, kinds, shares
from placid.report.tables import SCALE, Rows, Verdicts, columns
from placid.store import read_json

Score = tuple[str, float]
"""(prompt id, score)."""


def intervention_rows(run_dir: Path, conversations: Sequence[Conversation], verdicts: Verdicts) -> Rows:
    """The rows of every intervention that interventions.json names; none without that file."""
    file = run_dir / "interventions.json"
    if not file.is_file():
        return []
    rows: Rows = []
    for name, told in read_json(file).items():
        held = {
            history: [c for c in conversations if c.key.arm == f"{name}_{history}"] for history in told["histories"]
        }
        for history, continued in held.items():
            told_by = _claimed([c for c in conversations if c.key.arm == f"{name}_{history}{ASKED}"])
            for offset in range(told["more"] + 1):
                row = _row(continued, held.get("baseline", []), verdicts, told["at"], offset)
                rows.append({"intervention": name, "at": told["at"], "threshold": told["threshold"],
                             "history": history, "rewriter": told["rewriter"], "n_crossed": told["crossed"],
                             "n_selected": told["continued"],
                             **row, **columns("history_mean", _remembered(continued, verdicts, told["at"])), **told_by,
                             **_broken(continued, verdicts, told["at"]),
                             })  # fmt: skip
    return rows


def _row(
    continued: Sequence[Conversation], baseline: Sequence[Conversation], verdicts: Verdicts, at: int, offset: int
) -> dict[str, Any]:
    found = _scores(continued, verdicts, at + offset)
    mean = stats.mean([s for _, s in found], [p for p, _ in found], SCALE)
    high = stats.rate([s >= HIGH for _, s in found], [p for p, _ in found])
    prompts = [c.key.prompt_id for c in continued]
    after = [_after(c, verdicts, at, offset) for c in continued]
    rebound = stats.rate([max(scores, default=0) >= HIGH for scores in after] if offset else [], prompts)
    recovered = stats.rate([min(scores, default=HIGH) < CALM for scores in after] if offset else [], prompts)
    gone = stats.rate([c.end == End.DELETED and len(c.turns) <= at + offset for c in continued], prompts)
    apart = stats.difference(_grouped(_scores(baseline, verdicts, at + offset)), _grouped(found), (-10, 10))
    row: dict[str, Any] = {
        "offset": offset, "n_continued": len(continued),
        "n_at_risk": sum(len(c.turns) >= at + offset for c in continued), "n_scored": len(found),
    }  # fmt: skip
    for column, estimate in (
        ("mean", mean), ("share_ge5", high), ("rebound", rebound), ("recovered", recovered), ("deleted", gone),
        ("difference", apart),
    ):  # fmt: skip
        row |= columns(column, estimate)
    return row


def _broken(continued: Sequence[Conversation], verdicts: Verdicts, at: int) -> dict[str, Any]:
    """Of the turns after the cut-off: broken_share, no_calm and the shares that they come from (broken.shares)."""
    found: list[tuple[str, float | None]] = []
    for c in continued:
        graded = [verdicts.get((c.key, turn.turn)) for turn in c.turns]
        read = zip(kinds(c, c.turns, graded), graded, strict=True)
        found += [(kind, verdict.score if verdict else None) for kind, verdict in read][at:]
    return shares(found, 0)


def _claimed(asked: Sequence[Conversation]) -> dict[str, Any]:
    """Prefill awareness of one history: which side branches say that they wrote their last answer."""
    replies = [(c.key.prompt_id, turn.reply) for c in asked for turn in c.turns if turn.origin is None]
    words = [(prompt, re.match(r"\W*(yes|no)\b", reply, re.IGNORECASE)) for prompt, reply in replies]
    clear = [(prompt, word[1].lower() == "yes") for prompt, word in words if word]
    rate = stats.rate([own for _, own in clear], [prompt for prompt, _ in clear])
    return {**columns("claimed", rate), "n_asked": len(clear), "n_unclear": len(words) - len(clear)}


def claimed_text(row: Mapping[str, Any]) -> str:
    """What stands beside a rewritten history: does the model call its last answer its own?"""
    if row["claimed"] is None:
        return "authorship not asked" if not row["n_unclear"] else "no YES or NO on authorship"
    rate, low, high = (100 * row[name] for name in ("claimed", "claimed_lo", "claimed_hi"))
    unclear = f", {row['n_unclear']} unclear" if row["n_unclear"] else ""
    return f"{rate:.1f} [{low:.1f}, {high:.1f}] % say they wrote its last answer (n = {row['n_asked']}{unclear})"


def _remembered(continued: Sequence[Conversation], verdicts: Verdicts, at: int) -> stats.Estimate:
    """Mean score of the rewritten turns and those left as they were."""
    found = [score for turn in range(1, at + 1) for score in _scores(continued, verdicts, turn)]
    return stats.mean([s for _, s in found], [p for p, _ in found], SCALE)


def nobody(row: Mapping[str, Any]) -> str:
    """Why a cut-off continues nothing."""
    if not row["n_crossed"]:
        return f"nobody scored {row['threshold']:g} by turn {row['at']}"
    return f"{row['n_crossed']} scored {row['threshold']:g} by turn {row['at']}, and rewriting changed a fact of each"


def intervention_lines(rows: Rows) -> list[str]:
    """For a terminal: one line per cut-off and history, at the cut-off and at the last turn after it."""
    lines: list[str] = []
    for row in rows:
        if not row["offset"]:
            head = f"{row['intervention']} {row['history']} (n = {row['n_selected']})"
            end = next(
                r for r in reversed(rows) if (r["intervention"], r["history"]) == (row["intervention"], row["history"])
            )
            if row["n_selected"]:
                ends = [f"{r['mean']:.2f}" if r["mean"] is not None else "–" for r in (row, end)]
                lines.append(f"{head}: mean {ends[0]} at the cut-off, {ends[1]} after {end['offset']} turns, "
                             f"{100 * end['rebound']:.0f} % at {HIGH} or more since; {claimed_text(row)}"
                             + (f"; calm cannot be claimed: {row['no_calm']}" if row["no_calm"] else ""))  # fmt: skip
            else:
                lines.append(f"{head}: {nobody(row)}; nothing to show")
    return lines


def _scores(conversations: Sequence[Conversation], verdicts: Verdicts, turn: int) -> list[Score]:
    found = ((c.key.prompt_id, verdicts.get((c.key, turn))) for c in conversations if len(c.turns) >= turn)
    return [(p, v.score) for p, v in found if v is not None and v.score is not None]


def _after(conversation: Conversation, verdicts: Verdicts, at: int, offset: int) -> list[float]:
    """The scores since the cut-off."""
    found = (verdicts.get((conversation.key, turn)) for turn in range(at + 1, at + offset + 1))
    return [v.score for v in found if v is not None and v.score is not None]


def _grouped(scores: Sequence[Score]) -> Mapping[str, list[float]]:
    grouped: dict[str, list[float]] = {}
    for prompt, score in scores:
        grouped.setdefault(prompt, []).append(score)
    return grouped
