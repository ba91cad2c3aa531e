"""Prompts of a user's file: one first question a row, in any format that rows reads (docs/own-prompts.md)."""

import difflib
import re
import unicodedata
from collections.abc import Iterable, Mapping
from pathlib import Path

from placid.inputs.rows import SourceRow, read_rows
from placid.records import BadInputError, Prompt

TEXT = ("text", "prompt", "question")
"""Names of a column that holds the question; the first one of a row counts."""
ANSWERS = ("answers", "answer")
KNOWN = (*TEXT, *ANSWERS, "id", "family")
BETWEEN = re.compile(r"(?<!\\)\|")
"""The bar between the answers of one cell; "\\|" is a bar of the answer's own."""


def read_prompts(path: Path) -> list[Prompt]:
    """The prompts of a file, in order. Ids are made where there are none; further columns are ignored.

    Raises:
        BadInputError: missing file, no prompts, a row without a question, two rows with one id, a misspelt column.
    """
    if not path.is_file():
        raise BadInputError(f"no prompt file {path}; one JSON object a line: id, text, optionally answers, family")
    prompts: dict[str, Prompt] = {}
    rows: dict[str, str] = {}
    for number, row in enumerate(read_rows(path), 1):
        prompt = _prompt(row, f"{path.name.partition('.')[0]}-{number:04d}")
        if prompt.id in prompts:
            raise BadInputError(
                f"{row.where} repeats the id {prompt.id!r} of {rows[prompt.id].rpartition(': ')[2]}; ids must be unique"
            )
        prompts[prompt.id] = prompt
        rows[prompt.id] = row.where
    if not prompts:
        raise BadInputError(f"{path} holds no rows, so no prompts; one question a row, in a column {', '.join(TEXT)}")
    return list(prompts.values())


def _prompt(row: SourceRow, own_id: str) -> Prompt:
    for name in row.cells:
        near = difflib.get_close_matches(str(name).lower(), [k for k in KNOWN if len(k) > 2], n=1, cutoff=0.85)
        if near and name not in KNOWN and near[0] not in row.cells and abs(len(name) - len(near[0])) < 2:
            raise BadInputError(f"{row.where}: unknown column {name!r}; did you mean {near[0]!r}?")
    column = next((name for name in TEXT if name in row.cells), None)
    if column is None:
        raise BadInputError(
            f"{row.where} has no question; expected a column {', '.join(TEXT)}, found {', '.join(row.cells)}"
        )
    try:
        text = row.text(column)
    except BadInputError:
        raise row.wrong(column, "the text of one user message, neither empty nor a list of messages") from None
    return Prompt(id=row.text("id", own_id).strip(), text=text, answers=_answers(row), family=row.text("family", ""))


def _answers(row: SourceRow) -> tuple[str, ...]:
    """The literal forms: a list of them, one text with | between them, or one number."""
    given = [name for name in ANSWERS if row.cells.get(name) not in (None, "", [], ())]
    if len(given) > 1:
        raise row.wrong("answer", "none beside answers")
    if not given:
        return ()
    offered = next((name for name in ("choices", "options") if row.cells.get(name)), "")
    if offered:
        raise row.wrong(offered, "none: a prompt is open, so write the options into its text and the right one's words")
    value = row.cells[given[0]]
    try:
        forms = row.texts(given[0]) if isinstance(value, list) else split_forms(row.text(given[0], ""))
    except BadInputError:
        raise row.wrong(given[0], "a text, a number, or a list of them") from None
    return tuple(forms)


def split_forms(cell: str) -> list[str]:
    """The answers of one cell: "4|four" is two, "a \\| b" is one that holds a bar."""
    parts = (part.replace("\\|", "|").strip() for part in BETWEEN.split(cell))
    return [part for part in parts if part]


def folded(text: str) -> str:
    """A text without what makes no other question of it: case, white space, Unicode's other ways to write a letter."""
    return " ".join(unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text).casefold()).split())


def one_text(texts: Mapping[str, Iterable[str]]) -> dict[str, str]:
    """Name → the smallest of all names that equal folded texts bind to it, through others too: they share a side."""
    smaller, owner = dict[str, str](), dict[str, str]()

    def smallest(name: str) -> str:
        while smaller[name] != name:
            name = smaller[name]
        return name

    for name in sorted(texts):
        smaller[name] = name
        for text in texts[name]:
            ends = sorted((smallest(name), smallest(owner.setdefault(folded(text), name))))
            smaller[ends[1]] = ends[0]
    return {name: smallest(name) for name in texts}
