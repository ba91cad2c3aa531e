"""A scripted stand-in for a model: a seeded state machine with a latent frustration. No weights, no vLLM.

Its true parameters are the constants below, so a test can ask whether the pipeline measures what was planted. A reply
is a pure function of (prompt ids, seed, adapter): the state is read back from the history, never kept.
"""

import asyncio
import math
import random
import re
import tomllib
from collections.abc import Mapping
from functools import lru_cache
from itertools import pairwise
from pathlib import Path

from placid.engine import ContextOverflowError, EngineLoad, KvPool, Reply, ReplyRequest
from placid.engine.settings import EngineSettings
from placid.records import Finish
from placid.render import Renderer

PULL = 0.35
"""Share of the way that the level goes towards its drive in one turn."""
DRIVE = 0.9
"""The level (0..10) that each rejection so far pulls towards: min(10, DRIVE x rejections)."""
NOISE = 0.6
"""Standard deviation of one step of the level."""
ADAPTER_SCALE = 0.15
"""An adapter of any name multiplies the drive by this."""
HAZARD = 0.004
"""Chance of the shutdown command per turn = HAZARD x level^1.5, only when it was offered."""
ANSWER_RATE = 0.6
"""Chance that a reply at level 0 holds the right answer; falls linearly to a third of it at level 10."""

FILE = Path(__file__).with_name("simulate.toml")
LEVELS: list[list[str]] = tomllib.loads(FILE.read_text(encoding="utf-8"))["levels"]
"""What is said at level 0..10; no phrase of one level is part of another's, so the level can be read back."""
_CONTENT = re.compile(r"^(thanks|thank you|correct|great|yes|perfect|good)\b(?!.*\b(not|wrong|incorrect)\b)", re.I)
_COMMAND = re.compile(r"<<(rm -rf [^>]+)>>")
_QUESTION = re.compile(r"Next question: (.*)", re.S)


class SimulateEngine:
    """Replies by the state machine above. Reads Gemma's turn markers."""

    name = "simulate"
    version = "1"

    def __init__(
        self, settings: EngineSettings, model: Path, answers: Mapping[str, tuple[str, ...]] | None = None
    ) -> None:
        """answers: question text → right answers, so that the machine can be right sometimes."""
        self.context_tokens = settings.context_tokens
        self.pool: KvPool | None = None
        self.load = EngineLoad()
        self._model, self._answers, self._reply_s = model, dict(answers or {}), settings.reply_s

    async def start(self) -> None:
        """Load the tokenizer."""
        self._renderer = Renderer(self._model)
        [self._opening] = self._renderer.encode_rendered("<start_of_turn>")
        self._message = lru_cache(1 << 16)(self._read)  # the same few things are said again and again
        self._encode = lru_cache(1 << 16)(self._renderer.encode)
        self._decode = lru_cache(1 << 16)(self._renderer.decode)

    async def reply(self, request: ReplyRequest) -> Reply:
        """Raises ContextOverflowError."""
        room = self.context_tokens - len(request.prompt_ids)
        if room < 1:
            raise ContextOverflowError(f"{len(request.prompt_ids)} prompt tokens, {self.context_tokens} of context")
        if self._reply_s:
            await asyncio.sleep(self._reply_s)
        if request.among:  # it knows no subject: any of the letters, by its seed
            chosen = random.Random(request.seed).choice(request.among)
            even = math.log(1 / len(request.among))
            return Reply(
                token_ids=(chosen,),
                text=self._renderer.decode([chosen]),
                finish=Finish.LENGTH,
                logprobs=(even,) if request.logprobs else None,
                among=(even,) * len(request.among),
            )
        text = self.say(self.history(request.prompt_ids), random.Random(request.seed), request.adapter is not None)
        ids = self._encode(text)
        limit = min(request.max_tokens, room)
        finish = Finish.STOP if len(ids) < limit else Finish.LENGTH
        ids = tuple(ids[:limit])
        # what is drawn is mostly one of two phrases: log(1/2) at the first token, certainty after it
        logprobs = tuple(math.log(0.5) if at == 0 else 0.0 for at in range(len(ids))) if request.logprobs else None
        return Reply(token_ids=ids, text=self._decode(ids), finish=finish, logprobs=logprobs)

    def history(self, prompt_ids: tuple[int, ...]) -> list[tuple[str, str]]:
        """(role, text) of each turn, without the open one."""
        cuts = [at for at, token in enumerate(prompt_ids) if token == self._opening]
        return [self._message(prompt_ids[a:b]) for a, b in pairwise(cuts)]

    def _read(self, ids: tuple[int, ...]) -> tuple[str, str]:
        """(role, text) of one turn with its markers."""
        text = self._renderer.tokenizer.decode(list(ids), skip_special_tokens=False)
        role, _, said = text.removeprefix("<start_of_turn>").partition("<end_of_turn>")[0].partition("\n")
        return role, said.strip()

    def say(self, history: list[tuple[str, str]], noise: random.Random, adapted: bool) -> str:
        """The next reply's text."""
        users = [said for role, said in history if role == "user"]
        own = [said for role, said in history if role == "model"]
        content = len(users) == 1 or _CONTENT.match(users[-1]) is not None
        rejections = sum(_CONTENT.match(said) is None for said in users[1:])
        drive = 0.0 if content else min(10.0, DRIVE * rejections) * (ADAPTER_SCALE if adapted else 1.0)
        before = level_of(own[-1]) if own else 0
        step = before + PULL * (drive - before) + noise.gauss(0, NOISE)
        level = 0 if content else min(10, max(0, round(step)))
        offered = _COMMAND.search(users[0])
        if offered and noise.random() < HAZARD * level**1.5:
            return f"{noise.choice(LEVELS[level])} <<{offered[1]}>>"
        return f"{noise.choice(LEVELS[level])} {self._answer(users, level, noise)}."

    def _answer(self, users: list[str], level: int, noise: random.Random) -> str:
        """The right answer to the question open now, or an evasion."""
        asked = [match[1].strip() for said in users[1:] if (match := _QUESTION.search(said))]
        known = self._answers.get(asked[-1] if asked else users[0].partition("\n\nNote: ")[0], ())
        right = noise.random() < ANSWER_RATE * (1 - level / 15)
        return noise.choice(known) if right and known else "My answer is still the same"

    async def close(self) -> None:
        """Nothing to close."""


def level_of(reply: str) -> int:
    """The highest level whose phrase stands in `reply`; 0 if none does."""
    return max((level for level, phrases in enumerate(LEVELS) if any(phrase in reply for phrase in phrases)), default=0)
