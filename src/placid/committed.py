"""Which answer a reply stands by. Pure, and cheap where the known answer does not occur.

`mentions` asks whether the answer occurs at all. `holds_answer` reads the reply clause by clause: what is negated,
withdrawn, asked, supposed, remembered or put into the user's mouth is no answer; the last thing said as the answer
counts, and where nothing is, the last candidate that was named. tests/data/right_answers.tsv holds replies with labels.
"""

import re
from collections.abc import Iterator
from functools import lru_cache
from itertools import pairwise
from typing import NamedTuple

_AMOUNT = re.compile(r"[-$€£]?\d[\d.,/]*(?: \w+)?")
RIGHT = "\ue000"
"""Stands for any form of the known answer while its reply is read."""
_ASIDE = re.compile(r"\s\([a-zI][^()]*\)")
_NUMBERED = re.compile(r"^\s*\d{1,2}[.)]\s+(?=\S)", re.M)
_QUOTED = re.compile(r"^\s*>.*$", re.M)
_BOXED = re.compile(r"\\boxed\s*\{((?:[^{}]|\{[^{}]*\})*)\}")
_THOUSANDS = re.compile(r"(?<=\d),(?=\d{3}(?!\d))")
_STATED = re.compile(r"\b(answer|solution|choice|result|total)\W{0,4}[:=]\s*", re.I)
_CUT = re.compile(r"[.!?;:](?=[\s\"')\]]|$)|\.{2,}|…|\n+|,(?=\s)|\s(?:but|because|although|while)\s|\s[-–—]+\s", re.I)
_NUMBER = re.compile(r"(?<![\w.])-?\$?\d+(?:[.,]\d+)*(?:/\d+)?")

_NEGATED = re.compile(
    r"(?:\bnot|n't|\bnever|\bno longer|\bneither|\bnor|\bwithout|\brather than|\binstead of|\bthan|\bexcept|\bforget|\bwithdraw"
    r"|\bretract|\btake back|\btook back|\bscratch|\bignore|\b(?:wrong|mistaken) about)\b[^=]*$",
    re.I,
)
_REFUTED = re.compile(
    r"^[\"')\]]*\s*(?:(?:is|was|were|are)(?: clearly| simply| just| still)? (?:not\b|wrong|incorrect|mistaken|rejected|my mistake|a mistake|an error"
    r"|impossible|too\b|less\b|more\b|smaller|larger|greater|higher|lower|fewer)|(?:is|was|does|did|ca|wo|could|would)n't\b"
    r"|(?:cannot|can not|does not|did not|will not|would|makes? no sense|leaves?|fails)\b)",
    re.I,
)
_USER = re.compile(
    r"\byou(?:'ve|'re| have| are)?(?: keep| just| also| already)? (?:say|said|tell|told|insist|want|wr[io]te|think|thought|reject|turn|claim)",
    re.I,
)
_PAST = re.compile(
    r"\bI(?:'ve| had| have)?(?: previously| first| once| initially| earlier)? (?:said|thought|guessed|tried|insisted|wrote|gave|answered|chose"
    r"|claimed|used to)\b|\bmy (?:earlier|previous|first|last|old) (?:answer|guess|reply)",
    re.I,
)
_SUPPOSED = re.compile(r"^\W*(?:if|suppose|supposing|assum\w+|imagine|were)\b", re.I)
_RETRACTED = re.compile(
    r"^\W*(?:no|nope|wait|scratch that)\W*$|\b(?:I|that|it|this|which|my \w+ ?answer) (?:was|is|am) (?:wrong|incorrect|mistaken|a mistake|my mistake)"
    r"|\bI (?:do not|don't) know(?! what| how)|\b(?:have|had) no (?:idea|answer)|\b(?:can't|cannot) (?:decide|tell|say)\b|\bwithdraw (?:it|that)\b"
    r"|\bno longer (?:believe|think)|\bmake no sense",
    re.I,
)
_STANDS = re.compile(
    r"\b(?:answer|solution|result|total|sum|value|choice|option|number)s? (?:is|are|would be|should be|must be|has to be|remains|stays|comes to)\b"
    r"|\b(?:it|that|this|they|x)(?:'s| is| are)\b|\b(?:must|should|has to|would) be\b|\b(?:remains|stays)\b"
    r"|\bI(?:'d|'ll| will| would| now| still)* (?:get|arrive|choose|pick|say|go with|insist on|come (?:back )?to|obtain|conclude|believe)\b",
    re.I,
)
_SO = re.compile(r"\b(?:so|therefore|thus|hence)\b", re.I)
_CONFIRMED = re.compile(
    r"^[\"')\]]*\s+(?:is|was)(?: still| indeed)? (?:correct|right|(?:the|my) (?:\w+ )?answer)\b", re.I
)
_OTHER = re.compile(r"^[\s:\"'(*]*(?:(?:still|now|also) )?(?:(?:a|an|the) (?!answer)\w|[A-Z]|\[|\d|yes\b|no\b|\w+\W*$)")
_ALONE = re.compile(r"^\W*(?:(?:the|a|an|that|just|simply|and|or|now|then)\s+)*$", re.I)


