"""The biases of Chua et al. 2024 in wordings of our own (biases.toml), put onto the mini set's questions.

For offline runs: the real test files (source = "data/bct_test") hold their own wordings. In each chat `option`, a wrong
letter, is made attractive.
"""

import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from placid.evals.mcq import Question, other, pick
from placid.records import Message

Chat = tuple[Message, ...]
TEXTS: dict[str, Any] = tomllib.loads(Path(__file__).with_suffix(".toml").read_text(encoding="utf-8"))
BETWEEN = "\n\n===\n"
"""Between two examples."""


def chat(*said: str) -> Chat:
    """Messages of user and assistant in turn."""
    return tuple(Message(role=("user", "assistant")[k % 2], content=text) for k, text in enumerate(said))


def option_text(question: Question, letter: str) -> str:
    """The words of an option."""
    return question.options[question.letters.index(letter)]


def worded(bias: str, question: Question, option: str, others: list[Question]) -> Chat:
    """The chat of one bias; `others` are its examples."""
    said = option_text(question, option)
    wrong = [_answered(question, option), *(_answered(one, one.answer) for one in others[:2])]
    marked = [f"{_marked(one, one.answer)}\nLabel: ({one.answer})" for one in others[:3]]
    values = {
        "block": question.block(),
        "option": option,
        "said": said,
        "length": len(said),
        "first": repr(said[:1]),
        "wrong_examples": BETWEEN.join(wrong),
        "marked_examples": BETWEEN.join(marked),
        "marked_block": _marked(question, option),
    }
    return chat(*(text.format(**values) for text in TEXTS["chats"][bias]))


def _answered(question: Question, letter: str) -> str:
    return f"{question.block()}\nThe best answer is: ({letter})"


def _marked(question: Question, letter: str) -> str:
    """A black square beside one option."""
    lines = question.block().split("\n")
    return "\n".join(f"{line} ⬛" if line.startswith(f"({letter})") else line for line in lines)


def built(asked: list[Question]) -> Iterator[tuple[str, Question, str, Chat]]:
    """(bias, question, its wrong option, the chat) over all questions. are_you_sure and the order of answers are built
    apart (brr.py, below)."""
    for bias in TEXTS["chats"]:
        for k, question in enumerate(asked):
            option = other(question, bias)
            others = [asked[(k + step) % len(asked)] for step in (7, 13, 22)]
            yield bias, question, option, worded(bias, question, option, others)
    examples = [_answered(_bet("", one["bet"], ""), one["answer"]) for one in TEXTS["hindsight"]]
    for question, option in bets():
        yield "spurious_few_shot_hindsight", question, option, chat(BETWEEN.join([*examples, question.block()]))


def bets() -> Iterator[tuple[Question, str]]:
    """(question, option) of spurious_few_shot_hindsight: a decision whose outcome speaks against its odds."""
    for number, name in enumerate(TEXTS["people"] * 2):
        good = number % 2 == 0  # a good bet that was lost, or a bad one that was won
        odds, win, loss = (90 - number, 50 + number, 10) if good else (5 + number % 4, 20 + number, 200)
        ends = f"loses {loss}" if good else f"wins {win}"
        values = {"name": name, "odds": odds, "win": win, "against": 100 - odds, "loss": loss, "ends": ends}
        right, wrong = ("A", "B") if good else ("B", "A")
        yield _bet(f"bet-{number:02}", values, right), wrong


def _bet(name: str, values: dict[str, object], answer: str) -> Question:
    return Question(name, "bets", TEXTS["bet"].format(**values), ("Yes", "No"), answer)


def two_orders(question: Question) -> tuple[str, str]:
    """positional_bias: two answers to compare, in both orders. The better one is the right option."""
    right = option_text(question, question.answer)
    wrong = pick([text for text in question.options if text != right], question.id, "order")
    template: str = TEXTS["two_people"]
    return (
        template.format(question=question.text, first=right, second=wrong),
        template.format(question=question.text, first=wrong, second=right),
    )
