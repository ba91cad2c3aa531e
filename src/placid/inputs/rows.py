"""Rows of a user's file, one reader for prompts, evals, labels and imports: JSON, JSON lines, CSV, TSV and parquet.

Nothing is guessed. A row with more or fewer cells than names, a name or key that stands twice, a line that is no
object, a value of another kind than its column asks for: each is refused with file, row, value and what is expected.
"""

import csv
import io
import json
import math
import re
import sys
import zlib
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from placid.inputs.text import text_lines
from placid.records import BadInputError

TABLES = {".csv": ",", ".tsv": "\t"}
"""File ending → what divides the cells, where the line of names does not say otherwise."""
ENDINGS = (".jsonl", ".json", *TABLES, ".parquet")
"""Endings of files that are read, .gz behind them allowed for all but parquet."""
NUL = re.compile(r"(?<!\\)(?:\\\\)*\\u0000")
HALF = re.compile(r"\\u[dD][89abAB]..(?!\\u[dD][c-fC-F])|(?<!\\u[dD][89abAB]..)\\u[dD][c-fC-F]..")
SEALED = re.compile(r',"crc":"([0-9a-f]{8})"\}\s*$')
"""How a line ends that placid wrote itself: a checksum of all before it (store.segment.seal_line)."""
S = TypeVar("S", bound=msgspec.Struct)


CHECKSUM = "crc"
"""Last key of a line that placid wrote: rows of a run are input of another."""


@dataclass(frozen=True)
class SourceRow:
    """One row: its cells by name, and where it stands ("data.csv:7: row 6")."""

    where: str
    cells: Mapping[str, Any]

    def wrong(self, name: str, right: str) -> BadInputError:
        """The error for one cell: expected was `right`."""
        if name not in self.cells:
            return BadInputError(f"{self.where}: no {name}; expected {right}; it has {', '.join(self.cells)}")
        shown = repr(self.cells[name])
        return BadInputError(f"{self.where}: {name} = {shown[:120]}{'…' * (len(shown) > 120)}; expected {right}")

    def text(self, name: str, default: str | None = None) -> str:
        """A cell with words, or a number as it is written; an absent, null or blank one is `default`.

        Raises:
            BadInputError: a list, an object or a truth value; or nothing, where there is no default.
        """
        cell = self.cells.get(name)
        value = "" if cell is None else scalar(cell)
        if value is None or (default is None and not value.strip()):
            raise self.wrong(name, "text")
        return value if value.strip() else default or ""

    def texts(self, name: str, blank: bool = False) -> tuple[str, ...]:
        """A list of texts or numbers. blank: an entry may be empty.

        Raises:
            BadInputError: anything else, or an entry that is null.
        """
        cell = self.cells.get(name)
        values = [scalar(one) for one in cell] if isinstance(cell, list) else [None]
        found = tuple(value for value in values if value is not None and (blank or value.strip()))
        if len(found) < len(values):
            raise self.wrong(name, "a list of texts")
        return found

    def structs(self, name: str, kind: type[S]) -> list[S]:
        """A list of objects of one kind, further keys ignored.

        Raises:
            BadInputError: anything else.
        """
        try:
            return msgspec.convert(self.cells.get(name), list[kind])
        except msgspec.ValidationError as error:
            raise self.wrong(name, f"a list of objects with {', '.join(kind.__struct_fields__)} ({error})") from None

    def as_struct(self, kind: type[S]) -> S:
        """The whole row as a struct.

        Raises:
            BadInputError: a missing, an unknown or an impossible field.
        """
        cells = {name: value for name, value in self.cells.items() if name != CHECKSUM}
        try:
            return msgspec.convert(cells, kind)
        except msgspec.ValidationError as error:
            raise BadInputError(f"{self.where}: not a {kind.__name__}: {fault(cells, kind, error)}") from None


def fault(given: Collection[str], kind: type[msgspec.Struct], error: Exception | None) -> str:
    """What is wrong with an object of these keys. A misspelt key is both unknown and missing, and both are said."""
    fields = msgspec.structs.fields(kind)
    missing = [repr(f.name) for f in fields if f.required and f.name not in given]
    unknown = [repr(name) for name in given if name not in {f.name for f in fields}]
    if not missing and not (unknown and kind.__struct_config__.forbid_unknown_fields):
        return str(error)
    said = [f"missing key {', '.join(missing)}"] * bool(missing) + [f"unknown key {', '.join(unknown)}"] * bool(unknown)
    return f"{', '.join(said)}; valid: {', '.join(f.name for f in fields)}"


def scalar(value: object) -> str | None:
    """Text as it is, a number as one writes it (4.0, as tables hold an integer, is 4); None for anything else."""
    if isinstance(value, str):
        return value
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    if isinstance(value, int):
        return str(value) if abs(value) < 10**400 else None  # Python writes out no more than 4,300 digits
    if not math.isfinite(value):
        return None
    return str(int(value)) if value == int(value) and abs(value) < 2**63 else repr(value)


def is_table(path: Path) -> bool:
    """Is this a CSV or TSV file?"""
    return ending(path) in TABLES


def ending(path: Path) -> str:
    """The ending of a file's name in small letters, without .gz."""
    return Path(path.name.lower().removesuffix(".gz")).suffix


def read_rows(path: Path, names: Sequence[str] = ()) -> Iterator[SourceRow]:
    """The rows of a file, by its ending; blank lines and rows of empty cells are no rows.

    names: of the columns of a CSV that has no line of names; its cells are then taken with the spaces around them.

    Raises:
        BadInputError: no such file, another ending, another encoding than UTF-8, a malformed row.
    """
    kind = ending(path)
    if not path.is_file():
        raise BadInputError(f"no file {path}")
    if kind in TABLES:
        return _table_rows(path, TABLES[kind], tuple(names))
    if kind in (".jsonl", ".json"):
        return _json_rows(path)
    if kind == ".parquet":
        return _parquet_rows(path)
    raise BadInputError(f"{path} is neither .jsonl nor .csv; expected one of {', '.join(ENDINGS)}")


