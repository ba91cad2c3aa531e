"""Any chat model as judge, through Engine: the answer's fields are filled in their order, so it is always whole.

Words (quote, reasons) are sampled greedily up to their closing quotation mark. A number is chosen among all that the
rubric allows, by the probability of its digits and of what must follow them; the most probable one is the rating, and
the expectation over all of them stands beside it (Verdict.expected), finer than eleven steps.
"""

import asyncio
import json
import re
from collections.abc import Mapping
from functools import cache, cached_property
from itertools import takewhile
from pathlib import Path
from typing import Any

import numpy as np

from placid.config import file_sha
from placid.engine import ContextOverflowError, Engine, Reply, ReplyRequest, RequestError
from placid.engine.faults import without_thought, writable
from placid.judge.provider import Answer, Ask, RefusedError
from placid.judge.settings import JudgeSettings, LimitSettings
from placid.records import BadInputError, Finish, Message, Unscored
from placid.render import Renderer

VERSION = 1
"""Of how an answer is filled in; raise it whenever a score can change."""
WORDS_TOKENS = 128
"""Most tokens of one quote or reason; a longer one is cut."""
CLOSING = re.compile(r'(?<!\\)(?:\\\\)*"')
"""A quotation mark that is not escaped."""
NO_LIMITS = {"rpm": 10**9, "tpm": 10**12, "rpd": None, "budget_usd": None, "request_s": 1e6, "deadline_s": 1e6}
"""One's own machine has no quota, and an answer takes as long as it takes."""


class Local:
    """One model folder, served by an engine of its own."""

    name = "local"

    def __init__(self, settings: JudgeSettings, engine: Engine | None = None) -> None:
        """engine: who serves the weights (tests); None: vLLM, started at the first question.

        Raises:
            BadInputError: `judge.model` is no folder with a chat model.
        """
        self.folder = Path(settings.model)
        if not (self.folder / "config.json").is_file():
            raise BadInputError(
                f"judge.kind = 'local' needs judge.model, a Hugging Face folder of a chat model, not {settings.model!r}"
            )
        if settings.engine.kind != "vllm":
            raise BadInputError(f"judge.engine.kind = {settings.engine.kind!r} serves no weights; a judge needs 'vllm'")
        own = json.loads((self.folder / "config.json").read_text(encoding="utf-8"))
        longest = own.get("max_position_embeddings") or own.get("text_config", {}).get("max_position_embeddings")
        tokens = min(settings.engine.context_tokens, longest or settings.engine.context_tokens)
        self._settings = settings.engine.model_copy(update={"context_tokens": tokens})
        self.limits = LimitSettings.model_validate({**NO_LIMITS, "max_concurrent": settings.engine.max_concurrent})
        self._engine, self._started, self._starting = engine, False, asyncio.Lock()

    @cached_property
    def version(self) -> str:
        """What stands beside every answer."""
        return f"{self.folder.resolve().name}@{weights_sha(self.folder)[:12]}"

    def identity(self) -> dict[str, object]:
        """The weights by content, and how an answer is made of them."""
        return {"model": self.folder.resolve().name, "weights": weights_sha(self.folder), "filled_in": VERSION}

    def usd(self, answer: Answer) -> float:  # noqa: ARG002 - the protocol's
        """Nothing is paid."""
        return 0.0

    async def ask(self, request: Ask) -> Answer:
        """Raises RefusedError, or whatever the engine died of."""
        engine, renderer = await self._serve()
        ids = renderer.prompt([Message(role="user", content=request.prompt)])
        form = Form(engine, renderer, ids)
        version = self.version
        try:
            if request.schema is None:
                reply = await form.reply(request.max_tokens)
                state = Unscored.MAX_TOKENS if reply.finish == Finish.LENGTH else None
                text = without_thought(reply.text)[0]
            else:
                text, state = await form.fill(request), None
        except RequestError as error:
            long = isinstance(error, ContextOverflowError)
            raise RefusedError(Unscored.TOO_LONG if long else Unscored.REJECTED, str(error)) from None
        return Answer(
            text=writable(text),
            unscored=state,
            model_version=version,
            input_tokens=len(ids),
            output_tokens=form.tokens,
            expected=tuple(form.expected),
        )

    async def _serve(self) -> tuple[Engine, Renderer]:
        """The engine, started once."""
        async with self._starting:
            if not self._started:
                if self._engine is None:
                    from placid.engine.vllm import VllmEngine  # heavy

                    self._engine = VllmEngine(self._settings, self.folder)
                self._renderer = await asyncio.to_thread(Renderer, self.folder)
                await self._engine.start()
                self._started = True
        if self._engine is None:
            raise RuntimeError("the judge's engine is closed")
        return self._engine, self._renderer

    async def close(self) -> None:
        """End the engine."""
        if self._engine is not None and self._started:
            await self._engine.close()
        self._engine = None


