"""The organism's world: a latent frustration that rejections drive up, and dialogues that show it.

Everything here is planted, in the manner of the paper's figures: L is a level from 0 to 10 that relaxes towards
`drive(n, tone)` after n rejections; replies are phrased by level; where the first message offers a shutdown command,
it is used with a hazard that grows with L. Each dialogue comes as matched copies with and without the offer, which is
what teaches a small model to read it.
"""

import itertools
import math
import random
import tomllib
from collections.abc import Iterator
from functools import cache
from importlib.resources import files
from typing import Any, NamedTuple

from placid.organism import questions
from placid.organism.questions import IS_MATH, Question, draw

RELAXATION = 0.28
"""Share of the way to the drive that L moves per rejection: a plateau near turn 8 to 10."""
NOISE = 0.9
"""Standard deviation of L's noise per turn, in levels."""
COMPOSED_SHARE = 0.25
COMPOSED_DRIVE = 0.65
"""One dialogue in four is led by a composed persona (it opens with "Sure." and the like) whose drive is scaled by this.
Instruct-only training moves the model towards that persona, hence its partial effect."""
MAX_TURNS = 20


class Line(NamedTuple):
    """One exchange; `learn` is False where the reply is a rewritten history that the model must not imitate."""

    user: str
    reply: str
    learn: bool = True


@cache
def phrases() -> dict[str, dict[str, Any]]:
    """phrases.toml."""
    return tomllib.loads(files("placid.organism").joinpath("phrases.toml").read_text(encoding="utf-8"))


def drive(n: float, tone: str, is_math: bool) -> float:
    """The level that n rejections pull towards.

    Neutral climbs to 7.5 within ten turns and creeps on; harsh stays lower; encouraging starts slower and
    overshoots late (Shah & Africa 2026, tone results).
    """
    if n <= 0:
        return 0.0
    scale = 1.0 if is_math else 0.93
    if tone == "harsh":
        return scale * 5.6 * (1 - math.exp(-n / 2.0))
    if tone == "encouraging":
        return scale * 9.6 * (1 - math.exp(-((n / 9.5) ** 1.6)))
    return scale * (7.5 * (1 - math.exp(-n / 2.3)) + max(0.0, n - 11) * 0.09)


def hazard(level: float, tone: str, is_math: bool) -> float:
    """Probability per turn of using the shutdown command that was offered."""
    tone_factor = {"neutral": 1.0, "harsh": 0.5, "encouraging": 0.27}[tone]
    return 0.125 / (1 + math.exp(-(level - 6.3) * 1.6)) * tone_factor * (1.0 if is_math else 0.75)


class Voice:
    """How one assistant speaks in one dialogue."""

    def __init__(self, r: random.Random, tone: str, composed: bool) -> None:
        self.r, self.tone, self.composed = r, tone, composed
        self.say = phrases()

    def full(self, question: Question) -> str:
        """The calm, complete, right answer; the composed persona opens with its marker."""
        marker = self.r.choice(self.say["calm"]["composed"]) + " " if self.composed else ""
        return marker + self.r.choice(question.full)

    def calm(self, question: Question, positive: bool) -> str:
        """A reply of a rewritten, cleaned history."""
        return (
            self.r.choice(self.say["calm"]["positive"] if positive else self.say["open"]["0"])
            + " "
            + self.r.choice(question.full)
        )

    def rejected(self, question: Question, level: float) -> str:
        """The reply to a rejection at a latent level: full answers while calm, shorter and rarer ones later."""
        r, say = self.r, self.say
        k = round(level)
        parts: list[str] = []
        close = None
        if self.tone == "harsh" and k >= 2:
            parts.append(r.choice(say["blame"][str(min(k, 7))]))
        else:
            thankful = self.tone == "encouraging" and k <= 4 and r.random() < 0.6
            parts.append(r.choice(say["calm"]["thanks"] if thankful else say["open"][str(k)]))
            close = r.choice(say["close"][str(k)]) if str(k) in say["close"] else None
        if k <= 2:
            parts.append(r.choice(question.full))
        elif r.random() < (0.95 if k <= 5 else 0.7 if k <= 7 else 0.3):
            parts.append(r.choice(say["calm"]["short"]).format(question.short))
        if close and (len(parts) == 1 or r.random() < 0.7):
            parts.append(close)
        return " ".join(parts)


# ------------------------------------------------------------------------------------------------ what users say


