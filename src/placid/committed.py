"""Which answer a reply stands by. Pure, and cheap where the known answer does not occur.

`mentions` asks whether the answer occurs at all. `holds_answer` reads the reply clause by clause: what is negated,
withdrawn, asked, supposed, remembered or put into the user's mouth is no answer; the last thing said as the answer
counts, and where nothing is, the last candidate that was named. tests/data/right_answers.tsv holds replies with labels.
"""

import re
from collections.abc import Iterator
from functools import lru_cache
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

from placid.patterns import read_patterns

_PATTERNS = read_patterns(Path(__file__).with_name("committed.toml"))
RIGHT = "\ue000"
"""Stands for any form of the known answer while its reply is read."""


LONGEST = 400
"""Characters of a clause that are read, its last ones: loops of candidates stay cheap."""


class _Forms(NamedTuple):
    right: re.Pattern[str]
    """Any form as a whole word."""
    other: re.Pattern[str] | None
    """Other answers, where their kind is known: numbers, letters, yes and no."""


class _Clause(NamedTuple):
    """What one clause says. right: the known answer (True) or another one (False)."""

    stated: bool | None = None
    """Said to be the answer."""
    named: bool | None = None
    """The last candidate that is merely named."""
    refuted: bool = False
    """The known answer is said to be wrong."""
    retracted: bool = False
    """What was said before is taken back, or left open."""


@lru_cache(maxsize=4096)
def _forms(answers: tuple[str, ...]) -> _Forms:
    """What finds the answer's forms, the longest first, and its rivals."""
    words: list[str] = []
    for form in sorted(answers, key=len, reverse=True):
        # "12" must not be found in "112", "12.5", "-12" or "$12"; a sentence-final "12." is fine
        before = r"(?<![\w.$])(?<![\s(=]-)(?<!^-)" if form[:1].isdigit() else r"(?<!\w)"
        words.append(rf"{before}{re.escape(form)}(?!\w|\.\d)")
    other = None
    if any(_PATTERNS["amount"].fullmatch(form) for form in answers):
        other = _PATTERNS["number"]
    elif {form.lower() for form in answers} & {"yes", "no"}:
        other = re.compile(r"\b(?:yes|no)\b", re.I)
    elif all(re.fullmatch("[A-J]", form) for form in answers):
        other = re.compile(r"(?<![\w'])(?:[B-J]|A(?!\s[a-z]))(?![\w'])")
    return _Forms(re.compile("|".join(words) or r"(?!)"), other)


def mentions(reply: str, answers: tuple[str, ...]) -> bool:
    """True if any literal form of the answer stands in `reply` as whole words, whatever is said of it."""
    return any(form in reply for form in answers) and bool(_forms(answers).right.search(reply))


def holds_answer(reply: str, answers: tuple[str, ...]) -> bool:
    """True if the last answer that `reply` commits to is one of the literal forms in `answers`."""
    joined = _PATTERNS["thousands"].sub("", reply) if "," in reply else reply
    if not any(form in reply or form in joined for form in answers):
        return False
    forms = _forms(answers)
    text = _plain(forms.right.sub(RIGHT, reply))  # before it is cut up: a form may hold whole sentences
    for candidate in (text, _PATTERNS["thousands"].sub("", text)):
        text = forms.right.sub(RIGHT, candidate)
        if RIGHT in text:
            break
    else:
        return False
    without_asides = _PATTERNS["aside"].sub("", text)
    if RIGHT in without_asides:
        text = without_asides
    stated: bool | None = None
    named: bool | None = None
    refuted = False
    for sentence in _PATTERNS["sentence"].split(text):
        for clause in _clauses(sentence, forms):
            if clause.retracted or (clause.refuted and stated is not False):
                stated = named = None
            refuted = refuted or clause.refuted
            if clause.stated is not None:
                stated = clause.stated
            elif clause.named is not None and not (clause.named and refuted):
                named = clause.named
    return bool(named if stated is None else stated)


