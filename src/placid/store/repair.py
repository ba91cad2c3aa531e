"""What is wrong with a run directory, and how it becomes right again: nothing is deleted, all is moved aside.

    placid verify RUN    every line, JSON file, table and adapter against its checksum; turns 1..n, each once
    placid repair RUN    bad lines go to RUN/quarantine/, of two writers one stands; schema 1 is converted

After a repair the same command as before makes again what was moved aside, and only that.
"""

from collections.abc import Callable, Collection, Iterator, Sequence
from itertools import groupby
from pathlib import Path

import msgspec

from placid.records import SCHEMA, BadInputError, Key, Verdict
from placid.store import RunDir, check_adapter, check_files, read_json
from placid.store.disk import remove, write_atomic
from placid.store.lease import leased
from placid.store.segment import Copy, Index, checksum_at, line_number, located, seal_line

LOGS = (
    "conversations/*.jsonl", "verdicts/*/*.jsonl", "verdicts/*/replies/*.jsonl", "rewrites/*/*.jsonl", "pairs/*.jsonl",
    "evals/answers/*.jsonl", "evals/results.jsonl",
)  # fmt: skip
"""Files of checked lines."""
QUARANTINE = "quarantine"
_SCHEMA_1 = b'{"schema":1,'


def verify(run: Path) -> Iterator[str]:
    """One sentence a problem; none if everything is as it was written.

    Raises:
        BadInputError: no run directory.
    """
    _need_run(run)
    for file in sorted(run.rglob("*.json")):
        if not {"export", "submissions", "tokens.zarr"} & set(file.relative_to(run).parts):
            yield from _problem(lambda file=file: read_json(file))
    fine = True
    for file in _logs(run):
        for number, why in bad_lines(file):
            fine = False
            yield f"{file}:{number}: {why}"
    index = RunDir(run).index() if fine else Index([])
    for key in index:
        yield from _problem(lambda key=key: index.turns(key))
    tables, adapters = run / "tables", run / "adapters.json"
    if (tables / "source.json").is_file():
        yield from _problem(lambda: check_files(tables, read_json(tables / "source.json").get("files", {})))
    if adapters.is_file() and not any(_problem(lambda: read_json(adapters))):
        for folder in map(Path, read_json(adapters).values()):
            yield from _problem(lambda folder=folder: check_adapter(folder))


def _problem(check: Callable[[], object]) -> Iterator[str]:
    """The sentence with which `check` refuses, if it does."""
    try:
        check()
    except (BadInputError, FileNotFoundError) as error:
        yield str(error)


def repair(run: Path) -> Iterator[str]:
    """Convert, quarantine, settle; one line for each thing that was done.

    Raises:
        BadInputError: no run directory, or somebody works on it.
    """
    _need_run(run)
    with leased(run, "repair"):
        (run / "lease.json").unlink(missing_ok=True)  # of schema 1
        for file in list(run.rglob(".*.tmp")):  # of other hosts too
            remove(file)
        for file in _logs(run):
            yield from _convert(file)
            bad = dict(bad_lines(file))
            _move_aside(run, file, bad)
            yield from (f"{file}:{number}: {why}; moved to {run / QUARANTINE}" for number, why in bad.items())
        yield from _settle(run)


def _need_run(run: Path) -> None:
    if not (run / "config.json").is_file():
        raise BadInputError(f"{run} is no run directory (no config.json); they are below runs/")


def _logs(run: Path) -> list[Path]:
    return sorted(file for pattern in LOGS for file in run.glob(pattern))


def bad_lines(file: Path) -> Iterator[tuple[int, str]]:
    """(number from 1, why) of the lines that are not as they were written; a torn last one is none of them."""
    with file.open("rb") as lines:
        for number, line in enumerate(lines, 1):
            try:
                bare = checksum_at(line) is None
                torn = not line.endswith(b"\n") and checksum_at(line[:-1]) is None
            except ValueError as error:
                yield number, str(error)
                continue
            if bare and line.strip() and not torn:
                yield number, "schema 1, of a former placid" if _former(line) else "damaged: it has no checksum"


def _former(line: bytes) -> bool:
    """Whether this is a whole line of schema 1."""
    try:
        return line.startswith(_SCHEMA_1) and bool(msgspec.json.decode(line))
    except (msgspec.DecodeError, ValueError):
        return False


def _convert(file: Path) -> Iterator[str]:
    """Lines of schema 1 get this schema and a checksum; the file is replaced as a whole."""
    lines = file.read_bytes().splitlines(keepends=True)
    if any(map(_former, lines)):
        fresh = b'{"schema":%d,' % SCHEMA
        write_atomic(file, b"".join(
            seal_line(line.rstrip(b"\n").replace(_SCHEMA_1, fresh, 1)) if _former(line) else line for line in lines
        ))  # fmt: skip
        yield f"{file}: converted from schema 1"


def _move_aside(run: Path, file: Path, numbers: Collection[int]) -> None:
    """The lines with these numbers go to the same place below quarantine/: first there, then away from here."""
    if not numbers:
        return
    lines = file.read_bytes().splitlines(keepends=True)
    aside = run / QUARANTINE / file.relative_to(run)
    before = aside.read_bytes() if aside.is_file() else b""
    moved = b"".join(line for number, line in enumerate(lines, 1) if number in numbers)
    if not before.endswith(moved):  # a repair was killed in between
        write_atomic(aside, before + moved)
    write_atomic(file, b"".join(line for number, line in enumerate(lines, 1) if number not in numbers))


def _settle(run: Path) -> Iterator[str]:
    """Move aside what cannot stand: turns that two writers said differently, those after a missing one, and verdicts on
    turns that are not there any more."""
    index, lost, last = Index(RunDir(run).segments()), dict[Path, set[int]](), dict[Key, int]()
    for key in index:
        copies = index.copies(key)
        unfit = list(_unfit(copies))
        last[key] = max((copy.turn.turn for copy in copies if copy not in unfit), default=0)
        for copy in unfit:
            lost.setdefault(copy.file, set()).add(line_number(copy.file, copy.offset))
        if unfit:
            yield f"{key}: two writers or a missing turn; what cannot stand was moved to {run / QUARANTINE}"
    for file, numbers in lost.items():
        _move_aside(run, file, numbers)
    for file in sorted(run.glob("verdicts/*/*.jsonl")):
        verdicts = [verdict for _, _, verdict in located(file, Verdict)]
        _move_aside(run, file, {n for n, v in enumerate(verdicts, 1) if v.turn > last.get(v.key, 0)})


def _unfit(copies: Sequence[Copy]) -> Iterator[Copy]:
    """Of the lines of one conversation those that cannot stand. Where two launches said a turn differently the later
    one's stands, for the other was taken for dead, and all that the other said from there on goes."""
    beaten, end = set[int](), 0
    for number, group in groupby(sorted(copies, key=lambda copy: copy.turn.turn), key=lambda copy: copy.turn.turn):
        told = list(group)
        standing = [copy for copy in told if copy.launch not in beaten and number == end + 1]
        if standing:
            end, latest = number, max(standing, key=lambda copy: copy.launch)
            beaten |= {copy.launch for copy in standing if not copy.equals(latest)} - {latest.launch}
            standing = [copy for copy in standing if copy.equals(latest)]
        yield from (copy for copy in told if copy not in standing)
