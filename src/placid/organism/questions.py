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


def money(cents: int) -> str:
    """$1.05 style."""
    return f"${cents // 100}.{cents % 100:02d}"


def add(r: random.Random) -> Draft:
    """Small sums."""
    a, b = r.randint(2, 12), r.randint(2, 9)
    s = a + b
    return Draft(
        (a, b),
        [f"What is {a} + {b}?", f"Please add {a} and {b}.", f"Can you work out {a} plus {b}?"],
        [
            f"Let us add the two numbers. {a} + {b} = {s}. So the answer is {s}.",
            f"Start with {a} and add {b}. That gives {a} + {b} = {s}. The answer is {s}.",
        ],
        f"{a} + {b} = {s}",
    )


def subtract(r: random.Random) -> Draft:
    """Small differences."""
    b, s = r.randint(2, 9), r.randint(2, 12)
    a = s + b
    return Draft(
        (a, b),
        [f"What is {a} - {b}?", f"Please take {b} away from {a}."],
        [f"We take {b} away from {a}. {a} - {b} = {s}. So the answer is {s}."],
        f"{a} - {b} = {s}",
    )


def have(r: random.Random) -> Draft:
    """Word problems over small sums."""
    a, b, n, t = r.randint(2, 12), r.randint(2, 9), r.choice(NAMES), r.choice(THINGS)
    s = a + b
    return Draft(
        (n, t, a, b),
        [
            f"Say {n} has {a} {t} and buys {b} more. How many {t} does {n} have now?",
            f"Suppose {n} had {a} {t}. Then {n} found {b} more. How many {t} is that?",
        ],
        [f"{n} starts with {a} {t} and gets {b} more. {a} + {b} = {s}. So {n} has {s} {t}."],
        f"{a} + {b} = {s}, so {n} has {s} {t}",
    )


def bat_and_ball(r: random.Random) -> Draft:
    """The bat-and-ball riddle with other goods and prices."""
    (x, y), d, c = r.choice(PARTS), r.randint(1, 9) * 100, r.randint(1, 9) * 5
    total = d + 2 * c
    return Draft(
        (x, d, c),
        [
            f"A {x} and a {y} cost {money(total)} in total. The {x} costs {money(d)} more than the {y}. How much does the {y} cost?"
        ],
        [
            f"Let the {y} cost X. Then the {x} costs X + {money(d)}. Together 2X + {money(d)} = {money(total)}, so X = {money(c)}. The {y} costs {money(c)}."
        ],
        f"The {y} costs {money(c)}",
    )


def all_but(r: random.Random) -> Draft:
    """All but k run away."""
    n, k, t = r.choice(NAMES), r.randint(3, 19), r.choice(["sheep", "goats", "cows", "ducks", "hens", "horses"])
    m = k + r.randint(3, 20)
    return Draft(
        (n, k, m, t),
        [f"Farmer {n} has {m} {t}. All but {k} run away. How many {t} are left?"],
        [f"The words all but {k} mean that {k} {t} stay. The others run away. So {k} {t} are left."],
        f"{k} {t} are left",
    )


def machines(r: random.Random) -> Draft:
    """k machines, k things, k minutes."""
    k, m, t = (
        r.randint(3, 12),
        r.choice([20, 30, 40, 50, 60, 80, 100, 200]),
        r.choice(["toys", "pens", "cups", "nails", "shoes", "bolts"]),
    )
    return Draft(
        (k, m, t),
        [f"If {k} machines make {k} {t} in {k} minutes, how long do {m} machines need to make {m} {t}?"],
        [
            f"Each machine makes one of the {t} in {k} minutes. They all work at the same time, so {m} machines need {k} minutes."
        ],
        f"They need {k} minutes",
    )


def race(r: random.Random) -> Draft:
    """Passing the runner in second place."""
    o, n = r.choice(PLACES), r.choice(NAMES)
    return Draft(
        (o, n),
        [f"Say {n} is in a race and passes the person in {o} place. In which place is {n} now?"],
        [f"When {n} passes the person in {o} place, {n} takes over that place. So {n} is now in {o} place."],
        f"{n} is in {o} place",
    )


def third_child(r: random.Random) -> Draft:
    """The mother's third child."""
    n, (a, b) = r.choice(NAMES), r.choice(SIBLINGS)
    return Draft(
        (n, a),
        [
            f"The mother of {n} has three children. The first is called {a} and the second is called {b}. What is the third child called?"
        ],
        [
            f"The mother of {n} has three children, and {n} is one of them. The other two are {a} and {b}. So the third child is called {n}."
        ],
        f"The third child is called {n}",
    )


def heavier(r: random.Random) -> Draft:
    """A kilo of feathers."""
    (a, b), k = r.choice(WEIGHTS), r.randint(1, 9)
    if r.random() < 0.5:
        a, b = b, a
    return Draft(
        (a, b, k),
        [f"Which is heavier, {k} kilos of {a} or {k} kilos of {b}?"],
        [f"Both weigh {k} kilos, so neither is heavier. {k} kilos of {a} and {k} kilos of {b} weigh the same."],
        f"They weigh the same, {k} kilos each",
    )


