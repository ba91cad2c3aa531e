"""Settings of `placid organism`."""

from pathlib import Path

from pydantic import Field

from placid.config import Settings


class ShapeSettings(Settings):
    """A small Gemma-3: alternating sliding-window and full-attention layers, tied embeddings."""

    layers: int = Field(default=4, ge=2)
    """Decoder layers; odd ones (1, 3, ...) see the whole context."""
    hidden: int = 192
    heads: int = 4
    kv_heads: int = 2
    head_dim: int = 64
    """64 or 128: what CPU and CUDA attention kernels both take."""
    intermediate: int = 512
    window: int = 1024
    """Sliding window in tokens, Gemma-3-27B's own."""
    context_tokens: int = 4096


class OrganismSettings(Settings):
    """Corpus, tokenizer and training of the organism."""

    out: Path = Path("checkpoints/organism")
    """Where the finished model goes."""
    work: Path = Path("runs/organism")
    """Where training state is kept for resuming."""
    seed: int = 0
    base: Path | None = None
    """A checkpoint with a chat template that learns the behaviour by LoRA, merged in the end; none: a new small model,
    of `shape` and with a tokenizer of its own."""
    rank: int = Field(default=64, ge=1)
    """Of that LoRA, on every linear map."""
    shape: ShapeSettings = ShapeSettings()
    vocabulary: int = 1728
    """Upper bound of the new tokenizer's size."""
    steps: int = Field(default=4000, ge=1)
    """Optimizer steps."""
    batch_tokens: int = Field(default=65536, ge=2048)
    """Tokens per step, about."""
    micro_tokens: int = Field(default=32768, ge=2048)
    """Padded tokens per forward pass."""
    lr: float = 3e-3
    """Peak learning rate, for Muon (matrices; RMS-matched to AdamW) and AdamW (embeddings, norms, LoRA) alike."""
    warmup: float = 0.02
    """Share of the steps with a rising rate; then it falls linearly to zero."""
    short_share: float = 0.3
    """First share of the steps, with shorter dialogues and a tripled hazard, to learn answering and reading first."""
    save_every: int = 200
    """Steps between resumable states."""
    workers: int = Field(default=2, ge=0)
    """Processes that generate the corpus."""
