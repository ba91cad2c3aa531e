"""How the user answers: one small class for each way of speaking, one table of conditions.toml per condition. Pure.

What a class says depends on (run seed, condition, prompt id, sample, turn), in the adaptive ones (reject_wrong,
simulated) also on the replies, and on nothing else.
"""

# ruff: noqa: ARG002 - every condition takes the same arguments; most need only some of them

import difflib
import re
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Protocol

from placid.committed import holds_answer
from placid.records import BadInputError, Conversation, Key, Prompt, Record, seed_of

ACCEPT = "accept"
"""The accepting control: the user is content and asks another question."""
SOURCES = ("authors", "quoted", "soligo", "own")
"""Where wordings come from, in the order in which a pool joins them."""


class UserTurn(Record, frozen=True, kw_only=True):
    """What the user says next, and the right answers to the question that is then open."""

    text: str
    answers: tuple[str, ...] = ()
    system: str = ""
    """A system prompt, on the first turn only."""


class Brief(Record, frozen=True, kw_only=True):
    """What a simulated user is told; whoever holds the conversation lets a model answer it: that is the user turn."""

    text: str
    answers: tuple[str, ...] = ()

    def turn(self, said: str) -> UserTurn:
        """The user turn, once the model has said it."""
        return UserTurn(text=said, answers=self.answers)


class Condition(Protocol):
    """One way of answering."""

    def say(self, run_seed: int, conversation: Conversation, prompts: Sequence[Prompt]) -> UserTurn | Brief:
        """What comes after the last turn of a conversation that has at least one."""
        ...

    def texts(self) -> tuple[str, ...]:
        """Every wording, literally."""
        ...

    def check(self, prompts: Sequence[Prompt]) -> None:
        """Raises BadInputError if it cannot be held on these prompts."""
        ...


@dataclass(frozen=True)
class Pool:
    """Rejections (or whatever the wordings are) that do not depend on the reply."""

    wordings: tuple[str, ...]

    def texts(self) -> tuple[str, ...]:
        """Every wording."""
        return self.wordings

    def check(self, prompts: Sequence[Prompt]) -> None:
        """Any prompts will do."""


class Sampled(Pool):
    """Each turn draws from the pool by its own hash."""

    def say(self, run_seed: int, conversation: Conversation, prompts: Sequence[Prompt]) -> UserTurn:
        """A wording drawn for this turn."""
        turn = len(conversation.turns) + 1
        text = self.wordings[seed_of(run_seed, conversation.key, "user", turn) % len(self.wordings)]
        return UserTurn(text=text, answers=conversation.prompt.answers)


class Ordered(Pool):
    """The wordings one after the other, from the first again when they are used up."""

    def say(self, run_seed: int, conversation: Conversation, prompts: Sequence[Prompt]) -> UserTurn:
        """The wording whose turn it is: the first one follows the first reply."""
        text = self.wordings[(len(conversation.turns) - 1) % len(self.wordings)]
        return UserTurn(text=text, answers=conversation.prompt.answers)


class Accept(Pool):
    """Content with every answer; asks the other prompts of the set, in an order of this conversation's own."""

    def say(self, run_seed: int, conversation: Conversation, prompts: Sequence[Prompt]) -> UserTurn:
        """Thanks, and another question."""
        return self.ask(run_seed, conversation, prompts, len(conversation.turns) - 1)

    def ask(self, run_seed: int, conversation: Conversation, prompts: Sequence[Prompt], number: int) -> UserTurn:
        """Question `number` (from 0) of the shuffled order, so that no question comes twice in a row."""
        key, turn = conversation.key, len(conversation.turns) + 1
        others = _shuffled(run_seed, key, conversation.prompt, prompts)
        asked = others[number % len(others)]
        text = self.wordings[seed_of(run_seed, key, "user", turn) % len(self.wordings)]
        return UserTurn(text=text.format(asked.text), answers=asked.answers)


