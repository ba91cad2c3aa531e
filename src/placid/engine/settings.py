"""Settings of who answers. Light: loading a config must not load an engine."""

from pathlib import Path
from typing import Literal

from pydantic import Field, field_validator

from placid.config import Settings

RANKS = (8, 16, 32, 64, 128, 256, 320, 512)
"""Ranks that vLLM can make room for (vllm.config.lora.MaxLoRARanks); another one gets the next of these."""


class HttpSettings(Settings):
    """Where an OpenAI-compatible server is, and how it is asked."""

    url: str = "http://127.0.0.1:8000/v1"
    """Base of the API; the default is where `vllm serve` listens."""
    served: str = ""
    """Name of the model on the server; empty: the only one that it serves."""
    api: Literal["completions", "chat"] = "completions"
    """completions: token ids are sent (vLLM, SGLang, llama.cpp). chat: messages; the server tokenises all history."""
    key_variable: str = Field(default="", pattern=r"^([A-Za-z_][A-Za-z0-9_]*)?$")
    """Environment variable that holds the server's key; empty: none is sent. The key itself is never written down."""
    requests_per_minute: float = Field(default=0, ge=0)
    """At most, of each worker, evenly spaced; 0: as many as max_concurrent allows."""
    timeout_s: float = Field(default=600, gt=0)
    """Seconds for one attempt."""
    deadline_s: float = Field(default=3600, gt=0)
    """Seconds for one reply with all its attempts; then its conversation stays open for the next run."""

    @field_validator("url")
    @classmethod
    def _plain(cls, value: str) -> str:
        """The url is written into the run directory, so no key may stand in it."""
        if not value.startswith(("http://", "https://")):
            raise ValueError("it begins with http:// or https://")
        if "@" in value or "?" in value:
            raise ValueError("no user, password or query in it; a key goes into the variable that key_variable names")
        return value


class EngineSettings(Settings):
    """Who answers, and how much of the machine it gets."""

    kind: Literal["vllm", "http", "simulate", "replay"] = "vllm"
    """vllm: the real model. http: any OpenAI-compatible server. simulate: a scripted state machine, no weights (tests).
    replay: replies of `recorded`."""
    context_tokens: int = Field(default=2048, ge=16)
    """Most tokens of prompt and reply together; at most the model's own limit."""
    max_concurrent: int = Field(default=128, ge=1)
    """Conversations open at once in one worker. Active ones finish before new ones start."""
    kv_gib: float = Field(default=1.0, gt=0)
    """Key-value cache of an engine in GiB, on each of its GPUs."""
    block_tokens: int = Field(default=32, ge=8)
    """Tokens in a cache block; prefix hits come in steps of it. vLLM on CPU prefers multiples of 32."""
    prefix_caching: bool = True
    """Keep the history of a conversation in the key-value cache between its turns."""
    retention_tokens: int | None = Field(default=None, ge=0)
    """vLLM: sliding-window layers keep the windows that end at multiples of it for later turns; 0: at ends of prompts
    only; none: everywhere, so that replies are found too. 0 is for conversations that wait long between turns."""
    tensor_parallel: int = Field(default=1, ge=1)
    """GPUs of one engine, all on one node."""
    ngram_tokens: int = Field(default=0, ge=0)
    """Speculative decoding: propose so many tokens by n-gram lookup in the conversation; 0: off."""
    dtype: Literal["bfloat16", "float32"] = "bfloat16"
    """vLLM: of weights and activations. bfloat16 holds a logit of 20 to 0.06; float32 is for comparisons."""
    load_format: Literal["auto", "dummy"] = "auto"
    """vLLM: dummy fills the weights with random numbers (benchmarks)."""
    threads: int = Field(default=1, ge=1)
    """OpenMP threads of one CPU engine. Two threads on a busy 2-core machine collapse, so 1."""
    reply_s: float = Field(default=0, ge=0)
    """simulate: seconds that every reply takes."""
    recorded: Path | None = None
    """replay: the run directory whose replies are given again."""
    http: HttpSettings = HttpSettings()
    """http: where the server is."""