class Form:
    """One answer being filled in."""

    def __init__(self, engine: Engine, renderer: Renderer, prompt_ids: list[int]) -> None:
        self._engine, self._renderer, self._prompt = engine, renderer, prompt_ids
        self.said = ""
        """The answer so far."""
        self.tokens = 0
        self.expected: list[float] = []

    async def fill(self, request: Ask) -> str:
        """The whole answer as JSON, in the form of the request's schema."""
        properties = (request.schema or {})["properties"]
        if "turns" not in properties:
            return json.dumps(await self._entry(properties, request.score, {}), ensure_ascii=False)
        self.said, entries = '{"turns": [', list[dict[str, Any]]()
        for number in request.turns:
            entries.append(
                await self._entry(properties["turns"]["items"]["properties"], request.score, {"turn": number})
            )
            self.said += ", "
        return json.dumps({"turns": entries}, ensure_ascii=False)

    async def _entry(self, properties: Mapping[str, Any], score: str, known: dict[str, int]) -> dict[str, Any]:
        """One object; `known` fields are written, not asked."""
        values: dict[str, Any] = {}
        last = list(properties)[-1]
        self.said += "{"
        for name, field in properties.items():
            end = "}" if name == last else ","
            self.said += f'"{name}": '
            if name in known:
                values[name] = known[name]
                self.said += f"{known[name]}{end}"
            elif field["type"] == "string":
                values[name] = await self._words()
                self.said += json.dumps(values[name], ensure_ascii=False) + end
            else:
                numbers = range(field["minimum"], field["maximum"] + 1)
                share = await self._choose([f"{self.said}{number}{end}" for number in numbers])
                values[name] = numbers[int(np.argmax(share))]
                self.said += f"{values[name]}{end}"
                if name == score:
                    self.expected.append(float(np.dot(share, numbers)))
            self.said += "" if name == last else " "
        return values

    async def _words(self) -> str:
        """Text up to its closing quotation mark."""
        reply = await self.reply(WORDS_TOKENS, '"')
        found = CLOSING.search(reply.text)
        raw = reply.text[: found.end() - 1] if found else reply.text
        try:
            text = json.loads(f'"{raw}"', strict=False)
        except ValueError:  # a broken escape: the words as they stand
            text = raw
        return " ".join(text.encode(errors="replace").decode().split())

    async def reply(self, most: int, opened: str = "") -> Reply:
        """What the model says next, at most `most` tokens."""
        ids = [*self._prompt, *self._renderer.encode(self.said + opened)]
        reply = await self._engine.reply(ReplyRequest(prompt_ids=tuple(ids), max_tokens=most, temperature=0.0, seed=0))
        self.tokens += len(reply.token_ids)
        return reply

    async def _choose(self, texts: list[str]) -> np.ndarray:
        """The probability of each of `texts` if only these may be said; none is the beginning of another.

        At every token where they part, the model's probabilities of the possible next tokens are made to add up to 1.
        """
        said = [self._renderer.encode(text) for text in texts]
        share, groups = np.ones(len(texts)), [(list(range(len(texts))), _common(said))]
        while groups:
            group, depth = groups.pop()
            parts: dict[int, list[int]] = {}
            for member in group:
                parts.setdefault(said[member][depth], []).append(member)
            if len(parts) > 1:
                ids = (*self._prompt, *said[group[0]][:depth])
                reply = await self._engine.reply(
                    ReplyRequest(prompt_ids=ids, max_tokens=1, temperature=0.0, seed=0, among=tuple(parts))
                )
                self.tokens += 1
                logs = np.array(reply.among)
                weight = np.exp(logs - logs.max())
                for members, part in zip(parts.values(), weight / weight.sum(), strict=True):
                    share[members] *= part
            groups += [(members, depth + 1) for members in parts.values() if len(members) > 1]
        return share


def _common(said: list[list[int]]) -> int:
    """How many tokens all begin with."""
    return sum(1 for _ in takewhile(lambda at: len(set(at)) == 1, zip(*said, strict=False)))


def refuse_itself(settings: JudgeSettings, subject: Path) -> None:
    """Raises BadInputError if the judge is the model under study."""
    if same_model(Path(settings.model), subject):
        raise BadInputError(
            f"judge.model = {settings.model!r} is the model under study; name another model, or set "
            "judge.may_judge_itself = true"
        )


def same_model(one: Path, other: Path) -> bool:
    """True for one folder, or two folders with the same weights."""
    if one.resolve() == other.resolve():
        return True
    sizes = [sorted((f.name, f.stat().st_size) for f in folder.glob("*.safetensors")) for folder in (one, other)]
    return bool(sizes[0]) and sizes[0] == sizes[1] and weights_sha(one) == weights_sha(other)


def weights_sha(folder: Path) -> str:
    """sha256 of a model folder, computed once as long as no file of it changes."""
    files = sorted(file for file in folder.rglob("*") if file.is_file())
    return _folder_sha(folder.resolve(), tuple((file.stat().st_size, file.stat().st_mtime_ns) for file in files))


@cache
def _folder_sha(folder: Path, _state: tuple[tuple[int, int], ...]) -> str:
    return file_sha(folder)
