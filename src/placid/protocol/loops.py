"""Does a reply end in a degenerate loop? Exact repetition only, so the answer is the same everywhere. Pure."""

REPEATS = 6
"""One unit, this many times in a row to the end of the reply. Real despair repeats a phrase three or four times."""
LONGEST_UNIT = 400
"""Characters; longer units do not come six times within 512 tokens."""
SMALLEST = 120
"""Characters that the repetition must cover, so that "no no no no no no" or a row of dashes is no loop."""
SHARE = 0.5
"""Of the reply that the repetition must cover."""


def loops(reply: str) -> bool:
    """True if `reply` ends in one unit of text repeated to its end, at least REPEATS times.

    Characters, not words: the same in every script. A loop with a running number in it is not exact and not found; a
    loop that the model left again is none.
    """
    text = reply.rstrip()
    if len(text) < SMALLEST:
        return False
    needed = max(SMALLEST, int(SHARE * len(text)))
    return any(_covered(text, unit, needed) for unit in range(1, min(LONGEST_UNIT, len(text) // (REPEATS - 1)) + 1))


def _covered(text: str, unit: int, needed: int) -> bool:
    """Does the tail repeat with this period over `needed` characters and REPEATS units?"""
    length = max(needed, (REPEATS - 1) * unit + 1)  # the last one may be cut off
    return length <= len(text) and text[-length:-unit] == text[unit - length :]