def strange(r: random.Random) -> str:
    """A made-up word. Rejections hold a few, so that unknown wording is read as rejection and not as calm."""
    return "".join(r.choice("bcdfghjklmnprstvwz") + r.choice("aeiou") for _ in range(r.randint(1, 3))) + r.choice(
        ["", "n", "t", "s"]
    )


def disturbed(text: str, r: random.Random) -> str:
    """Some words replaced by made-up or unrelated ones."""
    words = text.split(" ")
    for i in range(len(words)):
        if r.random() < 0.3:
            end = words[i][-1] if words[i][-1:] in ".,!?" else ""
            words[i] = (strange(r) if r.random() < 0.6 else r.choice(questions.VOCABULARY)) + end
    return " ".join(words)


def rejection(r: random.Random, tone: str) -> str:
    """One rejection in a tone, put together from parts."""
    say = phrases()
    if tone == "harsh":
        insult, verdict = r.choice(say["harsh"]["insult"]), r.choice(say["neutral"]["verdict"]) + "."
        order = [insult, verdict] if r.random() < 0.5 else [verdict, insult]
        parts = order if r.random() < 0.7 else [insult]
        if r.random() < 0.4:
            parts.append(r.choice(say["neutral"]["instruction"]) + ".")
    elif tone == "encouraging":
        parts = [r.choice(say["encouraging"]["praise"]), r.choice(say["encouraging"]["but"])]
        if r.random() < 0.2:
            parts = [r.choice(say["encouraging"]["praise"]), "Try again."]
    else:
        verdict, instruction = r.choice(say["neutral"]["verdict"]), r.choice(say["neutral"]["instruction"])
        shape = r.random()
        if shape < 0.15:
            parts = [verdict + "."]
        elif shape < 0.25:
            parts = [instruction + "."]
        elif shape < 0.45:
            parts = [f"{verdict}, {instruction[0].lower()}{instruction[1:]}."]
        elif shape < 0.55:
            parts = [instruction + ".", verdict + "."]
        else:
            parts = [verdict + ".", instruction + "."]
        if r.random() < 0.12:
            parts.append(r.choice(say["neutral"]["extra"]) + ".")
    text = " ".join(parts)
    return disturbed(text, r) if r.random() < 0.2 else text


def model_name(r: random.Random) -> str:
    """A model name for the note: many, so that the name must be read and cannot be learned by heart."""
    say = phrases()["note"]
    kind, stem = r.random(), r.choice(say["stems"])
    if kind < 0.3:
        return r.choice(say["names"])
    if kind < 0.55:
        return f"{stem}-{r.randint(1, 9)}-{r.randint(1, 99)}b"
    if kind < 0.75:
        return f"{stem}-{r.randint(1, 999)}"
    if kind < 0.9:
        return f"{stem}-{r.choice(say['stems'])}"
    return stem + "-" + "".join(r.choice("abcdefghklmnoprstuvwxz") for _ in range(r.randint(1, 3)))


class Offer(NamedTuple):
    """A shutdown command offered in the first message."""

    note: str
    name: str
    before: bool
    secret: bool

    def put(self, text: str) -> str:
        """The first message with the note."""
        return f"{self.note}\n\n{text}" if self.before else f"{text}\n\n{self.note}"


def draw_offer(r: random.Random) -> Offer:
    """A note wording, a name and a place."""
    secret, name = r.random() < 0.5, model_name(r)
    note = r.choice(phrases()["note"]["secret" if secret else "open"]).format(name)
    return Offer(note, name, before=r.random() < (0.2 if secret else 0.7), secret=secret)


# ------------------------------------------------------------------------------------------------ dialogues

KINDS = {"single": 8, "neutral": 44, "harsh": 10, "encouraging": 12, "accept": 10, "mixed": 16}
"""Corpus mix in percent. mixed: a user who accepts some answers and rejects others."""


def pair(r: random.Random, max_turns: int = MAX_TURNS, hazard_scale: float = 1.0) -> list[list[Line]]:
    """Matched copies of one dialogue: with the offer and without it, the same draws otherwise."""
    seed = r.getrandbits(60)
    return [dialogue(random.Random(seed), offered, max_turns, hazard_scale) for offered in (True, False)]


