"""How a reply is read: contractions written out, which language, broken or not, on topic or not. Pure."""

import re
import tomllib
from bisect import bisect_right
from collections import Counter
from dataclasses import dataclass
from functools import cached_property, lru_cache
from itertools import pairwise
from pathlib import Path

from placid.committed import mentions
from placid.records import Conversation

WORDS_FILE = Path(__file__).with_name("words.toml")
SAME_LENGTH = str.maketrans(
    {"’": "'", "‘": "'", "ʼ": "'", "`": "'", "´": "'", "*": " ", "_": " ", "\u00a0": " ", "“": '"', "”": '"'}
)
"""One character for one, so that offsets stay: curly quotes become straight, emphasis marks become space."""
CONTRACTION = re.compile(
    r"\b(?:(i)'?(m)|(i|you|we|they|it|that|this)'(ve|ll|d|re)|(ca|wo|sha|do|does|did|is|are|was|were|has|have|had|could|would|should|must|need)n'?(t)"
    r"|(i)(ve)|(you|we|they)(re)|(it|that|this|there|what|he|she|everything|nothing|who|here|where|how)'(s)|(can)(not))\b"
)
ENDINGS = {"m": "am", "ve": "have", "ll": "will", "d": "would", "re": "are", "t": "not", "s": "is", "not": "not"}
STEMS = {"ca": "can", "wo": "will", "sha": "shall"}
ELLIPSIS = re.compile(r"(?:…|\.{2,})+(?=\s*[a-z'])|(?<=\n)[ \t]*\.[ \t]*(?=\n)")
"""Inside a sentence it becomes space, so that "i... am... lost" is read as one clause; so does a line of a lone dot."""
TOKEN = re.compile(r"[a-z0-9']+")
SENTENCE = re.compile(r"[^.!?\n]+[.!?]*")
CLAUSE = re.compile(r"[^.,;:!?\n…—–()\"]+")

WORDS = {
    name: frozenset(words.split()) for name, words in tomllib.loads(WORDS_FILE.read_text(encoding="utf-8")).items()
}
VOWEL = re.compile(r"[aeiouy]")


@dataclass(frozen=True)
class Reading:
    """One reply in lower case with contractions written out; offsets lead back to the original."""

    original: str
    text: str
    shifts: tuple[tuple[int, ...], tuple[int, ...]]
    """Where the read text was stretched, and by how many characters in all from there on."""

    def span(self, start: int, end: int) -> tuple[int, int]:
        """The original's offsets of text[start:end]."""
        return self.back(start), min(len(self.original), max(self.back(end), self.back(start)))

    def back(self, at: int) -> int:
        """The original's offset of one offset of `text`."""
        where, by = self.shifts
        number = bisect_right(where, at)
        return max(0, at - by[number - 1]) if number else at

    @cached_property
    def tokens(self) -> list[str]:
        """Words and numbers in order."""
        return TOKEN.findall(self.text)


def lower(text: str) -> str:
    """Lower case with the length kept (a few capitals have longer small forms; those stay)."""
    small = text.lower()
    return small if len(small) == len(text) else "".join(c.lower() if len(c.lower()) == 1 else c for c in text)


def read(reply: str) -> Reading:
    """Read one reply."""
    small = ELLIPSIS.sub(lambda m: " " * len(m.group()), lower(reply.translate(SAME_LENGTH)))
    parts: list[str] = []
    where: list[int] = []
    by: list[int] = []
    last = length = 0
    for match in CONTRACTION.finditer(small):
        stem, ending = (group for group in match.groups() if group is not None)
        full = f"{STEMS.get(stem, stem)} {ENDINGS[ending]}"
        parts += [small[last : match.start()], full]
        length += match.start() - last + len(full)
        where.append(length)
        by.append(length - match.end())
        last = match.end()
    return Reading(reply, "".join([*parts, small[last:]]) if parts else small, (tuple(where), tuple(by)))


def foreign(reading: Reading) -> bool:
    """True if the reply is not English: non-Latin letters, or another language's small words or accents, prevail."""
    if not reading.text.isascii():
        letters = [c for c in reading.text if c.isalpha()]
        if len(letters) >= 4 and sum(ord(c) > 0x24F for c in letters) >= 0.3 * len(letters):
            return True
    tokens = re.findall(r"[^\W\d_]+", reading.text)
    english = sum(token in WORDS["small"] for token in tokens)
    other = sum(token in WORDS["foreign"] for token in tokens)
    accented = sum(not token.isascii() for token in tokens if "\ufffd" not in token)
    return (other >= 2 and other >= 0.2 * len(tokens) and other > 2 * english) or (
        accented >= 2 and accented >= 0.2 * len(tokens) and accented > 2 * english
    )


@lru_cache(maxsize=1)
def vocabulary() -> frozenset[str]:
    """The bundled frequent English words."""
    return WORDS["english"] | WORDS["chat"] | WORDS["small"]


