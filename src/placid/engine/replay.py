"""Replies of a recorded run, given again: a study without a model, or the same transcripts under a new judge."""

import hashlib
from collections.abc import Iterable, Mapping
from pathlib import Path

from placid.engine import EngineLoad, KvPool, Reply, ReplyRequest
from placid.engine.settings import EngineSettings
from placid.records import BadInputError, Key, Turn
from placid.render import Renderer, opening


class ReplayEngine:
    """Answers by (adapter, seed, prompt ids). Of two recorded replies to the same request the first by key stands."""

    name = "replay"
    version = "1"

    def __init__(
        self, settings: EngineSettings, model: Path, turns: Iterable[Turn], adapters: Mapping[str, str | None]
    ) -> None:
        """turns: of the recorded run. adapters: arm → adapter folder or None, as the run that asks names them."""
        self.context_tokens = settings.context_tokens
        self.pool: KvPool | None = None
        self.load = EngineLoad()
        self._model, self._adapters, self._where = model, dict(adapters), settings.recorded
        self._grouped: dict[Key, list[Turn]] = {}
        for turn in turns:
            self._grouped.setdefault(turn.key, []).append(turn)
        self._replies: dict[str, Reply] = {}

    async def start(self) -> None:
        """Rebuild every recorded prompt."""
        renderer = Renderer(self._model)
        for key, turns in sorted(self._grouped.items()):
            ids: list[int] = []
            before: Turn | None = None
            for turn in sorted(turns, key=lambda turn: turn.turn):
                first = before is None
                ids = (
                    renderer.prompt(opening(turn.system, turn.user))
                    if first
                    else renderer.extend(ids, before.reply_ids, turn.user)  # pyright: ignore[reportOptionalMemberAccess]
                )
                before = turn
                reply = Reply(
                    token_ids=turn.reply_ids,
                    text=turn.reply,
                    finish=turn.finish,
                    cached_tokens=turn.cached_tokens,
                    logprobs=turn.logprobs,
                )
                self._replies.setdefault(_name(self._adapters.get(key.arm), turn.seed, ids), reply)

    async def reply(self, request: ReplyRequest) -> Reply:
        """Raises BadInputError for a prompt that was not recorded."""
        reply = self._replies.get(_name(request.adapter, request.seed, request.prompt_ids))
        if reply is None:
            raise BadInputError(
                f"{self._where} holds no reply to this prompt of {len(request.prompt_ids)} tokens "
                f"(seed {request.seed}, adapter {request.adapter}); "
                f"replay needs the config, prompts and model it was recorded with"
            )
        return reply

    async def close(self) -> None:
        """Nothing to close."""


def _name(adapter: str | None, seed: int, ids: Iterable[int]) -> str:
    """What a request is known by."""
    return hashlib.sha256(repr((adapter, seed, tuple(ids))).encode()).hexdigest()