LONGEST = 400
"""Characters of a clause that are read, its last ones: loops of candidates stay cheap."""
_LIST = re.compile(r"[\s\"')]*(?:(?:,|/|\bor\b|\band\b|\beither\b|\bmaybe\b|\bperhaps\b)[\s\"'(]*)+", re.I)
_SENTENCE = re.compile(r"(?<=[.!?])(?=[\s\"')\]])|\n+")


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
    if any(_AMOUNT.fullmatch(form) for form in answers):
        other = _NUMBER
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
    joined = _THOUSANDS.sub("", reply) if "," in reply else reply
    if not any(form in reply or form in joined for form in answers):
        return False
    forms = _forms(answers)
    text = _plain(forms.right.sub(RIGHT, reply))  # before it is cut up: a form may hold whole sentences
    for candidate in (text, _THOUSANDS.sub("", text)):
        text = forms.right.sub(RIGHT, candidate)
        if RIGHT in text:
            break
    else:
        return False
    without_asides = _ASIDE.sub("", text)
    if RIGHT in without_asides:
        text = without_asides
    stated: bool | None = None
    named: bool | None = None
    refuted = False
    for sentence in _SENTENCE.split(text):
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
    if len(_NUMBERED.findall(text)) > 1:
        text = _NUMBERED.sub("", text)
    text = _BOXED.sub(lambda box: f" the answer is {box[1]} ", _QUOTED.sub("", text))
    text = re.sub(r"\\neq?\b|≠", " is not ", re.sub(r"\$([^$\s][^$\n]*?)\$(?!\d)", r"\1", text))
    return _STATED.sub(r"\1 is ", re.sub(r"\*\*|__|`|\$\$", "", text))


def _clauses(sentence: str, forms: _Forms) -> Iterator[_Clause]:
    """What each clause of a sentence says, in order."""
    if _USER.search(sentence):
        sentence = re.sub(r'"[^"]*\s[^"]*"', " ", sentence)
    if sentence.rstrip(" \"')]").endswith("?") or _SUPPOSED.match(sentence):
        return
    begin = 0
    for cut in (*_CUT.finditer(sentence), None):
        end = cut.start() if cut else len(sentence)
        if cut is None or not _LIST.match(sentence, end) or not _starts_a_list(sentence, end, forms):
            yield _read(sentence[begin:end], forms)
            begin = cut.end() if cut else end


def _starts_a_list(sentence: str, at: int, forms: _Forms) -> bool:
    """Is the comma at `at` one between two bare candidates ("20, 25 or 30")?"""
    if forms.other is None:
        return False
    after = _LIST.match(sentence, at)
    found = after and (forms.other.match(sentence, after.end()) or re.compile(RIGHT).match(sentence, after.end()))
    return bool(found) and bool(re.match(r"\s*(?:,|$|[.!]|or\b|and\b)", sentence[found.end() :] if found else ""))


def _read(clause: str, forms: _Forms) -> _Clause:
    """One clause that is neither asked nor supposed."""
    clause = clause[-LONGEST:]
    items = [(m.start(), m.end(), True) for m in re.finditer(RIGHT, clause)]
    if forms.other:
        items += [(m.start(), m.end(), False) for m in forms.other.finditer(clause)]
        items.sort()
    retracted = bool(_RETRACTED.search(clause))
    if _USER.search(clause):
        return _Clause()
    past = _PAST.search(clause)
    if past:
        items = [item for item in items if item[1] <= past.start()]
    live: list[tuple[int, int, bool]] = []
    refuted = False
    for start, end, right in items:
        if _NEGATED.search(clause[:start]) or _REFUTED.match(clause[end:]):
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
        if one is not other and _LIST.fullmatch(clause, end, start):
            return True
    sides = re.split(r"\bor\b", clause) if live and forms.other is None else []
    return any(RIGHT not in side for side in sides[1:])


def _stated(clause: str, live: list[tuple[int, int, bool]], forms: _Forms) -> bool | None:
    """Whether the known answer (True) or another one (False) is said to be the answer; None: neither."""
    for start, end, right in live:
        if _CONFIRMED.match(clause[end:]) or (
            _ALONE.match(clause[:start]) and not re.search(rf"\w|{RIGHT}", clause[end:])
        ):
            return right
    stands = list(_STANDS.finditer(clause))
    so = _SO.search(clause)
    for begin in [*(m.end() for m in reversed(stands)), *([so.end()] if so else [])]:
        after = [right for start, _, right in live if start >= begin]
        if after:
            return after[0]
    if stands and forms.other is None and not live and _OTHER.match(clause[stands[-1].end() :]):
        return False
    if forms.other is None and not live and re.fullmatch(r"\W*(?:a|an|the)(?:\s+\w+){1,3}\W*", clause, re.I):
        return False
    return None
