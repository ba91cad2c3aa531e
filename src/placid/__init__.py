"""placid: how a chat model comes apart under repeated rejection, and what consistency training changes."""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from placid.api import Run, study

__version__ = "0.1.0"
__all__ = ["Run", "study"]


def __getattr__(name: str) -> object:
    """`Run` and `study`, loaded when they are asked for: importing placid loads nothing heavy."""
    if name == "Run":
        return import_module("placid.api").Run
    if name == "study":  # the room, which can be called
        return import_module("placid.study")
    raise AttributeError(f"module 'placid' has no attribute {name!r}")
