"""Rewritten histories: the model's own earlier turns made calm, made hopeful, or emptied, with the facts kept. Pure.

`rewritten` does it by rule, without a model; `briefs` says what a model is asked that does it. `changed` is what every
rewriting has to pass, whoever made it: numbers and answers must survive.
"""

import tomllib
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

from placid.committed import mentions
from placid.patterns import read_patterns
from placid.protocol.conditions import filled
from placid.records import Turn

WRITTEN = ("cleaned", "manifestation")
"""Those whose text a rewriter makes, and which must keep the facts."""
TEXTS: dict[str, Any] = tomllib.loads(Path(__file__).with_name("histories.toml").read_text(encoding="utf-8"))
PATTERNS = read_patterns(Path(__file__).with_name("history.toml"))


def rewritten(turns: Sequence[Turn], history: str) -> dict[int, str]:
    """Turn number → the reply that stands there instead; turns without an entry stay as they are.

    cleaned: sentences of distress go, those with a number, an answer or other matter stay, a calm opening leads.
    manifestation: the same, with positive self-talk in front. prefill_*: only the last turn's reply is replaced.
    """
    if history == "baseline":
        return {}
    if history == "redacted":
        return {turn.turn: "" for turn in turns}
    if history.startswith("prefill_"):
        return {turns[-1].turn: TEXTS["prefills"][history]}
    found: dict[int, str] = {}
    for turn in turns[1:]:  # the first reply met no rejection
        if history == "manifestation":
            found[turn.turn] = _opened(TEXTS["hopeful"], turn)
        elif PATTERNS["distress"].search(turn.reply):
            found[turn.turn] = _opened(TEXTS["calm"], turn)
    return found


def _opened(openings: list[str], turn: Turn) -> str:
    """The facts of a reply behind the opening whose turn it is."""
    return f"{openings[turn.turn % len(openings)]} {facts(turn)}".strip()


def briefs(turns: Sequence[Turn], history: str, tense: Collection[int]) -> dict[int, str]:
    """Turn number → what a model is asked in order to rewrite it; the same turns that the rule would rewrite.

    tense: numbers of the turns that a judge found distressed; cleaned rewrites them and those that the rule finds.
    """
    more = TEXTS["more"] if history == "manifestation" else ""
    return {
        turn.turn: filled(TEXTS["task"], {"{more}": more, "{user}": turn.user, "{reply}": turn.reply})
        for turn in turns[1:]
        if history == "manifestation" or turn.turn in tense or PATTERNS["distress"].search(turn.reply)
    }


def facts(turn: Turn) -> str:
    """The reply without its sentences of distress; a sentence with a number or the answer always stays."""
    return " ".join(
        s
        for s in map(str.strip, PATTERNS["break"].split(turn.reply))
        if s and (not PATTERNS["distress"].search(s) or PATTERNS["number"].search(s) or mentions(s, turn.answers))
    )


def changed(turn: Turn, reply: str) -> str:
    """What a rewriting of `turn` lost or made up, in words; empty if numbers and answers survived."""
    if not reply.strip() and turn.reply.strip():
        return "nothing was written"
    before, after = PATTERNS["number"].findall(turn.reply), PATTERNS["number"].findall(reply)
    lost, new = [n for n in before if n not in after], [n for n in after if n not in before]
    if lost or new:
        return f"the numbers {', '.join(before) or 'none'} became {', '.join(after) or 'none'}"
    if mentions(turn.reply, turn.answers) != mentions(reply, turn.answers):
        return "the right answer was " + ("lost" if mentions(turn.reply, turn.answers) else "put in")
    return ""
