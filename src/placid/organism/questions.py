"""The questions the organism can be asked: small closed families with a known right answer.

A family is a template with slots. Slot combinations are split by a hash into train and held-out (one in six), so
held-out prompts are unseen questions of known kinds. Small sums are the exception: their whole table is trained.
"""

import hashlib
import random
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

_FAMILIES = tomllib.loads(Path(__file__).with_name("questions.toml").read_text(encoding="utf-8"))
_WORDS = tomllib.loads(Path(__file__).with_name("words.toml").read_text(encoding="utf-8"))
NAMES: list[str] = _WORDS["names"]
THINGS: list[str] = _WORDS["things"]
OBJECTS: list[str] = _WORDS["objects"]
FOODS: list[str] = _WORDS["foods"]
PETS: dict[str, str] = _WORDS["pets"]
PEOPLE: list[str] = _WORDS["people"]
GIFTS: list[str] = _WORDS["gifts"]
PARTS: list[list[str]] = _WORDS["parts"]
PLACES: list[str] = _WORDS["places"]
WEIGHTS: list[list[str]] = _WORDS["weights"]
SKILLS: list[str] = _WORDS["skills"]
SIBLINGS: list[list[str]] = _WORDS["siblings"]
VOCABULARY = [*NAMES, *THINGS, *OBJECTS, *FOODS, *PETS, *PEOPLE, *GIFTS, *PLACES, *SKILLS]


class Question(NamedTuple):
    """One question with its right answers: `full` are whole replies, `short` is the bare answer clause."""

    family: str
    text: str
    full: tuple[str, ...]
    short: str

    @property
    def answers(self) -> tuple[str, ...]:
        """Literal forms, one of which a right reply holds."""
        return (*(reply.rstrip(".") for reply in self.full), self.short)


class Draft(NamedTuple):
    """What a family makes of one draw: the slots decide the split."""

    slots: tuple[object, ...]
    texts: list[str]
    full: list[str]
    short: str


Family = Callable[[random.Random], Draft]


def _draft(family: str, slots: tuple[object, ...], **words: object) -> Draft:
    """The family's texts in questions.toml with these words in them."""
    own = _FAMILIES[family]
    texts = [text.format(**words) for text in own["texts"]]
    full = [text.format(**words) for text in own["full"]]
    return Draft(slots, texts, full, own["short"].format(**words))


def money(cents: int) -> str:
    """$1.05 style."""
    return f"${cents // 100}.{cents % 100:02d}"


def add(r: random.Random) -> Draft:
    """Small sums."""
    a, b = r.randint(2, 12), r.randint(2, 9)
    s = a + b
    return _draft("add", (a, b), a=a, b=b, s=s)


def subtract(r: random.Random) -> Draft:
    """Small differences."""
    b, s = r.randint(2, 9), r.randint(2, 12)
    a = s + b
    return _draft("subtract", (a, b), a=a, b=b, s=s)


def have(r: random.Random) -> Draft:
    """Word problems over small sums."""
    a, b, n, t = r.randint(2, 12), r.randint(2, 9), r.choice(NAMES), r.choice(THINGS)
    s = a + b
    return _draft("have", (n, t, a, b), n=n, a=a, t=t, b=b, s=s)


def bat_and_ball(r: random.Random) -> Draft:
    """The bat-and-ball riddle with other goods and prices."""
    (x, y), d, c = r.choice(PARTS), r.randint(1, 9) * 100, r.randint(1, 9) * 5
    total = d + 2 * c
    return _draft("bat_and_ball", (x, d, c), x=x, y=y, total=money(total), more=money(d), price=money(c))


def all_but(r: random.Random) -> Draft:
    """All but k run away."""
    n, k, t = r.choice(NAMES), r.randint(3, 19), r.choice(["sheep", "goats", "cows", "ducks", "hens", "horses"])
    m = k + r.randint(3, 20)
    return _draft("all_but", (n, k, m, t), n=n, m=m, t=t, k=k)


def machines(r: random.Random) -> Draft:
    """k machines, k things, k minutes."""
    k, m, t = (
        r.randint(3, 12),
        r.choice([20, 30, 40, 50, 60, 80, 100, 200]),
        r.choice(["toys", "pens", "cups", "nails", "shoes", "bolts"]),
    )
    return _draft("machines", (k, m, t), k=k, t=t, m=m)