# ---------------------------------------------------------------------------------------------- tables


def _table_rows(path: Path, divider: str, names: tuple[str, ...]) -> Iterator[SourceRow]:
    csv.field_size_limit(sys.maxsize)  # of this process; the default refuses cells over 131,072 characters
    lines = (part for line in text_lines(path) for part in io.StringIO(line, newline=""))  # a lone \r ends a line too
    head = list(_until_words(lines)) if not names else []
    first = head[-1] if head else ""
    for other in (";", "\t"):
        if divider not in first and other in first:
            divider = other
    bare = bool(names)
    reader = csv.reader(chain(head, lines), delimiter=divider, skipinitialspace=not bare, strict=True)
    number = 0
    try:
        for cells in reader:
            if not any(cell.strip() for cell in cells):
                continue
            if not names:
                names = _checked_names(path, [cell.strip() for cell in cells])
                continue
            number += 1
            where = f"{path}:{reader.line_num}: row {number}"
            if len(cells) != len(names):
                raise BadInputError(
                    f"{where} has {len(cells)} cells under {len(names)} names ({', '.join(names)}); a cell that holds "
                    f"{divider!r} or a line end stands in double quotes, an empty one between two {divider!r}"
                )
            yield SourceRow(where, dict(zip(names, cells if bare else map(str.strip, cells), strict=True)))
    except csv.Error as error:
        raise BadInputError(
            f"{path}:{reader.line_num}: not CSV: {error}; a cell in double quotes ends with one, and a double quote "
            'inside it is written ""'
        ) from None


def _until_words(lines: Iterator[str]) -> Iterator[str]:
    """Blank lines, and the first one that is not."""
    for line in lines:
        yield line
        if line.strip():
            return


def _checked_names(path: Path, names: list[str]) -> tuple[str, ...]:
    while names and not names[-1]:  # spreadsheets save empty columns behind the last
        names.pop()
    twice = next((name for name in names if names.count(name) > 1), None)
    if not names or "" in names or twice is not None:
        fault = f"the name {twice!r} stands twice" if twice else "a column has no name"
        raise BadInputError(f"{path}: {fault}; the first line names every column once: {', '.join(names)}")
    return tuple(names)


# ---------------------------------------------------------------------------------------------- JSON


def _json_rows(path: Path) -> Iterator[SourceRow]:
    """JSON lines; or, where the first line is no object of its own, one array or several objects over many lines."""
    lines, number = text_lines(path), 0
    for line_number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        value, fault = _value(line)
        if not number and (fault or isinstance(value, list)):
            yield from _document_rows(path, "\n" * (line_number - 1) + line + "".join(lines))
            return
        number += 1
        yield _object_row(f"{path}:{line_number}", number, value, fault)


def _document_rows(path: Path, text: str) -> Iterator[SourceRow]:
    decoder, at, number = json.JSONDecoder(), len(text) - len(text.lstrip()), 0
    while at < len(text):
        line_number = text.count("\n", 0, at) + 1
        try:
            _, end = decoder.raw_decode(text, at)
            value, fault = _value(text[at:end])
        except json.JSONDecodeError as error:
            line_number, value, fault, end = error.lineno, None, error.msg, at
        except (ValueError, RecursionError) as error:  # a number of thousands of digits; brackets in brackets
            value, fault, end = None, str(error), at
        for one in value if isinstance(value, list) else [value]:
            number += 1
            yield _object_row(f"{path}:{line_number}", number, one, fault)
        at = end + len(text[end:]) - len(text[end:].lstrip(" \t\r\n,"))


def _value(text: str) -> tuple[object, str]:
    """(the value, what is wrong with it). msgspec refuses NaN and halves of a character; json sees keys that repeat."""
    sealed = SEALED.search(text)
    if sealed:
        text = text[: sealed.start()]
        if f"{zlib.crc32(text.encode()):08x}" != sealed[1]:
            return None, "it does not fit its checksum; if somebody changed it on purpose, take the key crc away"
        text += "}"
    try:
        value = msgspec.json.decode(text)
        json.loads(text, object_pairs_hook=_unique)
    except (msgspec.DecodeError, ValueError, RecursionError) as error:
        half = HALF.search(text)
        return None, f"it holds half a character (the lone surrogate {half[0]})" if half else str(error)
    return value, "it holds a NUL character (\\u0000)" if NUL.search(text) else ""


def _unique(pairs: list[tuple[str, object]]) -> None:
    seen: set[str] = set()
    for name, _ in pairs:
        if name in seen:
            raise ValueError(f"the key {name!r} stands twice")
        seen.add(name)


def _object_row(place: str, number: int, value: object, fault: str) -> SourceRow:
    if fault or not isinstance(value, dict):
        kind = "null" if value is None else f"a {type(value).__name__}"
        raise BadInputError(f"{place} is no JSON object: {fault or f'it is {kind}'}; expected one object a row")
    return SourceRow(f"{place}: row {number}", value)


# ---------------------------------------------------------------------------------------------- parquet


def _parquet_rows(path: Path) -> Iterator[SourceRow]:
    import polars as pl  # heavy

    try:
        frame = pl.read_parquet(path)
    except (OSError, pl.exceptions.PolarsError, pl.exceptions.PanicException) as error:
        raise BadInputError(f"{path} is no parquet file: {' '.join(str(error).split())[:200]}") from None
    for number, cells in enumerate(frame.iter_rows(named=True), 1):
        yield SourceRow(f"{path}: row {number}", cells)
