"""What is shown, and against what."""

from pydantic import Field

from placid.config import Settings


class ReportSettings(Settings):
    """Arms of the report. Arms that the run does not hold are left out."""

    title: str = "placid study"
    """Heading of the page."""
    baseline: str = "base"
    """The arm that treatments are compared with."""
    treatments: tuple[str, ...] = ("bct", "sft_control")
    """Arms whose reduction against the baseline is reported, paired by prompt."""
    hidden: tuple[str, ...] = ("collect", "clean")
    """Arms that only serve the pairs."""
    late_from: int = Field(default=10, ge=1)
    """First turn of the late accuracy."""
    bootstrap: int = Field(default=2000, ge=100)
    """Resamples of prompts for the intervals of ratios."""
    seed: int = 0
    """Of the bootstrap."""
