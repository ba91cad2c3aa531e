"""placid: how a chat model comes apart under repeated rejection, and what consistency training changes."""

__version__ = "0.1.0"