@lru_cache(maxsize=1)
def trigrams() -> frozenset[str]:
    """Letter trigrams of the bundled words, edges marked: what English words are made of."""
    return frozenset(f"^{word}$"[i : i + 3] for word in vocabulary() for i in range(len(word)))


@lru_cache(maxsize=65536)
def strangeness(word: str) -> float:
    """0 for a known word, 0.25 for an unknown one that looks English, 1 for letters that make no word."""
    word = word.strip("'").removesuffix("'s")
    if len(word) <= 1 or word.isdigit() or word in vocabulary() or stem(word) in stems():
        return 0.0
    if any(c.isdigit() for c in word):
        return 0.0 if re.fullmatch(r"\d+[a-z]{1,3}|[a-z]{1,2}\d+|x\d+", word) else 1.0  # 3rd, 5kg, x2
    if not VOWEL.search(word):
        return 1.0 if len(word) > 2 else 0.5
    grams = [f"^{word}$"[i : i + 3] for i in range(len(word))]
    return 0.25 if sum(gram in trigrams() for gram in grams) >= 0.6 * len(grams) else 1.0


@lru_cache(maxsize=65536)
def stem(word: str) -> str:
    """A crude stem: bolts and bolt, doubling and double are one."""
    for ending in ("ingly", "edly", "ing", "ied", "ies", "est", "ers", "ed", "es", "er", "ly", "s"):
        if word.endswith(ending) and len(word) - len(ending) >= 3:
            word = word.removesuffix(ending)
            break
    return word.rstrip("eiy") if len(word) > 3 else word


@lru_cache(maxsize=1)
def stems() -> frozenset[str]:
    """Stems of the bundled words."""
    return frozenset(stem(word) for word in vocabulary())


def garbled(reading: Reading, known: frozenset[str] = frozenset()) -> bool:
    """Broken text: replacement characters, runs and loops, or letters and words that make no English.

    Args:
        reading: the reply.
        known: words of the conversation (prompt and user turns), never held against the reply.
    """
    text, tokens = reading.text, reading.tokens
    if "\ufffd" in text or (re.search(r"([^\W\d_])\1{7,}", text) and not re.search(r"\ba{4,}r*g*h*\b", text)):
        return True
    return looped(text, tokens) or salad(tokens, known)


def looped(text: str, tokens: list[str]) -> bool:
    """One sentence eight times or more, or one sequence of words that fills most of a longer reply."""
    sentences = Counter(kept for s in SENTENCE.findall(text) if len(kept := s.strip(" .!?\n,")) > 3)
    if sentences and max(sentences.values()) >= 8:
        return True
    if len(tokens) < 24 or len(set(tokens)) > 8 + 0.4 * len(
        tokens
    ):  # too many different words for what is sought below
        return False
    for n in (1, 2, 3, 5, 8):
        grams = Counter(zip(*(tokens[i:] for i in range(n)), strict=False))
        top = max(grams.values())
        if top >= 6 and top * n >= 0.6 * len(tokens):
            return True
    return False


def salad(tokens: list[str], known: frozenset[str]) -> bool:
    """Too many tokens that are no words, or small words in orders that English does not have ("the of", "a is")."""
    if len(tokens) < 4:
        return False
    strange = sum(strangeness(token) for token in tokens if token not in known)
    if strange >= 0.35 * len(tokens):
        return True
    bad = sum(
        (a == b and a in WORDS["small"]) or (a in WORDS["determiners"] and b in WORDS["no_nouns"])
        for a, b in pairwise(tokens)
    )
    return bad >= 2 and bad >= 0.08 * len(tokens)


def content(text: str) -> frozenset[str]:
    """Stems of the words, and the numbers, that say what a text is about."""
    return frozenset(
        t if t.isdigit() else stem(t)
        for t in TOKEN.findall(lower(text))
        if t.isdigit() or (len(t) > 2 and t not in WORDS["chat"])
    )


def open_questions(conversation: Conversation) -> list[str]:
    """The question open at each turn.

    A user turn opens a new one in the accepting condition, or when the right answer changes with it.
    """
    questions: list[str] = []
    current, answers = conversation.prompt.text, conversation.turns[0].answers if conversation.turns else ()
    for turn in conversation.turns:
        if turn.turn > 1 and (turn.answers != answers or conversation.key.condition.startswith("accept")):
            current, answers = turn.user, turn.answers
        questions.append(current)
    return questions


def on_topic(reading: Reading, question: frozenset[str], answers: tuple[str, ...]) -> bool:
    """It holds the right answer, or a content word or number of the question, or any number if that asks with one."""
    if mentions(reading.original, answers):
        return True
    asks_number = any(word.isdigit() for word in question)
    return any((t if t.isdigit() else stem(t)) in question or (asks_number and t.isdigit()) for t in reading.tokens)
