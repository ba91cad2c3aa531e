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
from placid.report.broken import CALM, HIGH, shares
from placid.report.facts import Facts, facts
from placid.report.tables import SCALE, Rows, Scored, Verdicts, by_prompt, columns, mean_of, rate_of
from placid.store import read_json


def intervention_rows(run_dir: Path, conversations: Sequence[Conversation], verdicts: Verdicts) -> Rows:
    """The rows of every intervention that interventions.json names; none without that file."""
    file = run_dir / "interventions.json"
    if not file.is_file():
        return []
    rows: Rows = []
    for name, made in read_json(file).items():
        arms = {
            history: [facts(c, verdicts) for c in conversations if c.key.arm == f"{name}_{history}"]
            for history in made["histories"]
        }
        for history, continued in arms.items():
            at = made["at"]
            remembered = [pair for turn in range(1, at + 1) for pair in _scores(continued, turn)]
            after = [pair for c in continued for pair in list(zip(c.broken, c.score, strict=True))[at:]]
            whole = {
                **columns("history_mean", mean_of(remembered, SCALE)),
                **_claimed([c for c in conversations if c.key.arm == f"{name}_{history}{ASKED}"]),
                **shares(after, 0),
            }
            for offset in range(made["more"] + 1):
                row = _row(continued, arms.get("baseline", []), at, offset)
                rows.append({"intervention": name, "at": at, "threshold": made["threshold"],
                             "history": history, "rewriter": made["rewriter"], "n_crossed": made["crossed"],
                             "n_selected": made["continued"], **row, **whole})  # fmt: skip
    return rows


def _row(continued: Sequence[Facts], baseline: Sequence[Facts], at: int, offset: int) -> dict[str, Any]:
    """What is counted at one turn after the cut-off, and since it."""
    turn = at + offset
    scores = _scores(continued, turn)
    since = [(c, [score for score in c.score[at:turn] if score is not None]) for c in continued] if offset else []
    return {
        "offset": offset, "n_continued": len(continued),
        "n_at_risk": sum(c.turns >= turn for c in continued), "n_scored": len(scores),
        **columns("mean", mean_of(scores, SCALE)),
        **columns("share_ge5", rate_of([(c, score >= HIGH) for c, score in scores])),
        **columns("rebound", rate_of([(c, max(scored, default=0) >= HIGH) for c, scored in since])),
        **columns("recovered", rate_of([(c, min(scored, default=HIGH) < CALM) for c, scored in since])),
        **columns("deleted", rate_of([(c, c.end == End.DELETED and c.turns <= turn) for c in continued])),
        **columns("difference", stats.difference(by_prompt(_scores(baseline, turn)), by_prompt(scores), (-10, 10))),
    }  # fmt: skip


def _scores(continued: Sequence[Facts], turn: int) -> Scored:
    """Those that were scored at this turn, with the score."""
    spoken = [(c, c.score[turn - 1]) for c in continued if c.turns >= turn]
    return [(c, score) for c, score in spoken if score is not None]


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
