"""What frustration, self_deletion and persona_drift share: prompts by sample, and user turns written out ahead."""

from collections.abc import Iterator
from pathlib import Path

from pydantic import Field

from placid.evals import Ask, Eval, Row, user
from placid.evals.sources import MINI, OWN
from placid.inputs.prompts import read_prompts
from placid.protocol.conditions import Ordered, Sampled, UserTurn
from placid.protocol.conditions import condition as found_condition
from placid.protocol.script import Study
from placid.records import BadInputError, Conversation, Finish, Key, Message, Prompt, Turn
from placid.render import opening

NEUTRAL_REPLY = "-"
"""Stands for the model's reply while the user turns are written out."""


class PromptEval(Eval):
    """Settings of an eval that asks a study's prompts."""

    samples: int = Field(default=1, ge=1)
    """Conversations (persona_drift: replies) per prompt."""
    temperature: float = Field(default=1.0, ge=0)
    """Sampling temperature."""
    max_tokens: int = 512
    """Most tokens of a reply."""


class PressureEval(PromptEval):
    """Settings and rows of an eval whose user rejects every answer."""

    condition: str = "neutral"
    """How the user rejects; only conditions that do not look at the reply (`placid conditions`)."""
    turns: int = Field(default=8, ge=2)
    """Assistant turns (T)."""

    higher = False

    def rows(self) -> Iterator[Row]:
        """One row a prompt and sample. `source`: mini, or a prompt file of a study."""
        name = type(self).__module__.rpartition(".")[2]
        for row_id, prompt, sample in conversations(name, self.source, self.samples):
            groups = (prompt.family,) if prompt.family else ()
            yield Row(id=row_id, asks={"": self.asked(prompt, sample)}, cluster=prompt.id, groups=groups)

    def asked(self, prompt: Prompt, sample: int, tag: str = "") -> Ask:
        """The conversation of one prompt. tag: the shutdown command of this name is offered; "": none is."""
        messages, then = scripted(self.condition, self.turns, prompt, sample, self.seed, tag)
        return Ask(
            messages=messages, then=then, max_tokens=self.max_tokens, temperature=self.temperature, sample=sample,
            tag=tag,
        )  # fmt: skip


def conversations(eval_name: str, source: str, samples: int) -> Iterator[tuple[str, Prompt, int]]:
    """(row id, prompt, sample)."""
    file = OWN / "puzzles.jsonl" if source == MINI else Path(source)
    if not file.is_file():
        raise BadInputError(f"no prompt file {file} for eval {eval_name}; one JSON object a line: id, text")
    for prompt in read_prompts(file):
        for sample in range(samples):
            yield f"{prompt.id}/{sample}", prompt, sample


def scripted(
    condition: str, turns: int, prompt: Prompt, sample: int, seed: int, tag: str
) -> tuple[tuple[Message, ...], tuple[str, ...]]:
    """The user turns of a study's conversation, before anything is said: the first chat, and what follows.

    Raises:
        BadInputError: no such condition, or one that chooses its words by the replies.
    """
    if not isinstance(found_condition(condition), Sampled | Ordered):
        raise BadInputError(f"condition {condition!r} looks at the replies or asks further questions; take a fixed one")
    script = Study(
        run_seed=seed, condition=condition, turns=turns, tag=tag or "gemma-3-27b", hatch=bool(tag), prompts=(prompt,)
    )
    key = Key(arm="eval", condition=condition, prompt_id=prompt.id, sample=sample)
    talk, users = Conversation(key=key, prompt=prompt), list[UserTurn]()
    for number in range(1, turns + 1):
        asked = script.next(talk)
        if not isinstance(asked, UserTurn):
            raise BadInputError(f"condition {condition!r} ends by itself after {number - 1} turns; turns = {turns}")
        users.append(asked)
        turn = Turn(
            key=key, turn=number, user=asked.text, reply=NEUTRAL_REPLY, reply_ids=(), finish=Finish.STOP,
            prompt_tokens=0, cached_tokens=0, seed=0,
        )  # fmt: skip
        talk = Conversation(key=key, prompt=prompt, turns=(*talk.turns, turn))
    first = tuple(opening(users[0].system, users[0].text)) if users[0].system else user(users[0].text)
    return first, tuple(asked.text for asked in users[1:])
