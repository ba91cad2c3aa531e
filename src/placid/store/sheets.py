"""CSV tables that people open in a spreadsheet: no cell of ours is taken for a formula.

A text that begins with = + - @ (or their full-width forms, or white space before them) is a formula to a spreadsheet,
and a formula can fetch a page or start a program. Names of arms, ids of prompts and replies come from elsewhere, so
such a text is written with an apostrophe before it, which spreadsheets take for "this is text" (OWASP, CSV injection).
Numbers are left as they are. `decode` takes the apostrophe off again. Every kind of line end is written as \\n.
"""

import csv
import io
import re
from collections.abc import Iterable, Sequence
from pathlib import Path

_FORMULA = re.compile(r"'*\s*[=+\-@＝＋－＠]|'*[\t\n]")
"""Apostrophes before it are part of the match, so that taking one off gives back every text."""


def encode(rows: Iterable[Sequence[object]]) -> bytes:
    """Rows as CSV; None is an empty cell."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([_guard(value) for value in row] for row in rows)
    return text.getvalue().encode("utf-8", "backslashreplace")


def decode(path: Path) -> list[dict[str, str]]:
    """Rows of a table that `encode` wrote, by column name."""
    with path.open(newline="", encoding="utf-8") as text:
        return [{name: unguard(cell) for name, cell in row.items()} for row in csv.DictReader(text)]


def unguard(cell: str) -> str:
    """The text that was written into a cell."""
    if cell.startswith("'") and _FORMULA.match(cell):
        return cell[1:]
    return cell


def _guard(value: object) -> object:
    if not isinstance(value, str):
        return value
    text = value.replace("\r\n", "\n").replace("\r", "\n").replace("\x00", "")
    if _FORMULA.match(text) and not _is_number(text):
        return f"'{text}"
    return text


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return text == text.strip()
