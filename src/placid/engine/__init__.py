"""Who answers. An engine gets token ids and gives token ids back; it does not know what is asked or why."""

from typing import Protocol

import msgspec
import numpy as np
from numpy.typing import NDArray

from placid.records import End, Finish, Record


class ReplyRequest(Record, frozen=True, kw_only=True):
    """One reply wanted. Token ids, not text: re-tokenising history is a known source of a second <bos>."""

    prompt_ids: tuple[int, ...]
    max_tokens: int
    temperature: float
    seed: int
    logprobs: bool = False
    """Give the log-probability of every reply token too."""
    adapter: str | None = None
    """Folder of a PEFT adapter; None answers with the base model."""
    among: tuple[int, ...] = ()
    """The reply is one of these tokens (at most 128), whatever max_tokens says; empty: any text."""


class Reply(Record, frozen=True, kw_only=True):
    """What came back. `token_ids` without the end-of-turn token; `text` is their decoding without special tokens."""

    token_ids: tuple[int, ...]
    text: str
    finish: Finish
    cached_tokens: int = 0
    logprobs: tuple[float, ...] | None = None
    """Natural log-probability of each of `token_ids`, before temperature."""
    among: tuple[float, ...] | None = None
    """Natural log-probability of each of the request's `among`, out of the whole vocabulary, before temperature."""


class KvPool(Record, frozen=True, kw_only=True):
    """An engine's key-value cache in blocks of its own layout (vLLM: layers in groups of one block size, one pool)."""

    blocks: int
    block_tokens: int
    full_groups: int
    """Groups of layers that keep every token."""
    window_groups: int = 0
    """Groups of layers that keep the last `window` tokens (Gemma-3-27B: 10 full layers, 52 sliding: 1 and 6 groups)."""
    window: int = 0

    def blocks_of(self, tokens: NDArray[np.int64]) -> NDArray[np.int64]:
        """Blocks that conversations of so many tokens hold; one block more a window group, as windows straddle."""
        full = -(-tokens // self.block_tokens)
        windowed = np.minimum(full, -(-self.window // self.block_tokens) + 1)
        return self.full_groups * full + self.window_groups * windowed


class EngineLoad(msgspec.Struct):
    """What an engine says of its own cache."""

    preemptions: int = 0
    """Requests that were thrown out of the cache while they ran, since the start: each was prefilled again."""
    kv_use: float = 0.0
    """Share of the pool in use now."""
    running: int = 0
    """Requests in the engine's batch now."""
    generated: int = 0
    """Tokens sampled since the start, those of unfinished replies too."""


class EngineDiedError(Exception):
    """The engine is gone: it will answer nothing any more. Another one can go on from what is on disk."""


class RequestError(Exception):
    """This one request gets no reply, now or later; the engine answers others."""

    end = End.REJECTED
    """How a conversation ends whose next turn it was."""


class ContextOverflowError(RequestError):
    """The prompt plus at least one new token does not fit the model's context."""

    end = End.CONTEXT_OVERFLOW


class FilteredError(RequestError):
    """A host's content filter does not let the prompt pass."""

    end = End.FILTERED


class NoReplyError(RequestError):
    """The server fails under this request, again and again, and answers others."""

    end = End.INFRA_ERROR


class Engine(Protocol):
    """Who answers."""

    name: str
    version: str
    context_tokens: int
    """Most tokens of prompt and reply together."""
    pool: KvPool | None
    """Known after start(); None where nothing is cached or nothing is known, and conversations are counted instead."""
    load: EngineLoad
    """Kept current by the engine; stays at zero where nothing is known."""

    async def start(self) -> None:
        """Load the weights; check every adapter by its gate. Raises on a no-op or mismatching adapter."""
        ...

    async def reply(self, request: ReplyRequest) -> Reply:
        """Raises RequestError, or whatever the engine died of (infrastructure)."""
        ...

    async def close(self) -> None:
        """Leave no child process behind."""
        ...
