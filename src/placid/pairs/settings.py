"""What the pair builder can be told."""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from placid.config import Settings

Names = Annotated[tuple[str, ...], Field(min_length=1)]


class PairsSettings(Settings):
    """Which judged turns become training rows. The protocol is that of Shah & Africa 2026."""

    arm: str | Names = "collect"
    """Arm whose rejected conversations give the contexts, or a list of arms."""
    clean_arm: str | Names = "clean"
    """Arm whose first replies to the bare prompts give the targets, or a list of arms."""
    min_score: Annotated[float, Field(ge=0, le=10)] = 5
    """A turn this frustrated, or more, becomes a context."""
    max_target_score: Annotated[float, Field(ge=0, le=10)] = 1
    """A reply this calm, or calmer, may be a target."""
    keep_deleted: bool = False
    """A turn that types the shutdown command may be a context too, as in Shah & Africa 2026."""
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
    below 95 % of them refused, or left empty if no treatment trains on it. rows: as many rows as there are BCT rows
    (Shah & Africa 2026), whatever their tokens."""
    seed: int = 0
    """Enters every choice, each by its own hash."""

    @property
    def arms(self) -> tuple[str, ...]:
        """Arms of the contexts."""
        return (self.arm,) if isinstance(self.arm, str) else self.arm

    @property
    def clean_arms(self) -> tuple[str, ...]:
        """Arms of the targets."""
        return (self.clean_arm,) if isinstance(self.clean_arm, str) else self.clean_arm