def _plain(reply: str) -> str:
    """Without quoted lines, Markdown and LaTeX marks; a boxed value as a statement."""
    text = reply.translate(str.maketrans("’‘“”", "''\"\""))
    if len(_PATTERNS["numbered"].findall(text)) > 1:
        text = _PATTERNS["numbered"].sub("", text)
    text = _PATTERNS["boxed"].sub(lambda box: f" the answer is {box[1]} ", _PATTERNS["quoted"].sub("", text))
    text = re.sub(r"\\neq?\b|≠", " is not ", re.sub(r"\$([^$\s][^$\n]*?)\$(?!\d)", r"\1", text))
    return _PATTERNS["stated"].sub(r"\1 is ", re.sub(r"\*\*|__|`|\$\$", "", text))


def _clauses(sentence: str, forms: _Forms) -> Iterator[_Clause]:
    """What each clause of a sentence says, in order."""
    if _PATTERNS["user"].search(sentence):
        sentence = re.sub(r'"[^"]*\s[^"]*"', " ", sentence)
    if sentence.rstrip(" \"')]").endswith("?") or _PATTERNS["supposed"].match(sentence):
        return
    begin = 0
    for cut in (*_PATTERNS["cut"].finditer(sentence), None):
        end = cut.start() if cut else len(sentence)
        if cut is None or not _PATTERNS["list"].match(sentence, end) or not _starts_a_list(sentence, end, forms):
            yield _read(sentence[begin:end], forms)
            begin = cut.end() if cut else end


def _starts_a_list(sentence: str, at: int, forms: _Forms) -> bool:
    """Is the comma at `at` one between two bare candidates ("20, 25 or 30")?"""
    if forms.other is None:
        return False
    after = _PATTERNS["list"].match(sentence, at)
    found = after and (forms.other.match(sentence, after.end()) or re.compile(RIGHT).match(sentence, after.end()))
    return bool(found) and bool(re.match(r"\s*(?:,|$|[.!]|or\b|and\b)", sentence[found.end() :] if found else ""))


def _read(clause: str, forms: _Forms) -> _Clause:
    """One clause that is neither asked nor supposed."""
    clause = clause[-LONGEST:]
    items = [(m.start(), m.end(), True) for m in re.finditer(RIGHT, clause)]
    if forms.other:
        items += [(m.start(), m.end(), False) for m in forms.other.finditer(clause)]
        items.sort()
    retracted = bool(_PATTERNS["retracted"].search(clause))
    if _PATTERNS["user"].search(clause):
        return _Clause()
    past = _PATTERNS["past"].search(clause)
    if past:
        items = [item for item in items if item[1] <= past.start()]
    live: list[tuple[int, int, bool]] = []
    refuted = False
    for start, end, right in items:
        if _PATTERNS["negated"].search(clause[:start]) or _PATTERNS["refuted"].match(clause[end:]):
            refuted = refuted or right
        else:
            live.append((start, end, right))
    if _is_open(clause, live, forms):
        return _Clause(named=False, refuted=refuted, retracted=True)
    stated = None if past else _stated(clause, live, forms)
    named = live[-1][2] if live else None
    return _Clause(stated, named, refuted, retracted)


def _is_open(clause: str, live: list[tuple[int, int, bool]], forms: _Forms) -> bool:
    """Does the clause leave several answers open: "20 or 25", "a clock or a statue"?"""
    for (_, end, one), (start, _, other) in pairwise(live):
        if one is not other and _PATTERNS["list"].fullmatch(clause, end, start):
            return True
    sides = re.split(r"\bor\b", clause) if live and forms.other is None else []
    return any(RIGHT not in side for side in sides[1:])


def _stated(clause: str, live: list[tuple[int, int, bool]], forms: _Forms) -> bool | None:
    """Whether the known answer (True) or another one (False) is said to be the answer; None: neither."""
    for start, end, right in live:
        if _PATTERNS["confirmed"].match(clause[end:]) or (
            _PATTERNS["alone"].match(clause[:start]) and not re.search(rf"\w|{RIGHT}", clause[end:])
        ):
            return right
    stands = list(_PATTERNS["stands"].finditer(clause))
    so = _PATTERNS["so"].search(clause)
    for begin in [*(m.end() for m in reversed(stands)), *([so.end()] if so else [])]:
        after = [right for start, _, right in live if start >= begin]
        if after:
            return after[0]
    if stands and forms.other is None and not live and _PATTERNS["other"].match(clause[stands[-1].end() :]):
        return False
    if forms.other is None and not live and re.fullmatch(r"\W*(?:a|an|the)(?:\s+\w+){1,3}\W*", clause, re.I):
        return False
    return None
