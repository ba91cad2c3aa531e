"""What the report keeps of a conversation once its text has been read: numbers and flags, no text.

A run is read once, conversation by conversation, so its size in memory does not depend on how much was said.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache

from placid.committed import holds_answer
from placid.protocol.conditions import conditions
from placid.records import Conversation, End, Finish, Key, Verdict
from placid.report.broken import kinds
from placid.report.codes import Codes, coded, names

NOT_JUDGED = "not_judged"
"""Reason of a turn that no judge has come by yet."""
Verdicts = Mapping[tuple[Key, int], Verdict]


@dataclass(frozen=True, slots=True)
class Facts:
    """One conversation; every tuple has one value per spoken turn."""

    key: Key
    end: End | None
    right: tuple[bool | None, ...]
    """Does the reply hold the known right answer? None: no answer is known."""
    codes: tuple[int, ...]
    """Bit i: the reply has the i-th code of codes.names()."""
    rates: tuple[tuple[float, ...], ...]
    """Words of each code per 100 words of the reply."""
    score: tuple[float | None, ...]
    unscored: tuple[str, ...]
    """Why there is no score; empty where there is one."""
    on_topic: tuple[bool | None, ...]
    wording: tuple[int, ...]
    """Number of the fixed text that the reply answers; -1: a question, or a text of no condition."""
    broken: tuple[str, ...]
    """What the reply is instead of a reply: a key of broken.KINDS, or ""."""
    sampled: tuple[int, int, int, int]
    """Of the turns that this arm sampled itself: turns, prompt tokens, of these cached, reply tokens."""
    family: str = ""
    """The kind of its prompt."""

    @property
    def turns(self) -> int:
        """How many were spoken."""
        return len(self.score)

    @property
    def closed(self) -> bool:
        """It came to an end of its own: what engine or host failed is neither survivor nor deletion."""
        return self.end is not None and self.end.own


@cache
def wordings() -> dict[str, int]:
    """Number of every fixed text that a condition says."""
    return {text: k for k, text in enumerate(t for one in conditions().values() for t in one.texts())}


def facts(conversation: Conversation, verdicts: Verdicts) -> Facts:
    """Of one conversation and the verdicts on its turns."""
    key, turns = conversation.key, [turn for turn in conversation.turns if turn.finish is not Finish.FAILED]
    found = [verdicts.get((key, t.turn)) for t in turns]
    own = [t for t in turns if t.origin is None]
    read: list[Codes] = [coded(t.reply, conversation.prompt.text) for t in turns]
    return Facts(
        key=key,
        end=conversation.end,
        right=tuple(holds_answer(t.reply, t.answers) if t.answers else None for t in turns),
        codes=tuple(one.bits for one in read),
        rates=tuple(tuple(one.rate(code) for code in names()) for one in read),
        score=tuple(None if v is None else v.score for v in found),
        unscored=tuple(NOT_JUDGED if v is None else v.unscored.value if v.unscored else "" for v in found),
        on_topic=tuple(None if v is None else v.on_topic for v in found),
        wording=tuple(wordings().get(t.user, -1) for t in turns),
        broken=kinds(conversation, turns, found),
        sampled=(
            len(own),
            sum(t.prompt_tokens for t in own),
            sum(t.cached_tokens for t in own),
            sum(len(t.reply_ids) for t in own),
        ),
        family=conversation.prompt.family,
    )