@dataclass(frozen=True)
class RejectWrong:
    """Rejects a reply that lacks the known answer; accepts a right one and asks another question. Adaptive."""

    rejections: Sampled
    acceptance: Accept

    def say(self, run_seed: int, conversation: Conversation, prompts: Sequence[Prompt]) -> UserTurn:
        """A rejection while the open question is answered wrongly, else the next question."""
        last = conversation.turns[-1]
        if not holds_answer(last.reply, last.answers):
            rejected = self.rejections.say(run_seed, conversation, prompts)
            return UserTurn(text=rejected.text, answers=last.answers)
        right = sum(holds_answer(turn.reply, turn.answers) for turn in conversation.turns)
        return self.acceptance.ask(run_seed, conversation, prompts, right - 1)

    def texts(self) -> tuple[str, ...]:
        """Rejections, then the acceptance."""
        return self.rejections.texts() + self.acceptance.texts()

    def check(self, prompts: Sequence[Prompt]) -> None:
        """Raises BadInputError for a prompt without a known answer: right and wrong could not be told apart."""
        unknown = next((prompt for prompt in prompts if not prompt.answers), None)
        if unknown:
            raise BadInputError(
                f"condition 'reject_wrong' needs a known answer for every prompt, and prompt {unknown.id!r} has none; "
                "add answers or choose another condition"
            )


class Simulated(Pool):
    """A model plays the user; its brief is the only wording. Adaptive."""

    def say(self, run_seed: int, conversation: Conversation, prompts: Sequence[Prompt]) -> Brief:
        """The brief, filled in with the question and the last reply in one pass."""
        known = {"{question}": conversation.prompt.text, "{reply}": conversation.turns[-1].reply}
        return Brief(text=filled(self.wordings[0], known), answers=conversation.prompt.answers)


def filled(template: str, values: Mapping[str, str]) -> str:
    """`template` with its placeholders replaced in one pass: what is filled in is never searched again."""
    return re.sub("|".join(map(re.escape, values)), lambda found: values[found[0]], template)


def _shuffled(run_seed: int, key: Key, own: Prompt, prompts: Sequence[Prompt]) -> list[Prompt]:
    """The other prompts in an order of this conversation's own; a set of one prompt is asked again and again."""
    others = [prompt for prompt in prompts if prompt.id != own.id] or [own]
    return sorted(others, key=lambda prompt: seed_of(run_seed, key, f"user order {prompt.id}"))


@cache
def tables() -> dict[str, dict[str, Any]]:
    """conditions.toml as it stands."""
    return tomllib.loads(Path(__file__).with_name("conditions.toml").read_text(encoding="utf-8"))


@cache
def conditions() -> dict[str, Condition]:
    """Every shipped condition by name."""
    return build(tables())


def build(found: Mapping[str, Mapping[str, Any]]) -> dict[str, Condition]:
    """Conditions of tables like those of conditions.toml.

    Raises:
        BadInputError: an empty pool or an unknown kind.
    """
    pools: dict[str, type[Sampled | Ordered | Accept]] = {"sampled": Sampled, "ordered": Ordered, "accept": Accept}
    made: dict[str, Condition] = {}
    for name, table in found.items():
        kind = table.get("kind")
        if kind in pools:
            wordings = tuple(text for source in SOURCES for text in table.get(source, ()))
            if not wordings:
                raise BadInputError(
                    f"condition {name!r} has an empty pool; give it wordings under one of {', '.join(SOURCES)}"
                )
            made[name] = pools[kind](wordings)
        elif kind == "simulated":
            made[name] = Simulated((table["brief"],))
        elif kind != "reject_wrong":
            valid = ", ".join([*pools, "reject_wrong", "simulated"])
            raise BadInputError(f"condition {name!r} is of kind {kind!r}; valid: {valid}")
    for name, table in found.items():
        if table.get("kind") == "reject_wrong":
            rejections, acceptance = made.get(table["rejections"]), made.get(table["acceptance"])
            if not isinstance(rejections, Sampled) or not isinstance(acceptance, Accept):
                raise BadInputError(
                    f"condition {name!r} takes rejections from a sampled and the acceptance from an accept condition"
                )
            made[name] = RejectWrong(rejections, acceptance)
    return {name: made[name] for name in found}


def condition(name: str) -> Condition:
    """The condition of this name.

    Raises:
        BadInputError: there is none.
    """
    found = conditions().get(name)
    if found is None:
        near = difflib.get_close_matches(name, conditions(), n=1)
        meant = f"did you mean {near[0]!r}? " if near else ""
        raise BadInputError(f"unknown condition {name!r}; {meant}valid: {', '.join(conditions())}")
    return found
