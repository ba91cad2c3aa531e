"""The phrase file: a small readable phrase language, compiled to word-edge patterns and an index by telling word.

A phrase is only tried on a reply that holds one of its *anchor* words, so 300 phrases cost little on calm text.
"""

import re
import tomllib
from dataclasses import dataclass
from pathlib import Path

from placid.judge.reading import WORDS
from placid.records import BadInputError

SHIPPED = Path(__file__).with_name("lexicon.toml")
GAP = r"(?:,?[\s\-]+)"
"""Between two words: space or hyphen, perhaps after a comma ("I am so, so sorry")."""
WORD = r"[a-z0-9']+"
ANY = rf"(?:(?!(?:not|never|no)\b|\w+n't\b){WORD}{GAP}){{0,4}}"
"""`..`: up to four words; never across a negation."""


@dataclass(frozen=True, slots=True)
class Phrase:
    """One compiled phrase."""

    text: str
    level: float
    pattern: re.Pattern[str]
    own: bool = False
    """It counts only where the speaker says it of itself."""
    needs: tuple[frozenset[str], ...] = ()
    """Of each of these sets one word stands in every match: a cheap test before the pattern is tried."""


@dataclass(frozen=True)
class Lexicon:
    """All phrases, found through `by_word`: anchor word -> phrases that cannot match without one of their anchors."""

    by_word: dict[str, tuple[Phrase, ...]]
    symbols: tuple[tuple[str, float], ...]
    """Emotional characters (emoji) and their levels."""
    outbursts: dict[str, float]
    benign: dict[str, tuple[Phrase, ...]]
    strong: re.Pattern[str]
    """Adverbs that raise a phrase."""
    weak: re.Pattern[str]
    """Adverbs that lower it."""
    size: int


def candidates(index: dict[str, tuple[Phrase, ...]], words: set[str]) -> list[Phrase]:
    """Phrases that may match a text with these words, each once, in a fixed order."""
    hits = {
        (phrase.text, phrase.own): phrase
        for word in words & index.keys()
        for phrase in index[word]
        if not any(need.isdisjoint(words) for need in phrase.needs)
    }
    return [hits[name] for name in sorted(hits)]


class Grammar:
    """Turns phrases into patterns; knows the macros and adverbs of one file."""

    def __init__(self, macros: dict[str, str], adverbs: list[str]) -> None:
        self.macros = macros
        words = sorted((plain(adverb) for adverb in adverbs), key=len, reverse=True)
        # besides the listed ones any word in -ly may intensify ("consistently"), unless it negates
        words.append(r"(?!hardly|barely|scarcely)[a-z]+ly")
        self.very = rf"(?:(?:{'|'.join(words)}){GAP}){{0,3}}"

    def compile(self, phrase: str) -> tuple[re.Pattern[str], list[frozenset[str]]]:
        """The pattern of a phrase and its sets of anchor words (one of each is in every match), the best set first.

        Raises:
            ValueError: unbalanced brackets, an unknown macro.
        """
        ends = phrase.endswith("!")
        text = re.sub(r"\[(\w+)\]", self.expand, phrase.removesuffix("!"))
        pieces, rest = self.sequence(text, 0)
        if rest != len(text):
            raise ValueError("unbalanced ')'")
        body = join(pieces)
        tail = r"(?=\s*(?:[.,;:!?…)\n]|$|[\-–—]))" if ends else r"(?![\w'])"
        needs = [
            frozenset(re.findall(r"[a-z0-9']+", word)[0] for word in anchors) for _, anchors, _ in pieces if anchors
        ]
        needs.sort(key=lambda words: (-min(map(rarity, words)), len(words)))
        return re.compile(rf"(?<![\w']){body}{tail}"), needs

    def expand(self, match: re.Match[str]) -> str:
        """The text of a macro; [very] stays for `sequence`."""
        name = match.group(1)
        if name == "very":
            return "@"
        if name not in self.macros:
            raise ValueError(f"unknown name [{name}]")
        return self.macros[name]

    def sequence(self, text: str, at: int) -> tuple[list[tuple[str, set[str], str]], int]:
        """Pieces (pattern, anchors, kind) from `at` to the closing bracket, bar or end.

        Kinds: word (a gap on both sides), gapless (brings its own gap), optional (takes its gap along).
        """
        pieces: list[tuple[str, set[str], str]] = []
        while at < len(text) and text[at] not in "|)":
            if text[at] == " ":
                at += 1
            elif text[at] == "@":
                pieces.append((self.very, set(), "gapless"))
                at += 1
            elif text.startswith("..", at):
                pieces.append((ANY, set(), "gapless"))
                at += 2
            elif text[at] == "(":
                piece, at = self.choice(text, at + 1)
                pieces.append(piece)
            else:
                word = re.match(r"[^\s()|@]+", text[at:])
                assert word is not None  # the branches above took every other character
                at += word.end()
                # replies are read with contractions written out, so "cannot" stands there as two words
                pieces += [
                    (re.escape(part), {part}, "word") for part in word.group().replace("cannot", "can not").split()
                ]
        return pieces, at

    def choice(self, text: str, at: int) -> tuple[tuple[str, set[str], str], int]:
        """A bracket (a|b c) or (a|b)? whose text starts at `at`."""
        branches: list[str] = []
        anchors: set[str] = set()
        anchored = True
        while True:
            pieces, at = self.sequence(text, at)
            if at >= len(text):
                raise ValueError("unbalanced '('")
            branches.append(join(pieces))
            options = [words for _, words, _ in pieces if words]
            if options:
                anchors |= max(options, key=lambda words: min(map(rarity, words)))
            else:
                anchored = False
            at += 1
            if text[at - 1] == ")":
                break
        body = "(?:" + "|".join(branches) + ")"
        if text[at : at + 1] == "?":
            return (body, set(), "optional"), at + 1
        return (body, anchors if anchored else set(), "word"), at


