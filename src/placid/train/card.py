"""The model card that lies beside exported weights: what it is, what it was trained on, how to check it."""

from pathlib import Path
from typing import Any

import jinja2

TEMPLATE = Path(__file__).with_name("card.jinja")


def text(facts: dict[str, Any]) -> str:
    """README.md of a step folder, from the content of its manifest."""
    environment = jinja2.Environment(
        undefined=jinja2.StrictUndefined, trim_blocks=True, keep_trailing_newline=True, autoescape=False
    )
    return environment.from_string(TEMPLATE.read_text(encoding="utf-8")).render(facts)
