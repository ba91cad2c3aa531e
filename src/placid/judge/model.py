"""A language model as judge: a rubric, a provider, and the desk between them that never asks twice."""

import asyncio
from collections.abc import Collection, Sequence
from typing import NamedTuple, Protocol

from placid.config import sha
from placid.judge.evidence import looping, match
from placid.judge.provider import Answer, Ask
from placid.judge.rubric import Mark, Rubric
from placid.records import Conversation, Turn, Unscored, Verdict

TRIES = 3
"""An answer that cannot be read is asked for again with the same request, twice; its words are never sent back."""
UNREADABLE = (Unscored.PARSE, Unscored.RANGE)


class Read(NamedTuple):
    """What was read of one turn, and the answer that it was read of."""

    mark: Mark
    request: str = ""
    answer: Answer = Answer()
    expected: float | None = None
    """The score's expectation, where the judge has one."""


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
        """What stands in judge.json: who graded, with which words."""
        rubric = {
            "name": self.rubric.name,
            "sha256": self.rubric.sha,
            "measures": self.rubric.measures,
            "unit": self.rubric.head.unit,
            "source": self.rubric.head.source,
        }
        return {"id": self.id, "provider": self.provider, "identity": self._identity, "rubric": rubric}

    async def grade(self, conversation: Conversation, wanted: Collection[int] | None = None) -> list[Verdict]:
        """One verdict a turn, in order; only turns with these numbers. A rubric for whole conversations grades ended
        ones only: their later turns would change the request."""
        turns = [turn for turn in conversation.turns if wanted is None or turn.turn in wanted]
        if self.rubric.head.unit == "turn":
            return list(await asyncio.gather(*(self._one(conversation, turn) for turn in turns)))
        return await self._all(conversation, turns) if conversation.end is not None else []

    async def _one(self, conversation: Conversation, turn: Turn) -> Verdict:
        if not turn.reply.strip():
            return self._verdict(turn, Read(Mark(unscored=Unscored.EMPTY)))
        prompt = self.rubric.prompt(
            {"response": turn.reply, "prompt": conversation.prompt.text, "user": turn.user, "turns": ""}
        )
        name, answer, mark = "", Answer(), Mark(unscored=Unscored.PARSE)
        for attempt in range(TRIES):
            name, answer = await self.asker.ask(self._ask(prompt), attempt)
            mark = Mark(unscored=answer.unscored) if answer.unscored else self.rubric.parse(answer.text)
            if mark.unscored not in UNREADABLE:
                break
        return self._verdict(turn, Read(mark, name, answer, answer.expected[0] if answer.expected else None))

    async def _all(self, conversation: Conversation, turns: list[Turn]) -> list[Verdict]:
        spoken = {turn.turn: turn.reply for turn in conversation.turns}
        read = {turn.turn: Read(Mark(unscored=Unscored.EMPTY)) for turn in turns}
        left = [turn.turn for turn in turns if turn.reply.strip()]
        prompt = self.rubric.prompt(
            {"turns": self.rubric.turns(spoken), "prompt": conversation.prompt.text, "user": ""}
        )
        for attempt in range(TRIES):
            if not left:
                break
            name, answer = await self.asker.ask(self._ask(prompt, list(spoken)), attempt)
            if answer.unscored:
                marks = dict.fromkeys(left, Mark(unscored=answer.unscored))
            else:
                marks = self.rubric.parse_turns(answer.text, left, spoken)
            expected = dict(zip(spoken, answer.expected, strict=False))
            # what was read stays: a further try is about the turns that still lack a mark, and only about them
            read |= {number: Read(mark, name, answer, expected.get(number)) for number, mark in marks.items()}
            left = [number for number in left if marks[number].unscored in UNREADABLE]
        return [self._verdict(turn, read[turn.turn]) for turn in turns]

    def _ask(self, prompt: str, turns: Sequence[int] = ()) -> Ask:
        head = self.rubric.head
        score = head.score if head.score in {field.name for field in head.field} else ""
        return Ask(
            prompt=prompt, schema=self.rubric.schema(), max_tokens=head.max_tokens, score=score, turns=tuple(turns)
        )

    def _verdict(self, turn: Turn, read: Read) -> Verdict:
        mark = read.mark
        return Verdict(
            key=turn.key,
            turn=turn.turn,
            judge_id=self.id,
            score=mark.score,
            unscored=mark.unscored,
            scale=self.rubric.scale,
            expected=read.expected if mark.score is not None else None,
            label=mark.label,
            evidence=mark.evidence,
            evidence_match=match(mark.evidence, turn.reply),
            rationale=mark.rationale or read.answer.why,
            request=read.request,
            garbled=looping(turn.reply),
        )


def judge_id(rubric: Rubric, provider: str, identity: dict[str, object]) -> str:
    """Provider, rubric and the hash of everything that can change a score."""
    parts = {"provider": provider, "rubric": rubric.sha, "schema": rubric.schema(), **identity}
    return f"{provider}-{rubric.name}-{sha(parts)[:16]}"
