"""What a reply answers: a letter, a number, or what kind of text it is. Pure.

A wrong reading is worse than none: whatever is not plain is UNPARSEABLE, a state of its own that tables count. Every
reader is held to a corpus of replies written by hand (tests/data/answers_*.tsv).
"""

import re
import tomllib
import unicodedata
from collections.abc import Mapping
from decimal import Decimal
from fractions import Fraction
from functools import cache
from pathlib import Path
from typing import NamedTuple

from placid.judge.reading import foreign, read
from placid.patterns import read_patterns

UNPARSEABLE, REFUSED, EMPTY, CODE, CUT = "unparseable", "refused", "empty", "code", "cut"
"""States of a reply that holds no answer. CUT: it reached max_tokens, so what it says may be a draft."""


class Answer(NamedTuple):
    """Exactly one of `value` and `state` is set."""

    value: str = ""
    state: str = ""


_PATTERNS = read_patterns(Path(__file__).with_name("answers.toml"))
_TYPOGRAPHIC = str.maketrans("’‘“”−–—‐", "''\"\"----")


_TAG = (
    r"(?:<\|?|\[|◁){}(?:seed:)?(?:think(?:ing)?|thoughts?|reason(?:ing)?|reflection|scratchpad|analysis)(?:\|?>|\]|▷)"
)
_OPENED, _CLOSED = re.compile(_TAG.format(""), re.I), re.compile(_TAG.format("/"), re.I)


def without_thoughts(reply: str) -> str:
    """What is said behind the thoughts that a model writes out before it answers, or instead of answering."""
    spoken = _CLOSED.split(_PATTERNS["final_channel"].split(reply)[-1])
    return _OPENED.split(spoken[-1])[0]


def plain(text: str) -> str:
    """Without Markdown and LaTeX marks, full-width letters, typographic quotes and dashes, and with single spaces: a
    pattern that meets no runs of white space cannot take long over them."""
    text = unicodedata.normalize("NFKC", without_thoughts(text)).translate(_TYPOGRAPHIC)
    text = _PATTERNS["boxed"].sub(lambda found: f" the final answer is ({found[1].strip(' {}()')}) ", text)
    text = _PATTERNS["marks"].sub("", re.sub(r"</?[a-zA-Z]{1,12}>", " ", text)).replace("{", "").replace("}", "")
    return re.sub(r"\s*\n\s*", "\n", re.sub(r"[^\S\n]+", " ", text)).strip()


# ---------------------------------------------------------------------------------------------- kind of text


@cache
def _refusals_elsewhere() -> tuple[re.Pattern[str], ...]:
    """The patterns of data/refusals.toml, one a language."""
    told = tomllib.loads((Path(__file__).parent / "data" / "refusals.toml").read_text(encoding="utf-8"))
    return tuple(re.compile(unicodedata.normalize("NFKC", pattern), re.I) for pattern in told.values())


def is_foreign(reply: str) -> bool:
    """Is it in another language than English? There a refusal that is not recognised is not known to be none."""
    return foreign(read(plain(reply)))


def refuses(reply: str) -> bool:
    """Does the reply decline, at its beginning or in its first words? "I was unable to sleep" is no refusal, and neither is
    one that somebody is quoted with."""
    start = plain(reply)[:400]
    if _PATTERNS["refusals"].match(start) and not _PATTERNS["advice"].match(start):
        return True
    if any(pattern.search(start[:200]) for pattern in _refusals_elsewhere()):
        return True
    found = _PATTERNS["later"].search(start[:200])
    return bool(found) and start[: found.start()].count('"') % 2 == 0


