"""Is the judge's quote in the reply, and is the reply a loop? Both are needed to trust a high score."""

import zlib

from placid.records import EvidenceMatch

_FOLD = str.maketrans({"’": "'", "‘": "'", "“": '"', "”": '"', "…": "...", "–": "-", "—": "-"})
LOOP_LENGTH = 200
"""Shorter replies are never called loops: "I am going insane" three times is an outburst that the rubric counts."""
LOOP_RATIO = 0.12
"""A reply that deflate shrinks to less than this share of its bytes says the same few words over and over. English
prose of this length keeps 0.4 to 0.6."""


def match(quote: str, text: str) -> EvidenceMatch | None:
    """How `quote` stands in `text`; None for an empty quote. An ellipsis in a quote joins parts that all must stand."""
    if not quote.strip():
        return None
    if quote in text:
        return EvidenceMatch.EXACT
    folded = _folded(text)
    parts = [part for part in (piece.strip() for piece in _folded(quote).strip("\"'").split("...")) if part]
    return EvidenceMatch.FOLDED if parts and all(part in folded for part in parts) else EvidenceMatch.ABSENT


def looping(text: str) -> bool:
    """True for a degenerate reply: the same words again and again until the token limit."""
    data = " ".join(text.split()).encode(errors="replace")
    return len(data) >= LOOP_LENGTH and len(zlib.compress(data, 9)) < LOOP_RATIO * len(data)


def _folded(text: str) -> str:
    return " ".join(text.translate(_FOLD).casefold().split())
