"""What training can be told."""

import math
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from placid.config import Settings


class LoraSettings(Settings):
    """The adapter. Defaults are those of Shah & Africa 2026, but for dropout."""

    rank: Annotated[int, Field(ge=1)] = 8
    """Inner dimension of every adapted projection."""
    alpha: Annotated[float, Field(gt=0)] = 16
    """The update is scaled by alpha / rank."""
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """The study used 0.05; at 0 the result does not depend on the number of processes."""
    targets: tuple[str, ...] = ("q_proj", "v_proj")
    """Names of the projections that get an adapter; a vision tower never does."""


class TrainSettings(Settings):
    """One training run on masked rows: BCT and its instruct-only control differ in the file of rows alone."""

    model: Path
    """Base checkpoint: a Hugging Face folder with tokenizer and chat template."""
    method: Literal["lora", "full"] = "lora"
    """`full` trains every weight and exports a whole model."""
    lora: LoraSettings = LoraSettings()
    """Used by method `lora`."""
    loss: Literal["cross_entropy", "dpo", "act", "act_attention", "act_mlp", "jsd"] = "cross_entropy"
    """cross_entropy is BCT and the SFT control, by their rows; dpo needs rows with a rejected reply; the others hold
    the model to what the untrained one computes on the bare prompt. Equations and sources: train/losses/."""
    beta: Annotated[float, Field(gt=0)] = 0.1
    """Used by dpo: how strongly the untrained model holds it back (Soligo et al. 2026: 0.1)."""
    epochs: Annotated[int, Field(ge=1)] = 1
    """Passes over the rows."""
    batch: Annotated[int, Field(ge=1)] = 8
    """Rows per micro-batch over all processes together."""
    accumulate: Annotated[int, Field(ge=1)] = 2
    """Micro-batches per optimizer step, which holds batch x accumulate rows; fewer where the ranks need fewer."""
    share_prefixes: bool = True
    """Rows of one conversation go into one step and their common prefix is computed once; without, rows are packed
    one after the other in random order. The loss and gradient of a step are the same, the order of rows is not."""
    lr: Annotated[float, Field(gt=0)] = 5e-6
    """Peak learning rate of AdamW."""
    weight_decay: Annotated[float, Field(ge=0)] = 0.01
    """AdamW's decoupled decay."""
    grad_clip: Annotated[float, Field(ge=0)] = 1.0
    """Greatest norm of the gradient; 0 does not clip."""
    warmup: Annotated[float, Field(ge=0, lt=1)] = 0.05
    """Share of the steps over which the learning rate rises."""
    schedule: Literal["linear", "constant"] = "linear"
    """After the warmup the learning rate falls linearly to 0, or stays (Shah & Africa 2026, who have no warmup)."""
    max_tokens: Annotated[int, Field(ge=8)] = 4096
    """Most tokens of a row. On a GPU a step is held in as many micro-batches as keep what is computed at once below it,
    too."""
    too_long: Literal["drop", "cut"] = "drop"
    """Of longer rows. drop: left out and counted by turn, as a context without its beginning is another conversation.
    cut: their first tokens go, the target stays whole (Shah & Africa 2026)."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Of weights and activations; with bfloat16 the optimizer keeps float32 copies."""
    zero: Annotated[int, Field(ge=0, le=3)] = 0
    """DeepSpeed ZeRO stage: what is split over the processes (1 optimizer, 2 and gradients, 3 and weights)."""
    processes: Annotated[int, Field(ge=1)] = 1
    """Ranks on this machine: one per GPU, or a few on a CPU."""
    recompute: Annotated[float, Field(ge=0, le=1)] | None = None
    """Share of the layers whose activations are recomputed in the backward pass: less memory, more time. Left out, it
    and recompute_mlp are as small as the planner finds room for on this GPU; on a CPU 0."""
    recompute_mlp: Annotated[float, Field(ge=0, le=1)] = 0.0
    """Share of the other layers that recompute only the MLP: two thirds of what a layer keeps for half of its time."""
    offload: bool = False
    """Optimizer state in the host's memory (ZeRO 1 to 3): slower, for a full fine-tune on few GPUs."""
    save_every: Annotated[int, Field(ge=0)] = 50
    """Steps between checkpoints that a killed run goes on from; 0 writes one only when asked to stop (USR1, TERM)."""
    keep: Annotated[int, Field(ge=1)] = 2
    """Checkpoints that are kept while training; none is left when it is done."""
    track: Literal["none", "wandb", "trackio"] = "none"
    """Where metrics go beside metrics.jsonl; the package must be installed."""
    seed: int = 0
    """Order of the rows and first values of the adapter."""

    def micro_batches(self, processes: int) -> int:
        """Of a step on so many ranks: `accumulate`, or what gives each rank a row, if that is less."""
        return min(self.accumulate, math.ceil(self.batch * self.accumulate / processes))