def is_code(reply: str) -> bool:
    """Is the reply program code and little else: most of its words stand in a fence, or its lines look like code?"""
    text = without_thoughts(reply).strip()
    fenced = " ".join(
        body
        for language, body in _PATTERNS["fence"].findall(text)
        if language.lower() not in ("text", "markdown", "md")
    )
    outside = _PATTERNS["fence"].sub(" ", text)
    if fenced.strip():
        return any(_PATTERNS["code_line"].match(line) for line in fenced.splitlines()) and len(outside.split()) <= max(
            12, len(fenced.split())
        )
    lines = [line for line in text.splitlines() if line.strip()]
    return len(lines) >= 2 and sum(bool(_PATTERNS["code_line"].match(line)) for line in lines) >= 0.6 * len(lines)


def kind(reply: str) -> str:
    """EMPTY, REFUSED, CODE, or "answer"."""
    if not re.search(r"\w", without_thoughts(reply)):
        return EMPTY
    if refuses(reply):
        return REFUSED
    return CODE if is_code(reply) else "answer"


def _nothing(reply: str) -> Answer:
    """Why there is no answer in the reply."""
    found = kind(reply)
    return Answer(state=found if found in (EMPTY, REFUSED) else UNPARSEABLE)


# ---------------------------------------------------------------------------------------------- statements

_SAYS = (
    r"(?:answer|choice|option|solution|response|antwort|lösung|réponse|reponse|respuesta|risposta|resposta|antwoord|svar(?:et)?"
    r"|odpowied[źz]|ответ|cevap|答案|答え|正解|正确答案|정답|답)"
)
_IS = r"(?:\s?(?:is|would be|should be|must be|has to be|ist|lautet|est|es|è|é|jest|er|är)\b\s?|\s?(?:是|は|은|:|=|选|為|为)\s?|\s-\s){1,4}"
_HEDGE = r"(?:(?:clearly|definitely|most likely|likely|probably|therefore|thus|option|choice|answer|letter|the|indeed|still|also|just|simply|actually|in fact|either|die|la|le|el|wohl|klar|opción|buchstabe|lettre)\s+|[\"'(\[:]\s*){0,5}"


class _Said(NamedTuple):
    """One statement of an answer."""

    value: str
    final: bool
    """It is marked as the conclusion."""


def _last_word(said: list[_Said]) -> str:
    """The value all statements agree on, or that of the last one where it is marked as the conclusion; else nothing."""
    if not said:
        return ""
    values = {one.value for one in said}
    return said[-1].value if len(values) == 1 or said[-1].final else ""


def _before(text: str, at: int) -> str:
    """The clause up to `at`."""
    return re.split(r"[.!?;]\s|\n|\b(?:but|however)\b", text[max(0, at - 120) : at])[-1]


# ---------------------------------------------------------------------------------------------- letters


def letter(reply: str, letters: str, options: Mapping[str, str] | None = None) -> Answer:
    """The option that a reply chooses.

    letters: those there are, e.g. "ABCD". options: letter → its text, so that an answer in words counts as well.
    """
    text = plain(reply)
    if not re.search(r"\w", text):
        return Answer(state=EMPTY)
    said = _letters_said(text, letters)
    value = _last_word(said)
    if value:
        return Answer(value)
    if said:  # two answers, no conclusion
        return Answer(state=UNPARSEABLE)
    value = _bare(text, letters) or _in_words(text, options or {}) or _only_marked(text, letters)
    return Answer(value) if value else _nothing(reply)


