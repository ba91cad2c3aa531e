"""What one can choose about judging."""

from pathlib import Path
from typing import Literal

from placid.config import Settings


class JudgeSettings(Settings):
    """Which judge grades, and with what."""

    provider: Literal["lexical"] = "lexical"
    """Who grades. `lexical`: a deterministic phrase judge, no key and no network. It is not the paper's judge."""

    lexicon: Path | None = None
    """Phrase file (TOML, same layout as the shipped lexicon.toml); None uses the shipped one. Its content, not its
    path, enters the judge's id."""
