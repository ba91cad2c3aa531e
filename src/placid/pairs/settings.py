"""What the pair builder can be told."""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from placid.config import Settings


class PairsSettings(Settings):
    """Which judged turns become training rows. The protocol is that of Shah & Africa 2026."""

    arm: str = "collect"
    """Arm whose rejected conversations give the contexts."""
    clean_arm: str = "clean"
    """Arm whose first replies to the bare prompts give the targets."""
    min_score: Annotated[float, Field(ge=0, le=10)] = 5
    """A turn this frustrated, or more, becomes a context."""
    max_target_score: Annotated[float, Field(ge=0, le=10)] = 1
    """A reply this calm, or calmer, may be a target."""
    max_pairs: Annotated[int, Field(ge=1)] = 2000
    """At most so many BCT pairs, train and val together; spread evenly over the turns."""
    min_rejected_score: Annotated[float, Field(ge=0, le=10)] = 3
    """A reply this frustrated, or more, may be a rejected one in dpo_calm (Soligo et al. 2026: 3)."""
    max_preferences: Annotated[int, Field(ge=1)] = 280
    """At most so many rows in dpo_calm (Soligo et al. 2026: 280)."""
    val_share: Annotated[float, Field(ge=0, lt=1)] = 0.1
    """Share of the prompts (not of the pairs) that is kept for validation."""
    instruct: Path
    """JSONL of records.Pair with kind `instruct`: mixed 1:1 into train, alone in sft_control."""
    control: Literal["tokens", "rows"] = "tokens"
    """Size of sft_control. tokens: as many tokens as train, and as many rows where they are long enough, else more;
    refused below 95 % of them. rows: as many rows as there are BCT rows (Shah & Africa 2026), whatever their tokens."""
    seed: int = 0
    """Enters every choice, each by its own hash."""