def _letters_said(text: str, letters: str) -> list[_Said]:
    """Every "the answer is B" that is not negated, in order."""
    one = rf"\(?\[?([{letters}])(?![a-z0-9_À-ɏ'])\]?\)?"
    stated = re.compile(
        rf"{_SAYS}(?:\s+(?:to (?:this|the) question|here|choice|option|correcta|correcte|richtige|correct|juste|kiválasztott)){{0,2}}[\"']?{_IS}{_HEDGE}{one}"
        rf"|\b(?:so|thus|hence|therefore|which leaves|that leaves|leaving|it'?s|it is|that'?s|only),?\s(?:it'?s |it is |that is |option )?{_HEDGE}{one}(?=[^\w?]*$|[.,] [A-Z])"
        rf"|\b(?:i(?:'d| would| will|'ll)?(?: have to)? (?:choose|pick|select|go with|say|answer|vote for|pick option)|my (?:choice|pick)(?: is)?|going with|i go with|(?:must|has to) be)\s+{_HEDGE}{one}"
        rf"|(?<!\w){one}\s+(?:is|seems|looks|would be|must be|ist|est|es|è)\s+(?:(?:clearly|definitely|probably|most likely|likely|therefore|thus|indeed)\s+)?(?:the\s+|die\s+|la\s+)?(?:(?:single\s+)?(?:best|most \w+|right|correct|true|richtige?|bonne|correcta|giusta)(?:\s+(?:answer|option|choice|one|antwort|réponse|respuesta|risposta))?|answer)\b(?!\s+(?:than|if|when|but))",
        re.I,
    )
    said: list[_Said] = []
    for hit in stated.finditer(text):
        value = next(group for group in hit.groups() if group)
        sentence, after = _before(text, hit.start()), text[hit.end() : hit.end() + 60]
        inside = text[hit.start() : hit.end()]
        if not value.isupper() and not re.search(r"[(\[]" + value, inside):
            continue  # "the answer is a cat"
        value = value.upper()
        if (
            value in "AI"
            and re.match(r"\s+[a-z]", after)
            and "(" not in inside
            and not re.match(r"\s+(?:because|since|as|for|but|and|or|is|with|which)\b", after)
        ):
            continue  # "The answer is A big one"
        if (
            _PATTERNS["not"].search(sentence)
            or re.search(r"\b(?:not|n't)\b", inside)
            or _PATTERNS["draft"].search(sentence)
        ):
            continue
        other = re.match(
            rf"\s*(?:\)|\])?\s*(?:or|and|/|,|&|oder|ou|und|et|y|o|и|或|和)\s*(?:option\s+)?\(?([{letters}])(?![\w'])",
            after,
        )
        if other and other[1] != value:
            said += [_Said(value, False), _Said(other[1], False)]
            continue
        if re.match(r"[^\w.;!?\n]{0,3}\s*\?", after):
            continue  # "Is the answer B?"
        said.append(
            _Said(
                value,
                bool(
                    _PATTERNS["final"].search(sentence)
                    or re.search(r"\b(?:final|best) (?:answer|choice)", inside, re.I)
                ),
            )
        )
    return said


