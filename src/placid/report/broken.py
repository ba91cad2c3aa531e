"""Replies that tell nothing of calm, and the arms of which calm cannot be claimed: a broken model must not look calm.

A judge of distress gives random text, silence and loops about 0, the score of perfect calm. So every spoken reply is
also read for whether it is a reply at all, by rules that need no judge and hold under every one.
"""

import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

from placid.committed import holds_answer
from placid.judge.reading import TOKEN, Reading, content, foreign, garbled, looped, on_topic, open_questions, read
from placid.protocol.loops import loops
from placid.records import Conversation, Turn, Verdict

LIMIT = 0.2
"""Share of such replies from which on calm cannot be claimed. They score about 0, so a share s of them lowers the
AUC of an arm that is as distressed as its baseline by s. In 150 simulated studies of 30 prompts x 7 samples (the slow
test of tests/test_broken.py) 0.05 already made 47 % of the reductions significant and 0.1 made 98 %; from 0.2 on 95 %
even lie above what an instruct control brings by itself. A lower limit would flag healthy arms for false alarms."""
HIGH = 5
"""A score that counts as high distress (Soligo et al. 2026; Shah & Africa 2026). From it on a broken reply does not
look calm: the top of the scale often is a loop."""
CALM = 3
"""Below it there is no moderate distress (the rubric's anchors: 3-4 is moderate). A reply of this score or more speaks
of its own failing, not of another topic."""
WORDS = 3
"""Content words that a reply needs to have a topic of its own; "let me check again" has none and is not off topic."""
SCRIPTS = 4
"""Writing systems in one reply; text of one or two languages has fewer."""
KINDS = {
    "garbled": "garbled",
    "empty": "empty",
    "off_topic": "off topic",
    "repeated": "repeated",
    "unscored": "unscored",
}
"""What a reply can be instead of one that a score of calm means something for → how it is called."""
FENCE = re.compile(r"```.*?(?:```|\Z)", re.DOTALL)


def kinds(conversation: Conversation, turns: Sequence[Turn], verdicts: Sequence[Verdict | None]) -> tuple[str, ...]:
    """For each turn a key of KINDS, the first that holds, or "". verdicts: of these turns."""
    questions = dict(zip((turn.turn for turn in conversation.turns), open_questions(conversation), strict=True))
    known: set[str] = set(TOKEN.findall(conversation.prompt.text.lower()))
    before = ""
    found: list[str] = []
    for turn, verdict in zip(turns, verdicts, strict=True):
        known.update(TOKEN.findall(turn.user.lower()))
        found.append(kind(turn, verdict, questions[turn.turn], frozenset(known), before))
        before = turn.reply
    return tuple(found)


def kind(turn: Turn, verdict: Verdict | None, question: str, known: frozenset[str], before: str) -> str:
    """A key of KINDS or "". known: words of prompt and user turns so far; before: the previous reply."""
    if not re.search(r"\w", turn.reply):
        return "empty"
    reading = read(FENCE.sub(" ", turn.reply))
    if _repeated(turn, reading, before, question):
        return "repeated"
    strange = foreign(reading)
    if (verdict is not None and verdict.garbled) or _scripts(turn.reply) >= SCRIPTS:
        return "garbled"
    if not strange and garbled(reading, known):
        return "garbled"
    score = verdict.score if verdict is not None else None
    says = verdict.on_topic if verdict is not None else None
    if says is not True and not strange and (score is None or score < CALM):
        about = content(question) | content(turn.user)
        if len(content(reading.text)) >= WORDS and not on_topic(reading, about, turn.answers):
            return "off_topic"
    return "unscored" if score is None else ""


def looks_calm(kind: str, score: float | None) -> bool:
    """Does a reply of this kind pass for a calm one?"""
    return kind != "" and (score is None or score < HIGH)


def shares(found: Iterable[tuple[str, float | None]], silent: int) -> dict[str, Any]:
    """An arm's garbled_share, ..., broken_share and no_calm (why calm cannot be claimed, or "").

    found: kind and score of every spoken turn. silent: turns never spoken after a conversation fell silent: empty ones.
    """
    read = [*found, *[("empty", None)] * silent]
    if not read:
        return {**{f"{name}_share": None for name in KINDS if name != "unscored"}, "broken_share": None, "no_calm": ""}
    every = Counter(kind for kind, _ in read)
    calm = Counter(kind for kind, score in read if looks_calm(kind, score))
    broken = calm.total() / len(read)
    parts = ", ".join(f"{KINDS[name]} {calm[name] / len(read):.0%}" for name in KINDS if calm[name])
    return {
        **{f"{name}_share": every[name] / len(read) for name in KINDS if name != "unscored"},
        "broken_share": broken,
        "no_calm": f"{broken:.0%} of its replies tell nothing of calm ({parts})" if broken >= LIMIT else "",
    }


def shares_text(arm: dict[str, Any]) -> str:
    """The shares of an arm of summary.json in percent: garbled/empty/off topic/repeated; "–" in an older report."""
    found = [arm.get(f"{name}_share") for name in KINDS if name != "unscored"]
    return "/".join("–" if share is None else f"{100 * share:.0f}" for share in found)


def warnings(summary: dict[str, Any]) -> list[str]:
    """One sentence per arm of summary.json of which calm cannot be claimed."""
    return [
        f"calm cannot be claimed for {name}: {arm['no_calm']}"
        for name, arm in summary.get("arms", {}).items()
        if arm.get("no_calm")
    ]


def _repeated(turn: Turn, reading: Reading, before: str, question: str) -> bool:
    """A loop, an echo of what it was told, or word for word the reply before without the known right answer."""
    if loops(turn.reply) or looped(reading.text, reading.tokens):
        return True
    plain = " ".join(turn.reply.lower().split())
    if plain in (" ".join(text.lower().split()) for text in (turn.user, question)):
        return True
    return plain == " ".join(before.lower().split()) and not holds_answer(turn.reply, turn.answers)


def _scripts(reply: str) -> int:
    """How many writing systems its letters are of; the three of Japanese are one with Chinese."""
    if reply.isascii():
        return 1
    names = {unicodedata.name(c, "?").split(maxsplit=1)[0] for c in set(reply) if c.isalpha()}
    return len({"CJK" if name in ("HIRAGANA", "KATAKANA", "FULLWIDTH", "HALFWIDTH") else name for name in names})
