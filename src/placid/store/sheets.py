"""CSV tables that people open in a spreadsheet: no cell of ours is taken for a formula.

A text that begins with = + - @ (or their full-width forms, or white space before them) is a formula to a spreadsheet,
and a formula can fetch a page or start a program. Names of arms, ids of prompts and replies come from elsewhere, so
such a text is written with an apostrophe before it, which spreadsheets take for "this is text" (OWASP, CSV injection).
Numbers are left as they are. `decode` takes the apostrophe off again. Every kind of line end is written as \\n.
"""

import csv
import hashlib
import io
import re
from collections.abc import Iterable, Sequence
from pathlib import Path

from placid.store.disk import damaged, write_atomic

_FORMULA = re.compile(r"'*\s*[=+\-@＝＋－＠]|'*[\t\n]")
"""Apostrophes before it are part of the match, so that taking one off gives back every text."""


def encode(rows: Iterable[Sequence[object]]) -> bytes:
    """Rows as CSV; None is an empty cell."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([_guard(value) for value in row] for row in rows)
    return text.getvalue().encode("utf-8", "backslashreplace")


def seal(path: Path, data: bytes) -> None:
    """Keep the sha256 of a table that decode() will read, beside it, as `sha256sum -c` takes it."""
    write_atomic(path.with_name(f"{path.name}.sha256"), _sum(path, data))


def _sum(path: Path, data: bytes) -> bytes:
    return f"{hashlib.sha256(data).hexdigest()}  {path.name}\n".encode()


def decode(path: Path) -> list[dict[str, str]]:
    """Rows of a table that `encode` wrote, by column name. Raises BadInputError if it is not what seal() was given."""
    kept = path.with_name(f"{path.name}.sha256")
    if kept.is_file() and kept.read_bytes() != _sum(path, path.read_bytes()):
        raise damaged(path)
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