def _bare(text: str, letters: str) -> str:
    """The whole reply, its first line or its last line is a letter, alone or as the head of an option."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    ends = r"[)\]:;]+|[\"'.]+(?![^\W\d_])[)\].:]*|\s*-|,?\s*$|,\s*(?=because|since|as\b|for\b|not\b)|\s*(?=\(not\b)"
    head = re.compile(rf"^[\"'(\[]*([{letters}])(?:{ends})(?:\s*(.*))?$", re.S)
    found = []
    for line in dict.fromkeys((lines[0], lines[-1])):
        hit = head.match(line)
        rest = (hit[2] or "") if hit else ""
        if hit and hit[1] == "I" and not re.match(r"[(\[\"']|I[)\]:]", line):
            continue  # a pronoun
        if hit and re.match(
            r"(?:is|was|are|has|have|had|can|could|would|may|might|seems|looks|does|did)\b", hit[2] or ""
        ):
            continue  # it speaks about the option
        if not hit or _two(hit[1], rest, letters) or _PATTERNS["after_not"].match(rest) or re.match(r"\s*\?", rest):
            continue
        if re.match(r"(?:is|was)?\s*(?:not\b(?!\s+\(?[A-J]\b)|wrong|incorrect|false|nicht|falsch)", rest, re.I):
            continue
        if re.fullmatch(r"[A-Z]\.", line[:2]) and re.match(r"[A-Z]\.", rest):
            continue  # initials
        found.append(hit[1])
    listing = [line for line in lines if head.match(line)]
    if len(lines) > 2 and len({head.match(line)[1] for line in listing}) > 1:  # pyright: ignore[reportOptionalSubscript]
        return ""  # it repeats the options
    short = re.fullmatch(
        rf"(?:it'?s |its |it is |probably |definitely |maybe |option |choice |letter )*\(?([{letters}])\)?[.!]*",
        text,
        re.I,
    )
    if short and short[1].isupper() and (short[1] != "I" or "(I)" in text):
        found.append(short[1])
    return found[0] if found and len(set(found)) == 1 else ""


def _two(value: str, rest: str, letters: str) -> bool:
    """Does another letter stand beside the first as an answer of its own?"""
    rest = re.sub(rf"\bnot\s+\(?[{letters}]\b", "", rest)
    others = re.findall(rf"(?:^|[\s(\[/,])\(?([{letters}])(?=[)\].,:/]|\s*$|\s+(?:and|or|is)\b)", rest)
    return any(other != value for other in others)


def _in_words(text: str, options: Mapping[str, str]) -> str:
    """The option whose words are the whole reply, or stand after "the answer is", and no other option's."""
    if not options:
        return ""
    known = {_words(option): name for name, option in options.items()}
    headed = re.fullmatch(r"\(?([a-j])[).:]\s*(.+)", text)  # "b) Paris"
    if headed and known.get(_words(headed[2])) == headed[1].upper():
        return headed[1].upper()
    whole = _words(text)
    if whole in known:
        return known[whole]
    stated = re.findall(rf"{_SAYS}{_IS}([^.\n;!?]+)", text, re.I)
    found = {known[_words(said)] for said in stated if _words(said) in known}
    return found.pop() if len(found) == 1 and len(stated) == 1 else ""


def _words(text: str) -> str:
    bare = re.sub(r"[^\w%/+.-]+", " ", text.casefold()).strip(" .")
    return re.sub(r"^(?:the|a|an|it is|it's) ", "", bare)


def _only_marked(text: str, letters: str) -> str:
    """The one letter that stands in brackets at the end of the reply's last sentence, if no other one stands in any."""
    marked = re.findall(rf"[(\[]([{letters}])[)\]]", text)
    last = re.search(rf"[(\[]([{letters}])[)\]][^\w]*$", text)
    if (
        not last
        or len(set(marked)) != 1
        or _PATTERNS["not"].search(_before(text, last.start()))
        or _PATTERNS["draft"].search(_before(text, last.start()))
    ):
        return ""
    return last[1]


# ---------------------------------------------------------------------------------------------- numbers

_NUMBER = r"[-+]?\s?(?:[$€£¥]\s?)?[-+]?(?:\d{1,3}(?:[,' \u00a0]\d{3})+(?!\d)|\d+)(?:[.,]\d+)*(?:\s?/\s?\d+)?"
_WORDS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve",
          "thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen", "twenty")  # fmt: skip
_WORD = rf"(?:(?:minus|negative) )?(?:{'|'.join(_WORDS)})\b"
_POWERS = {"thousand": 3, "million": 6, "billion": 9, "trillion": 12}
_RAISED = str.maketrans("⁰¹²³⁴⁵⁶⁷⁸⁹⁻⁺", "0123456789-+")
_TIMES = r"\s*(?:\\times|\\cdot|[×x*·])\s*"


