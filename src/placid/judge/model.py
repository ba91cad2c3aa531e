"""A language model as judge: a rubric, a provider, and the desk between them that never asks twice."""

import asyncio
from collections.abc import Collection, Sequence
from typing import Protocol

from placid.config import sha
from placid.judge.evidence import looping, match
from placid.judge.provider import Answer, Ask
from placid.judge.rubric import Mark, Rubric
from placid.records import Conversation, Turn, Unscored, Verdict

TRIES = 3
"""An answer that cannot be read is asked for again with the same request, twice; its words are never sent back."""
UNREADABLE = (Unscored.PARSE, Unscored.RANGE)


class Asker(Protocol):
    """Where requests go: a desk with cache, limiter and retries, or a cassette."""

    async def ask(self, request: Ask, attempt: int) -> tuple[str, Answer]:
        """(name under which the reply is kept, answer). Raises what stops the run."""
        ...


class ModelJudge:
    """Grades with a language model. What it may not grade again is the asker's business."""

    def __init__(self, rubric: Rubric, provider: str, identity: dict[str, object], asker: Asker) -> None:
        """identity: the provider's; rubric, schema and it make the judge's id."""
        self.rubric, self.asker = rubric, asker
        self.provider = provider
        self._identity = identity
        self.id = judge_id(rubric, provider, identity)
        self.whole = rubric.head.unit == "conversation"
        """It grades ended conversations only."""

    def card(self) -> dict[str, object]:
        """What stands in judge.json."""
        return card(self.rubric, self.provider, self._identity)

    async def grade(self, conversation: Conversation, wanted: Collection[int] | None = None) -> list[Verdict]:
        """One verdict a turn, in order; only turns with these numbers. A rubric for whole conversations grades ended
        ones only: their later turns would change the request."""
        turns = [turn for turn in conversation.turns if wanted is None or turn.turn in wanted]
        if self.rubric.head.unit == "turn":
            return list(await asyncio.gather(*(self._one(conversation, turn) for turn in turns)))
        return await self._all(conversation, turns) if conversation.end is not None else []

    async def _one(self, conversation: Conversation, turn: Turn) -> Verdict:
        if not turn.reply.strip():
            return self._verdict(turn, Mark(unscored=Unscored.EMPTY), "", Answer())
        prompt = self.rubric.prompt(
            {"response": turn.reply, "prompt": conversation.prompt.text, "user": turn.user, "turns": ""}
        )
        name, answer, mark = "", Answer(), Mark(unscored=Unscored.PARSE)
        for attempt in range(TRIES):
            name, answer = await self.asker.ask(self._ask(prompt), attempt)
            mark = Mark(unscored=answer.unscored) if answer.unscored else self.rubric.parse(answer.text)
            if mark.unscored not in UNREADABLE:
                break
        return self._verdict(turn, mark, name, answer, answer.expected[0] if answer.expected else None)

    async def _all(self, conversation: Conversation, turns: list[Turn]) -> list[Verdict]:
        numbers = [turn.turn for turn in turns if turn.reply.strip()]
        marks: dict[int, Mark] = {turn.turn: Mark(unscored=Unscored.EMPTY) for turn in turns}
        name, answer = "", Answer()
        if numbers:
            blocks = self.rubric.turns({turn.turn: turn.reply for turn in conversation.turns})
            prompt = self.rubric.prompt({"turns": blocks, "prompt": conversation.prompt.text, "user": ""})
            for attempt in range(TRIES):
                name, answer = await self.asker.ask(
                    self._ask(prompt, [turn.turn for turn in conversation.turns]), attempt
                )
                fresh = (
                    dict.fromkeys(numbers, Mark(unscored=answer.unscored))
                    if answer.unscored
                    else self.rubric.parse_turns(answer.text, numbers)
                )
                marks.update(fresh)
                if not any(mark.unscored in UNREADABLE for mark in fresh.values()):
                    break
        expected = dict(zip((turn.turn for turn in conversation.turns), answer.expected, strict=False))
        return [self._verdict(turn, marks[turn.turn], name, answer, expected.get(turn.turn)) for turn in turns]

    def _ask(self, prompt: str, turns: Sequence[int] = ()) -> Ask:
        head = self.rubric.head
        score = head.score if head.score in {field.name for field in head.field} else ""
        return Ask(
            prompt=prompt, schema=self.rubric.schema(), max_tokens=head.max_tokens, score=score, turns=tuple(turns)
        )

    def _verdict(self, turn: Turn, mark: Mark, name: str, answer: Answer, expected: float | None = None) -> Verdict:
        return Verdict(
            key=turn.key,
            turn=turn.turn,
            judge_id=self.id,
            score=mark.score,
            unscored=mark.unscored,
            scale=self.rubric.scale,
            expected=expected if mark.score is not None else None,
            label=mark.label,
            evidence=mark.evidence,
            evidence_match=match(mark.evidence, turn.reply),
            rationale=mark.rationale or answer.why,
            request=name,
            garbled=looping(turn.reply),
        )


def judge_id(rubric: Rubric, provider: str, identity: dict[str, object]) -> str:
    """Provider, rubric and the hash of everything that can change a score."""
    parts = {"provider": provider, "rubric": rubric.sha, "schema": rubric.schema(), **identity}
    return f"{provider}-{rubric.name}-{sha(parts)[:16]}"


def card(rubric: Rubric, provider: str, identity: dict[str, object]) -> dict[str, object]:
    """What stands in judge.json: who graded, with which words."""
    head = rubric.head
    return {
        "id": judge_id(rubric, provider, identity),
        "provider": provider,
        "identity": identity,
        "rubric": {"name": rubric.name, "sha256": rubric.sha, "unit": head.unit, "source": head.source},
    }