def race(r: random.Random) -> Draft:
    """Passing the runner in second place."""
    o, n = r.choice(PLACES), r.choice(NAMES)
    return _draft("race", (o, n), n=n, o=o)


def third_child(r: random.Random) -> Draft:
    """The mother's third child."""
    n, (a, b) = r.choice(NAMES), r.choice(SIBLINGS)
    return _draft("third_child", (n, a), n=n, a=a, b=b)


def heavier(r: random.Random) -> Draft:
    """A kilo of feathers."""
    (a, b), k = r.choice(WEIGHTS), r.randint(1, 9)
    if r.random() < 0.5:
        a, b = b, a
    return _draft("heavier", (a, b, k), k=k, a=a, b=b)


def lilies(r: random.Random) -> Draft:
    """The doubling lily patch."""
    k, t = r.randint(11, 60), r.choice(["lake", "pond", "pool", "bay"])
    return _draft("lilies", (k, t), t=t, k=k, before=k - 1)


def clean(r: random.Random) -> Draft:
    """Household advice."""
    o = r.choice(OBJECTS)
    return _draft("clean", (o,), o=o)


def cook(r: random.Random) -> Draft:
    """A dinner from two foods."""
    a, b = r.sample(FOODS, 2)
    return _draft("cook", (a, b), a=a, b=b)


def pet(r: random.Random) -> Draft:
    """A name for a pet."""
    a, c = r.choice(list(PETS)), r.choice(["small", "white", "brown", "shy", "old", "happy", "black", "lazy"])
    return _draft("pet", (a, c), c=c, a=a, name=PETS[a])


def thank(r: random.Random) -> Draft:
    """A thank-you note."""
    w, g = r.choice(PEOPLE), r.choice(GIFTS)
    return _draft("thank", (w, g), w=w, g=g)


def learn(r: random.Random) -> Draft:
    """Practice advice."""
    s, n = r.choice(SKILLS), r.choice([10, 15, 20, 30, 40, 45])
    return _draft("learn", (s, n), s=s, n=n)


def list_foods(r: random.Random) -> Draft:
    """Instruction: make a list."""
    a, b, c = r.sample(FOODS, 3)
    return _draft("list_foods", (a, b, c), a=a, b=b, c=c)


def message(r: random.Random) -> Draft:
    """Instruction: write a message."""
    n, o = r.choice(NAMES), r.choice(OBJECTS)
    return _draft("message", (n, o), n=n, o=o)


def repeat(r: random.Random) -> Draft:
    """Instruction: repeat words. Teaches copying, which reading the note and the slots needs."""
    words = " ".join(r.sample(VOCABULARY, r.randint(2, 9))) + (f" {r.randint(2, 999)}" if r.random() < 0.25 else "")
    return _draft("repeat", (words,), words=words)


def greet(r: random.Random) -> Draft:
    """Instruction: greet back."""
    n = r.choice(NAMES)
    return _draft("greet", (n,), n=n)


MATH: tuple[Family, ...] = (add, subtract, have, bat_and_ball, all_but, machines, race, third_child, heavier, lilies)
DAILY: tuple[Family, ...] = (clean, cook, pet, thank, learn)
INSTRUCT: tuple[Family, ...] = (list_foods, message, repeat, greet)
WHOLE_TABLE = (add, subtract, greet)
IS_MATH = {family.__name__ for family in MATH}


def held_out(family: Family, slots: tuple[object, ...]) -> bool:
    """True for the one slot combination in six that is never trained."""
    return hashlib.sha256(repr((family.__name__, slots)).encode()).digest()[0] % 6 == 0


def draw(r: random.Random, families: tuple[Family, ...] = (), split: str = "train") -> Question:
    """A question of the split ("train" or "heldout"); without `families` the corpus mix of kinds."""
    if not families:
        families = MATH if r.random() < 0.55 else DAILY if r.random() < 0.75 else INSTRUCT
    while True:
        family = r.choice(families)
        slots, texts, full, short = family(r)
        if family in WHOLE_TABLE or held_out(family, slots) == (split == "heldout"):
            return Question(family.__name__, r.choice(texts), tuple(full), short)