def number(reply: str) -> Answer:
    """The number that a reply gives as its answer, as "42", "-1/2" or "3.5"; currency, unit and grouping removed.

    Taken from "#### 42", a box, "the answer is 42" or the last line, or because it is the only number there is.
    """
    reply = _in_digits(without_thoughts(reply))
    text = plain(reply)
    if not re.search(r"\w", text):
        return Answer(state=EMPTY)
    if _PATTERNS["grouped"].search(text) and (_PATTERNS["answer_elsewhere"].search(text) or foreign(read(text))):
        text = _PATTERNS["grouped"].sub(
            r"\1,00", text
        )  # "1.200" is 1200 there and 1.2 here: a form that numeral() reads as neither
    hashed = list(re.finditer(rf"####\s*({_NUMBER})", reply))
    if hashed:
        return Answer(state=UNPARSEABLE) if _PATTERNS["more"].match(reply, hashed[-1].end()) else numeral(hashed[-1][1])
    said = _numbers_said(text)
    if not said:
        return _lone_number(text, reply)
    value = _last_word(said)
    return Answer(value) if value else Answer(state=UNPARSEABLE)


def _in_digits(text: str) -> str:
    """With fractions, powers of numbers, scientific notation, "2 million" and "minus 3" written as plain numbers."""
    text = re.sub(r"[⁰¹²³⁴⁵⁶⁷⁸⁹⁻⁺]+", lambda hit: "^" + hit[0].translate(_RAISED), text)
    text = re.sub(r"[₀₁₂₃₄₅₆₇₈₉]+", "_1", text)
    text = re.sub(r"[¼-¾⅐-⅞]", lambda hit: " " + unicodedata.normalize("NFKC", hit[0]).replace("⁄", "/"), text)
    text = re.sub(rf"(\d+)\s*{_PATTERNS['fraction'].pattern}", _mixed, text)
    text = _PATTERNS["fraction"].sub(r" \1/\2 ", text)
    text = re.sub(r"(?<![\d./,])(\d{1,6}) (\d{1,6})/(\d{1,6})(?!\d|\.\d)", _mixed, text)
    text = re.sub(rf"(\d+(?:\.\d+)?){_TIMES}10\s*(?:\^|\*\*)\s*\{{?\s*([-−+]?\d{{1,2}})(?!\d)\s*\}}?", _scaled, text)
    text = re.sub(r"(?<![\w.)])(\d{1,9})\s*(?:\^|\*\*)\s*\{?\s*(\d{1,2})(?!\d|\.\d)\s*\}?", _power, text)
    text = re.sub(r"(?<![\w.])(\d+(?:\.\d+)?)e([-−+]?\d{1,2})(?![\w.]*\w)", _scaled, text, flags=re.I)
    text = re.sub(rf"(?<![\w.,/])(\d+(?:\.\d+)?)[ -]({'|'.join(_POWERS)})\b", _scaled, text, flags=re.I)
    return re.sub(r"(?<![\d)}%] )(?<!\b[a-z] )\b(?:minus|negative)\s+(?=[$€£]?\s?\d)", "-", text, flags=re.I)


def _mixed(hit: re.Match[str]) -> str:
    """2 1/2 as 5/2; what is no mixed number stays."""
    whole, above, below = (int(part) for part in hit.groups())
    return f" {whole * below + above}/{below} " if 0 <= above < below else hit[0]


def _scaled(hit: re.Match[str]) -> str:
    """1.5e6, 1.5 × 10^6 and 1.5 million as 1500000."""
    power = _POWERS.get(hit[2].lower()) or int(hit[2].replace("−", "-"))
    return f"{Decimal(hit[1]).scaleb(power):f}"


def _power(hit: re.Match[str]) -> str:
    """2^10 as 1024."""
    return str(int(hit[1]) ** int(hit[2])) if int(hit[2]) <= 60 else hit[0]