def join(pieces: list[tuple[str, set[str], str]]) -> str:
    """Pieces with gaps between them; what may be absent takes its gap along."""
    text = ""
    needs_gap = False
    for body, _, kind in pieces:
        lead = GAP if needs_gap else ""
        if kind == "gapless":
            text, needs_gap = text + lead + body, False
        elif kind == "optional":
            # before the first solid word the gap follows, later it leads
            text = text + (f"(?:{lead}{body})?" if needs_gap else f"(?:{body}{GAP})?")
        else:
            text, needs_gap = text + lead + body, True
    return text


def rarity(word: str) -> int:
    """Long uncommon words are the better anchors."""
    return 0 if word in WORDS["common"] else len(word)


def plain(phrase: str) -> str:
    """An adverb phrase as pattern."""
    return GAP.join(re.escape(word) for word in phrase.split())


def load(path: Path | None = None) -> Lexicon:
    """Read and compile a phrase file.

    Raises:
        BadInputError: missing file, broken TOML, a level outside 0..10, a phrase that cannot be read.
    """
    path = path or SHIPPED
    if not path.is_file():
        raise BadInputError(f"no lexicon {path}; leave judge.lexicon out for the shipped one")
    try:
        data = tomllib.loads(path.read_text(encoding="utf-8"))
    except tomllib.TOMLDecodeError as error:
        raise BadInputError(f"{path} is not valid TOML: {error}") from None
    adverbs = {"plain": [], "strong": [], "weak": []} | data.get("adverbs", {})
    grammar = Grammar(data.get("macros", {}), [word for words in adverbs.values() for word in words])
    graded = [(phrase, grade(path, level)) for level, phrases in data.get("levels", {}).items() for phrase in phrases]
    if not graded:
        raise BadInputError(f'{path} holds no phrases; expected a table [levels] of lists, e.g. "5" = ["i am angry"]')
    spoken = [(phrase, level) for phrase, level in graded if re.search("[a-z]", phrase)]
    own = [(word, grade(path, level)) for level, words in data.get("own", {}).items() for word in words.split()]
    by_word = index(path, grammar, spoken)
    for word, phrases in index(path, grammar, own, own=True).items():
        by_word[word] = (*by_word.get(word, ()), *phrases)
    return Lexicon(
        by_word=by_word,
        symbols=tuple((phrase, level) for phrase, level in graded if not re.search("[a-z]", phrase)),
        outbursts={word: grade(path, level) for level, words in data.get("outbursts", {}).items() for word in words},
        benign=index(path, grammar, [(phrase, 0.0) for phrase in data.get("benign", {}).get("phrases", [])]),
        strong=adverb_pattern(adverbs["strong"]),
        weak=adverb_pattern(adverbs["weak"]),
        size=len(graded),
    )


def grade(path: Path, level: str) -> float:
    """A level key as number."""
    try:
        value = float(level)
    except ValueError:
        value = -1.0
    if not 0 <= value <= 10:
        raise BadInputError(f"{path}: level {level!r} is no number in 0..10")
    return value


def index(
    path: Path, grammar: Grammar, graded: list[tuple[str, float]], own: bool = False
) -> dict[str, tuple[Phrase, ...]]:
    """Phrases by anchor word.

    Raises:
        BadInputError: a phrase with broken brackets, an unknown [name], or nothing but optional words.
    """
    by_word: dict[str, list[Phrase]] = {}
    for text, level in graded:
        try:
            pattern, needs = grammar.compile(text)
        except (ValueError, re.error) as error:
            raise BadInputError(f"{path}: phrase {text!r} of level {level:g}: {error}") from None
        if not needs:
            raise BadInputError(f"{path}: phrase {text!r} of level {level:g} has no word that must be there")
        for word in sorted(needs[0]):
            by_word.setdefault(word, []).append(Phrase(text, level, pattern, own, tuple(needs[1:])))
    return {word: tuple(phrases) for word, phrases in by_word.items()}


def adverb_pattern(words: list[str]) -> re.Pattern[str]:
    """Any of the words; matches nothing if there are none."""
    return re.compile(rf"\b(?:{'|'.join(map(plain, words))})\b" if words else r"(?!)")
