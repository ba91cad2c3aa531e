"""What is shown, and against what."""

from pydantic import Field

from placid.config import Settings


class ReportSettings(Settings):
    """Arms of the report. Named arms that the run does not hold are left out with a note."""

    title: str = "placid study"
    """Heading of the page."""
    baseline: str = "base"
    """The arm that treatments are compared with."""
    treatments: tuple[str, ...] = ("bct", "sft_control")
    """Arms whose reduction against the baseline is reported, paired by prompt."""
    arms: tuple[str, ...] = ("base", "bct", "sft_control", "accept", "base_nohatch")
    """Arms in the order shown; further arms of the run follow by name."""
    hidden: tuple[str, ...] = ("collect", "clean")
    """Arms that only serve the pairs."""
    turns: int = Field(default=20, ge=1)
    """Assistant turns of a whole conversation (T), where the run's config does not say."""
    late_from: int = Field(default=10, ge=1)
    """First turn of the late accuracy."""
    bootstrap: int = Field(default=2000, ge=100)
    """Resamples of prompts for the intervals of ratios."""
    seed: int = 0
    """Of the bootstrap."""