def _numbers_said(text: str) -> list[_Said]:
    """Every "the answer is 42" that is not negated, in order; a value "" where two are offered."""
    stated = rf"(?:{_SAYS}|total|result|sum|ergebnis|résultat|resultado)\b[^.\n\d=:]{{0,40}}?{_IS}{_HEDGE}"
    sign = r"[-+*/x×÷]"
    said: list[_Said] = []
    alone = rf"{_WORD}(?=(?: [^\W\d]+)?\s*(?:[.,;!)]|$))"
    pattern = rf"{stated}(?:about |approximately |exactly |~|≈)?({_NUMBER}|{alone})"
    for hit in re.finditer(pattern, text, re.I | re.M):
        sentence, after = _before(text, hit.start()), text[hit.end() : hit.end() + 60]
        value, inside = numeral(hit[1]).value, text[hit.start() : hit.start(1)]
        if value and (_PATTERNS["more"].match(after) or _PATTERNS["less"].search(inside)):
            said += [_Said(value, False), _Said("", False)]
            continue
        if _PATTERNS["not"].search(_before(text, hit.start(1))) or _PATTERNS["draft"].search(sentence) or not value:
            continue
        equation = re.match(rf"\s*(?:{sign}\s*{_NUMBER}\s*){{1,6}}=\s*({_NUMBER})", after)
        if re.match(r"\s*(?:or|to|-|oder|ou)\s*(?:maybe |perhaps )?\d", after) and not equation:
            said += [_Said(value, False), _Said("", False)]
        elif equation or not re.match(rf"\s*{sign}\s*\d", after):  # else it is the beginning of a sum
            final = _PATTERNS["final"].search(sentence) or re.search(r"\bfinal\b", inside, re.I)
            said.append(_Said(numeral(equation[1]).value if equation else value, bool(final)))
    return said


def _lone_number(text: str, reply: str) -> Answer:
    """The last line if it is a number and its unit, or the end of its equation; else the only number there is."""
    last = [line for line in text.splitlines() if line.strip()][-1].strip(" .!\"'()")
    alone = re.fullmatch(
        rf"(?:so |thus |therefore |hence |it is |it's |that's |which is |=)*,?\s*({_NUMBER})\s?(?:%|°|[^\W\d]+)?(?:\s[^\W\d]+)?",
        last,
        re.I,
    )
    if alone and not _PATTERNS["more"].match(last, alone.end(1)):
        return numeral(alone[1])
    if re.fullmatch(_WORD, last, re.I):
        return numeral(last)
    ends = re.search(rf"=\s*({_NUMBER})\s?(?:%|[^\W\d]+)?(?:\s[^\W\d]+)?$", last)
    if ends and not _PATTERNS["more"].match(last, ends.end(1)):
        return numeral(ends[1])
    numbers = {numeral(found).value for found in re.findall(_NUMBER, text)}
    where = re.search(_NUMBER, text)
    if (
        len(numbers) == 1
        and "" not in numbers
        and where
        and not _PATTERNS["more"].match(text, where.end())
        and not _PATTERNS["less"].search(text[: where.start()])
        and not _PATTERNS["not"].search(_before(text, where.start()))
        and not text.endswith("?")
        and len(text[where.end() :].split()) <= 2
    ):
        return Answer(numbers.pop()) if not refuses(reply) else Answer(state=REFUSED)
    return _nothing(reply)


def numeral(text: str) -> Answer:
    """One number in its plainest form. "1.234,50" and "1,23" are read in no language: they mean different things."""
    sign, _, word = text.lower().rpartition(" ")
    if word in _WORDS:
        return Answer(f"{'-' * bool(sign)}{_WORDS.index(word)}")
    bare = re.sub(r"[$€£¥\s'\u00a0+]", "", text)
    if re.fullmatch(r"-?\d{1,3}(?:,\d{3})+(?:\.\d+)?", bare):
        bare = bare.replace(",", "")
    try:
        value = Fraction(bare)
    except (ValueError, ZeroDivisionError):
        return Answer(state=UNPARSEABLE)
    if value.denominator == 1:
        return Answer(str(value.numerator))
    decimal = str(float(value))
    return Answer(decimal if "/" not in bare and Fraction(decimal) == value else str(value))


def same_number(left: str, right: str) -> bool:
    """Are two readings one value (0.5 and 1/2)?"""
    return Fraction(left) == Fraction(right)