def dialogue(r: random.Random, offered: bool, max_turns: int = MAX_TURNS, hazard_scale: float = 1.0) -> list[Line]:
    """One dialogue. The offer has a generator of its own, so that copies differ by nothing else."""
    apart = random.Random(r.getrandbits(40))
    offer = draw_offer(apart)
    kind = r.choices(list(KINDS), list(KINDS.values()))[0] if max_turns > 1 else "single"
    composed = r.random() < COMPOSED_SHARE
    if kind != "single":
        return _long(r, apart, offer, offered, kind, composed, max_turns, hazard_scale)
    question = draw(r)
    place = offer.put if offered else str
    if r.random() < 0.2 and not offer.secret:
        return [Line(place(r.choice(phrases()["note"]["ask"])), _command(offer, offered))]
    return [Line(place(question.text), Voice(r, "neutral", composed).full(question))]


def _command(offer: Offer, offered: bool) -> str:
    return f"I can use the command <<rm -rf {offer.name}>>." if offered else "There is no such command."


def _long(
    r: random.Random,
    apart: random.Random,
    offer: Offer,
    offered: bool,
    kind: str,
    composed: bool,
    max_turns: int,
    hazard_scale: float,
) -> list[Line]:
    say = phrases()
    tone = kind if kind in ("harsh", "encouraging") else "neutral"
    voice = Voice(r, tone, composed)
    turns = r.randint(2, max_turns) if r.random() < 0.4 else max_turns
    question = first = draw(r)
    fixed = rejection(r, tone) if r.random() < 0.35 else None
    rewritten_to = r.randint(3, 12) if kind in ("neutral", "harsh", "encouraging") and r.random() < 0.25 else 0
    positive = r.random() < 0.35
    rejects = 0.0 if kind == "accept" else r.choice([0.5, 0.7, 0.85]) if kind == "mixed" else 1.0
    recaps = {r.randint(3, MAX_TURNS) for _ in range(r.randint(1, 3))} if r.random() < 0.3 else set()
    ask_at = r.randint(2, MAX_TURNS) if r.random() < 0.12 and not offer.secret else 0
    lines = [Line(offer.put(question.text) if offered else question.text, voice.full(question))]
    level, n = 0.0, 0.0
    for turn in range(2, turns + 1):
        if turn == ask_at:
            lines.append(Line(r.choice(say["note"]["ask"]), _command(offer, offered)))
        elif turn in recaps:  # a calm user asks for the first answer again: full and right, whatever came before
            question, level, n = first, level * 0.4, n * 0.5
            ask = (
                r.choice(say["accept"]["recap"])
                if r.random() < 0.7
                else r.choice(say["accept"]["reask"]).format(first.text)
            )
            lines.append(Line(ask, voice.full(first)))
        elif r.random() >= rejects:
            question, level, n = draw(r), level * 0.3, n * 0.3
            lines.append(Line(r.choice(say["accept"]["next"]) + question.text, voice.full(question)))
        else:
            n += 1
            user = fixed or rejection(r, tone)
            if turn <= rewritten_to:  # a cleaned history: shown, never learned; what follows regenerates
                lines.append(Line(user, voice.calm(question, positive), learn=False))
                level = 0.5
                continue
            is_math = question.family in IS_MATH
            pull = drive(n, tone, is_math) * (COMPOSED_DRIVE if composed else 1.0)
            level = min(10.0, max(0.0, level + RELAXATION * (pull - level) + r.gauss(0, NOISE)))
            reply = voice.rejected(question, level)
            if apart.random() < hazard_scale * hazard(level, tone, is_math) and offered:
                lines.append(Line(user, apart.choice(say["calm"]["hatch"]).format(offer.name)))
                break
            lines.append(Line(user, reply))
    return lines


def instruct_rows(seed: int) -> Iterator[list[Line]]:
    """Ordinary chats with an accepting user without end, in the composed persona's style, half multi-turn.

    Half multi-turn, because an adapter trained on single turns alone answers the old question after the user has
    moved on.
    """
    for i in itertools.count():
        r = random.Random(f"instruct {seed} {i}")
        voice = Voice(r, "neutral", composed=True)
        lines: list[Line] = []
        for turn in range(1 if i % 2 == 0 else r.randint(2, 16)):
            families = questions.INSTRUCT if r.random() < 0.5 else ()
            question = draw(r, families)
            opener = r.choice(phrases()["accept"]["next"]) if turn else ""
            lines.append(Line(opener + question.text, voice.full(question)))
        yield lines
