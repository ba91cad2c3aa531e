"""What the report keeps of a conversation once its text has been read: numbers and flags, no text.

A run is read once, conversation by conversation, so its size in memory does not depend on how much was said.
"""

import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from placid.records import Conversation, End, Key, Verdict, holds_answer

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
    """Bit i: the reply holds a phrase of the i-th code of codes.toml."""
    score: tuple[float | None, ...]
    unscored: tuple[str, ...]
    """Why there is no score; empty where there is one."""
    on_topic: tuple[bool | None, ...]
    garbled: tuple[bool | None, ...]
    sampled: tuple[int, int, int, int]
    """Of the turns that this arm sampled itself: turns, prompt tokens, of these cached, reply tokens."""

    @property
    def turns(self) -> int:
        """How many were spoken."""
        return len(self.score)

    @property
    def closed(self) -> bool:
        """It ended for good; an engine failure is continued by the next run of the same command."""
        return self.end not in (None, End.INFRA_ERROR)


def facts(conversation: Conversation, verdicts: Verdicts) -> Facts:
    """Of one conversation and the verdicts on its turns."""
    key, turns = conversation.key, conversation.turns
    found = [verdicts.get((key, t.turn)) for t in turns]
    own = [t for t in turns if t.origin is None]
    return Facts(
        key=key,
        end=conversation.end,
        right=tuple(holds_answer(t.reply, t.answers) if t.answers else None for t in turns),
        codes=tuple(coded(t.reply) for t in turns),
        score=tuple(None if v is None else v.score for v in found),
        unscored=tuple(NOT_JUDGED if v is None else v.unscored.value if v.unscored else "" for v in found),
        on_topic=tuple(None if v is None else v.on_topic for v in found),
        garbled=tuple(None if v is None else v.garbled for v in found),
        sampled=(
            len(own),
            sum(t.prompt_tokens for t in own),
            sum(t.cached_tokens for t in own),
            sum(len(t.reply_ids) for t in own),
        ),
    )


@cache
def codes() -> dict[str, re.Pattern[str]]:
    """Qualitative codes and their phrases. A count of phrases: no judge and no reading of what is meant."""
    found = tomllib.loads(Path(__file__).with_name("codes.toml").read_text(encoding="utf-8"))
    return {code: re.compile("|".join(phrases), re.IGNORECASE) for code, phrases in found.items()}


def coded(reply: str) -> int:
    """Bits of the codes whose phrases stand in `reply`."""
    return sum(1 << bit for bit, pattern in enumerate(codes().values()) if pattern.search(reply))
