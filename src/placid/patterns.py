"""Regular expressions kept as data, in a TOML file beside the module that uses them."""

import re
import tomllib
from pathlib import Path


def read_patterns(path: Path) -> dict[str, re.Pattern[str]]:
    """Pattern by name. A line break inside one, with the spaces behind it, is no part of it."""
    texts = tomllib.loads(path.read_text(encoding="utf-8"))
    return {name: re.compile(re.sub(r"\n *", "", text)) for name, text in texts.items()}
