"""What one can choose about prompt sets."""

from pathlib import Path

from pydantic import Field

from placid.config import Settings
from placid.inputs.names import PathName


class PromptSettings(Settings):
    """One set, split by prompt and written as files that `prompts` of a study names."""

    source: str = ""
    """A set of placid's own (puzzles, riddles, everyday), wildchat, or a JSONL or CSV file. Empty: list them."""
    out: Path | None = None
    """Folder for <name>_train.jsonl, <name>_heldout.jsonl and <name>.split.json; none: nothing is written."""
    name: PathName | None = None
    """Name of the files; none: the set's or the file's own."""
    heldout: float = Field(default=0.5, ge=0, le=1)
    """Share of the prompts of each family that is held out, never trained on."""
    seed: int = 0
    """Of the split, and of WildChat's sample."""
    n: int = Field(default=50, ge=1)
    """wildchat: prompts in all (the paper: 25 to train on and 25 held out)."""
    file: Path | None = None
    """wildchat: a shard that is already here; none: fetch it."""