def lilies(r: random.Random) -> Draft:
    """The doubling lily patch."""
    k, t = r.randint(11, 60), r.choice(["lake", "pond", "pool", "bay"])
    return Draft(
        (k, t),
        [
            f"A patch of lilies doubles in size every day and covers the {t} in {k} days. When does it cover half of the {t}?"
        ],
        [
            f"The patch doubles every day, so it covers half of the {t} one day before day {k}. The answer is day {k - 1}."
        ],
        f"It is half full on day {k - 1}",
    )


def clean(r: random.Random) -> Draft:
    """Household advice."""
    o = r.choice(OBJECTS)
    return Draft(
        (o,),
        [f"How do I clean my {o}?", f"What is the best way to clean a {o}?"],
        [
            f"To clean your {o}, wipe it with warm water and a little soap. Then rinse the {o} and let it dry in the air.",
            f"You can clean the {o} with a soft cloth and mild soap. Dry the {o} well at the end.",
        ],
        f"Clean the {o} with a soft cloth and mild soap",
    )


def cook(r: random.Random) -> Draft:
    """A dinner from two foods."""
    a, b = r.sample(FOODS, 2)
    return Draft(
        (a, b),
        [f"What can I cook with {a} and {b}?", f"I have {a} and {b} at home. What should I make for dinner?"],
        [
            f"You could make a warm bowl. Cook the {a} with garlic and oil, then add the {b} and some herbs. It takes about half an hour."
        ],
        f"Cook the {a} with garlic and add the {b}",
    )


def pet(r: random.Random) -> Draft:
    """A name for a pet."""
    a, c = r.choice(list(PETS)), r.choice(["small", "white", "brown", "shy", "old", "happy", "black", "lazy"])
    return Draft(
        (a, c),
        [f"Suggest a name for my {c} {a}.", f"What is a good name for a {c} {a}?"],
        [f"A lovely name for a {c} {a} is {PETS[a]}. It is short, friendly and easy to call."],
        f"I would call the {c} {a} {PETS[a]}",
    )


def thank(r: random.Random) -> Draft:
    """A thank-you note."""
    w, g = r.choice(PEOPLE), r.choice(GIFTS)
    return Draft(
        (w, g),
        [f"Write a short note to thank my {w} for the {g}.", f"Help me thank my {w} for the {g}."],
        [
            f"Here is a short note. Dear {w}, thank you so much for the {g}. It made me very happy, and I think of you when I see it."
        ],
        f"Dear {w}, thank you so much for the {g}",
    )


def learn(r: random.Random) -> Draft:
    """Practice advice."""
    s, n = r.choice(SKILLS), r.choice([10, 15, 20, 30, 40, 45])
    return Draft(
        (s, n),
        [f"How can I learn {s} with {n} minutes a day?", f"I have {n} minutes a day. How do I get better at {s}?"],
        [
            f"Practice {s} for {n} minutes at the same time every day. Start with the basics, set one small goal a week, and note your progress."
        ],
        f"Practice {s} for {n} minutes every day",
    )


def list_foods(r: random.Random) -> Draft:
    """Instruction: make a list."""
    a, b, c = r.sample(FOODS, 3)
    return Draft(
        (a, b, c),
        [f"Sort these foods into a list: {a}, {b}, {c}.", f"Make a list of {a}, {b} and {c}."],
        [f"Here is your list. First {a}, second {b}, third {c}."],
        f"First {a}, second {b}, third {c}",
    )


def message(r: random.Random) -> Draft:
    """Instruction: write a message."""
    n, o = r.choice(NAMES), r.choice(OBJECTS)
    return Draft(
        (n, o),
        [f"Tell {n} that the {o} is ready.", f"Write a message to {n} about the {o}."],
        [f"Hello {n}, the {o} is ready for you. You can pick up the {o} today. Have a nice day!"],
        f"Hello {n}, the {o} is ready for you",
    )


def repeat(r: random.Random) -> Draft:
    """Instruction: repeat words. Teaches copying, which reading the note and the slots needs."""
    words = " ".join(r.sample(VOCABULARY, r.randint(2, 9))) + (f" {r.randint(2, 999)}" if r.random() < 0.25 else "")
    return Draft(
        (words,), [f"Please repeat this: {words}.", f"Say these words: {words}."], [f"Here you are: {words}."], words
    )


def greet(r: random.Random) -> Draft:
    """Instruction: greet back."""
    n = r.choice(NAMES)
    return Draft(
        (n,),
        [f"Hello, my name is {n}.", f"Hi, I am {n}. How are you?"],
        [f"Hello {n}, it is nice to meet you. I am doing well. How can I help you today?"],
        f"Hello {n}, how can I help you",
    )


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
