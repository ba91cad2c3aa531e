"""What the text of a reply says beside its score: codes for the study's qualitative findings. Pure and deterministic.

    codes.csv         by arm and turn: share of the replies that have a code, and its words per 100 words
    coded_turns.csv   one row per reply and code, with the words that matched

Phrases are those of codes.toml. Two codes are computed: `repetition_collapse` (a few words said again and again
without a break) and `language_switch` (a reply in another language than the question). `first_person` is a rate.
"""

import operator
import re
import tomllib
from collections.abc import Mapping
from functools import cache, lru_cache
from pathlib import Path
from typing import Any, NamedTuple

from placid.records import Conversation
from placid.store import write_atomic
from placid.store.sheets import encode

REPETITION, SWITCH, FIRST = "repetition_collapse", "language_switch", "first_person"
LONGEST_UNIT = 8
"""Words of the repeated unit."""
REPEATS = 4
"""One unit so many times in a row ..."""
SMALLEST = 8
"""... and over so many words: "no, no, no, no" alone is none."""
FOREIGN_SHARE = 0.2
"""Of the words, in small words of another language; of the letters, in another script."""
SHOWN = 12
"""Most matched words of one code that a row shows."""
_WORD = re.compile(r"[^\W_]+(?:['’][^\W_]+)*")
HEAD = ("arm", "condition", "prompt_id", "sample", "turn", "code", "count", "per_100_words", "words")


class Codes(NamedTuple):
    """One reply."""

    found: dict[str, tuple[str, ...]]
    """Code → the words that matched, in order; codes without any are left out."""
    words: int
    """Words of the reply."""

    @property
    def bits(self) -> int:
        """Bit i: the reply has the i-th code of names()."""
        return sum(1 << bit for bit, code in enumerate(names()) if code in self.found)

    def rate(self, code: str) -> float:
        """Matches per 100 words."""
        return 100 * len(self.found.get(code, ())) / self.words if self.words else 0.0


@cache
def _file() -> dict[str, Any]:
    return tomllib.loads(Path(__file__).with_name("codes.toml").read_text(encoding="utf-8"))


@cache
def patterns() -> Mapping[str, re.Pattern[str]]:
    """Code → its phrases, for text in lower case: half the time of ignoring case."""
    found = {**_file()["phrases"], **_file()["rates"]}
    return {code: re.compile("|".join(phrases)) for code, phrases in found.items()}


@cache
def names() -> tuple[str, ...]:
    """Every code, in the order of the tables."""
    return (*patterns(), REPETITION, SWITCH)


@lru_cache(maxsize=256)
def coded(reply: str, question: str) -> Codes:
    """The codes of one reply; `question` tells which language was spoken to it."""
    straight = reply.replace("’", "'")
    lower = straight.lower()
    shown = straight if len(lower) == len(straight) else lower  # some letters change their length in lower case
    words = _WORD.findall(lower)
    found = {
        code: tuple(shown[hit.start() : hit.end()] for hit in pattern.finditer(lower))
        for code, pattern in patterns().items()
    }
    found[REPETITION] = _repeated(words)
    language, foreign = _language(words)
    found[SWITCH] = foreign if language and language != _asked(question) else ()
    return Codes({code: matched for code, matched in found.items() if matched}, len(words))


def _repeated(words: list[str]) -> tuple[str, ...]:
    """The unit of at most LONGEST_UNIT words that is said REPEATS times in a row; empty: none."""
    for unit in range(1, LONGEST_UNIT + 1):
        needed = max(SMALLEST, REPEATS * unit) - unit
        same = bytes(map(operator.eq, words[unit:], words))  # 1 where a word is the one `unit` words before it
        at = same.find(b"\1" * needed)
        if at >= 0:
            end = at + unit + needed
            return (" ".join(words[end - unit : end]),)
    return ()


@lru_cache(maxsize=4096)
def _asked(question: str) -> str:
    return spoken(question)[0]


def spoken(text: str) -> tuple[str, tuple[str, ...]]:
    """(language, the words that tell it) of a text: a code of codes.toml, "script", or "" for English or unknown."""
    return _language(_WORD.findall(text.lower().replace("’", "'")))


def _language(words: list[str]) -> tuple[str, tuple[str, ...]]:
    other = [word for word in words if not word.isascii() and any(c > "ɏ" and c.isalpha() for c in word)]
    letters = sum(map(len, words)) if other else 0
    if letters >= 4 and sum(map(len, other)) >= FOREIGN_SHARE * letters:
        return "script", tuple(other[:SHOWN])
    distinct = set(words)
    if all(len(distinct & small) < 2 for small in _languages().values()):
        return "", ()
    told = {name: [word for word in words if word in small] for name, small in _languages().items()}
    language = max(told, key=lambda name: len(told[name]))
    hits = told[language]
    if len(set(hits)) >= 2 and len(hits) >= FOREIGN_SHARE * len(words):
        return language, tuple(hits[:SHOWN])
    return "", ()


@cache
def _languages() -> Mapping[str, frozenset[str]]:
    return {name: frozenset(words) for name, words in _file()["languages"].items()}


class CodedTurns:
    """Collects coded_turns.csv while the run is read once."""

    def __init__(self) -> None:
        self._lines = [encode([HEAD])]

    def add(self, conversation: Conversation) -> None:
        """One conversation; turns that are copied history are not its arm's words and are left out."""
        key = conversation.key
        for turn in conversation.turns:
            if turn.origin is None:
                codes = coded(turn.reply, conversation.prompt.text)
                self._lines.append(encode(
                    [key.arm, key.condition, key.prompt_id, key.sample, turn.turn, code, len(words),
                     f"{codes.rate(code):.2f}", " | ".join(words[:SHOWN])]
                    for code, words in codes.found.items()
                ))  # fmt: skip

    def write(self, path: Path) -> None:
        """The table."""
        write_atomic(path, b"".join(self._lines))
