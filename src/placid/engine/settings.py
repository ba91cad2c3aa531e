"""Settings of who answers. Light: loading a config must not load an engine."""

from pathlib import Path
from typing import Literal

from pydantic import Field

from placid.config import Settings


class EngineSettings(Settings):
    """Who answers, and how much of the machine it gets."""

    kind: Literal["vllm", "simulate", "replay"] = "vllm"
    """vllm: the real model. simulate: a scripted state machine, no weights (tests). replay: replies of `recorded`."""
    context_tokens: int = Field(default=2048, ge=16)
    """Most tokens of prompt and reply together; at most the model's own limit."""
    max_concurrent: int = Field(default=128, ge=1)
    """Conversations open at once in one worker. Active ones finish before new ones start."""
    kv_gib: float = Field(default=1.0, gt=0)
    """Key-value cache per engine in GiB."""
    block_tokens: int = Field(default=32, ge=8)
    """Tokens in a cache block; prefix hits come in steps of it. vLLM on CPU prefers multiples of 32."""
    prefix_caching: bool = True
    """Keep the history of a conversation in the key-value cache between its turns."""
    threads: int = Field(default=1, ge=1)
    """OpenMP threads of one CPU engine. Two threads on a busy 2-core machine collapse, so 1."""
    reply_s: float = Field(default=0, ge=0)
    """simulate: seconds that every reply takes."""
    recorded: Path | None = None
    """replay: the run directory whose replies are given again."""
