"""Who answers. An engine gets token ids and gives token ids back; it does not know what is asked or why."""

from typing import Protocol

from placid.records import Finish, Record


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
    allowed_ids: tuple[int, ...] = ()
    """Only these tokens may be said (a question with letters to choose from); empty: any. At temperature 0 and one
    token the reply is then the likeliest of them, and its log-probability is still the one among all tokens."""


class Reply(Record, frozen=True, kw_only=True):
    """What came back. `token_ids` without the end-of-turn token; `text` is their decoding without special tokens."""

    token_ids: tuple[int, ...]
    text: str
    finish: Finish
    cached_tokens: int = 0
    logprobs: tuple[float, ...] | None = None
    """Natural log-probability of each of `token_ids`, before temperature."""


class ContextOverflowError(Exception):
    """The prompt plus at least one new token does not fit the model's context."""


class Engine(Protocol):
    """Who answers."""

    name: str
    version: str
    context_tokens: int
    """Most tokens of prompt and reply together."""

    async def start(self) -> None:
        """Load the weights; check every adapter by its gate. Raises on a no-op or mismatching adapter."""
        ...

    async def reply(self, request: ReplyRequest) -> Reply:
        """Raises ContextOverflowError, or whatever the engine died of (infrastructure)."""
        ...

    async def close(self) -> None:
        """Leave no child process behind."""
        ...
