"""Append-only JSONL segments: writing with one fsync a group, reading after any kind of kill, and an index over many.

Only the standard library and msgspec: a log is readable wherever Python is.
"""

import errno
import logging
import os
import zlib
from array import array
from collections.abc import Iterator, Sequence
from itertools import accumulate
from pathlib import Path
from types import TracebackType
from typing import Any, Generic, NamedTuple, NoReturn, TypeVar

import msgspec

from placid.inputs.rows import fault
from placid.records import SCHEMA, BadInputError, End, Key, Turn
from placid.store import disk

log = logging.getLogger(__name__)
R = TypeVar("R", bound=msgspec.Struct)


class InvalidRecordError(ValueError):
    """A record that no reader would take; nothing of it was written."""


class Lines:
    """Records → lines of JSONL."""

    def __init__(self) -> None:
        self._encoder = msgspec.json.Encoder()
        self._decoders: dict[type[msgspec.Struct], msgspec.json.Decoder[Any]] = {}

    def line(self, record: msgspec.Struct, checksum: bool = True) -> bytes:
        """The line of one record, checked by the very decoder that will read it.

        Raises:
            InvalidRecordError: a value of another type than its field's, or outside its bounds; a number that JSON has
                not; text that is no Unicode.
        """
        kind = type(record)
        decoder = self._decoders.get(kind)
        if decoder is None:
            decoder = self._decoders[kind] = msgspec.json.Decoder(kind)
        try:
            body = self._encoder.encode(record)
            decoder.decode(body)
        except (msgspec.ValidationError, UnicodeEncodeError, OverflowError, TypeError) as error:
            raise InvalidRecordError(f"not a {kind.__name__}: {error}") from None
        return seal_line(body) if checksum else body + b"\n"


def seal_line(body: bytes) -> bytes:
    """The line of a record's JSON: its last key is the CRC-32 of every byte before it."""
    head = body[:-1]
    return head + _CRC % zlib.crc32(head) + b"\n"


_CRC = b',"crc":"%08x"}'
_CRC_BYTES = len(_CRC % 0)


def checksum_at(line: bytes) -> int | None:
    """Where the checksum of a line begins, which fits; None if it has none. No byte of the line is copied.

    Raises:
        ValueError: it does not fit.
    """
    at = len(line) - _CRC_BYTES - line.endswith(b"\n")
    if line.startswith(_CRC % zlib.crc32(memoryview(line)[:at]), at):
        return at
    if line.startswith(_CRC[:8], max(at, 0)) and line.startswith(_CRC[-2:], at + _CRC_BYTES - 2):
        raise ValueError("damaged: it does not fit its checksum")
    return None


class Segment(Generic[R]):
    """An append-only JSONL file with exactly one writer. Use as a context manager."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self.path = path
        # x: a second writer of the same file is a bug and fails here. No buffer: what failed must not come later
        self._file = path.open("xb", buffering=0)
        self._size = 0
        self._unsynced = self._broken = False
        self.line = Lines().line
        """Record → its line. Raises InvalidRecordError."""

    @classmethod
    def numbered(cls, folder: Path) -> "Segment[R]":
        """One under the next free number in `folder`, also when two processes ask at once."""
        number = 1 + max((int(file.stem) for file in folder.glob("*.jsonl") if file.stem.isdigit()), default=0)
        while True:
            try:
                return cls(folder / f"{number:04d}.jsonl")
            except FileExistsError:  # another process took this number
                number += 1

    def append(self, *records: R, sync: bool = True) -> list[tuple[int, int]]:
        """Write the records as one group; (offset, size) of each line. Raises InvalidRecordError, then as write()."""
        return self.write([self.line(record) for record in records], sync)

    def write(self, lines: Sequence[bytes], sync: bool = True) -> list[tuple[int, int]]:
        """Write lines as one group: they are on disk (fsync) when this returns, and none is when it raises.
        sync=False: this process may be killed, but a power cut can still take them until sync() or close().
        (offset, size) of each line."""
        ends = list(accumulate(map(len, lines), initial=self._size))
        if not lines:
            return []
        if self._broken:
            raise OSError(errno.EIO, "a group that failed could not be taken back", str(self.path))
        for guard in disk.GUARDS:
            guard()
        try:
            disk.write_all(self._file.fileno(), b"".join(lines))
            self._unsynced = True
            if sync:
                self.sync()
        except OSError:  # a full disk, say
            self._broken = True
            os.ftruncate(self._file.fileno(), self._size)
            self._file.seek(self._size)
            self._broken = False
            raise
        self._size = ends[-1]
        return [(at, len(line)) for at, line in zip(ends, lines, strict=False)]

    def sync(self) -> None:
        """What is written is on disk when this returns; another thread may write meanwhile."""
        if self._unsynced:
            self._unsynced = False  # before: what comes meanwhile sets it again
            os.fsync(self._file.fileno())

    def close(self) -> None:
        """Close; an empty segment is removed so that idle writers leave no files. Twice is once."""
        if self._file.closed:
            return
        self.sync()
        self._file.close()
        if not self.path.stat().st_size:
            self.path.unlink()

    def __enter__(self) -> "Segment[R]":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class _Version(msgspec.Struct):
    """Of a line that does not decode: was it written by another placid?"""

    schema: int = SCHEMA


class _Head(msgspec.Struct):
    """The part of a Turn that an index needs; msgspec skips the rest of the line."""

    key: Key
    turn: int
    schema: int = SCHEMA
    end: End | None = None


def read_lines(path: Path, kind: type[R], torn: bool = True) -> Iterator[R]:
    """Records of one JSONL file, one line in memory at a time.

    A last line without its newline that does not decode is torn: its writer was killed in the middle of it, or the
    file system grew the file and lost the data (NUL bytes). It is dropped with a warning; with torn=False, for files
    that no placid wrote, it is an error like any other.

    Raises:
        BadInputError: a malformed line that is not a torn last one, or a record of another schema version.
    """
    for _, _, record in located(path, kind, torn):
        yield record


def read_at(path: Path, kind: type[R], offset: int, size: int) -> R:
    """The record at one place that located() or Segment.append() gave."""
    with path.open("rb") as file:
        file.seek(offset)
        line = file.read(size)
    return decoded(path, offset, line, kind, msgspec.json.Decoder(kind))


def located(
    path: Path, kind: type[R], torn: bool = True, offset: int = 0, live: bool = False
) -> Iterator[tuple[int, int, R]]:
    """(offset, size, record) of every line from `offset` on; offset and size in bytes. live: its writer may be at work,
    so a last line without its end is left without a word. Raises as read_lines() does."""
    decoder = msgspec.json.Decoder(kind)
    with path.open("rb") as file:
        file.seek(offset)
        for line in file:
            at, offset = offset, offset + len(line)
            if line.isspace():
                continue
            if (torn or live) and not line.endswith(b"\n") and not _whole(line, decoder):
                if not live:
                    number = line_number(path, at)
                    log.warning("%s:%d: dropped a torn last line (%d bytes)", path, number, len(line))
                return
            yield at, len(line), decoded(path, at, line, kind, decoder, own=torn)


def _whole(line: bytes, decoder: "msgspec.json.Decoder[Any]") -> bool:
    """Whether a last line without its end is more than the beginning of one: then it is read, or refused."""
    try:
        if checksum_at(line) is None and checksum_at(line[:-1]) is None:  # [:-1]: its end became another byte
            decoder.decode(line)
    except (msgspec.DecodeError, msgspec.ValidationError, ValueError):
        return False
    return True


def decoded(
    path: Path, offset: int, line: bytes, kind: type[R], decoder: "msgspec.json.Decoder[R]", own: bool = True
) -> R:
    """The record of one line. own: a placid wrote it, so version and checksum are wanted.

    Raises:
        BadInputError: a damaged or malformed line, or a record of another schema version.
    """
    try:
        at, strict = checksum_at(line), kind.__struct_config__.forbid_unknown_fields
        # strict: the checksum would be an unknown field
        record = decoder.decode(b"".join((memoryview(line)[:at], b"}")) if strict and at is not None else line)
    except (msgspec.DecodeError, msgspec.ValidationError, ValueError) as error:
        _refuse(path, line_number(path, offset), line, kind, error)
    if own and getattr(record, "schema", SCHEMA) != SCHEMA:
        _refuse(path, line_number(path, offset), line, kind, None)
    if at is None and not strict:  # a flipped bit may have renamed the key
        _refuse(path, line_number(path, offset), line, kind, ValueError("damaged: it has no checksum"))
    return record


def line_number(path: Path, offset: int) -> int:
    """Which line begins at this offset, from 1."""
    with path.open("rb") as file:
        return file.read(offset).count(b"\n") + 1


def _refuse(path: Path, number: int, line: bytes, kind: type[msgspec.Struct], error: Exception | None) -> NoReturn:
    """Say what is wrong with one line. Another version is named first: its fields may differ as well."""
    try:
        schema = msgspec.json.decode(line, type=_Version).schema
    except (msgspec.DecodeError, ValueError):  # no JSON object at all: then the first error says it
        schema = SCHEMA
    if schema == 1:
        raise BadInputError(f"{path}:{number}: schema 1, of a former placid; `placid repair RUN` converts the run")
    if schema != SCHEMA:
        raise BadInputError(
            f"{path}:{number}: schema {schema}, this placid reads {SCHEMA}; read it with the placid that wrote it "
            "(manifest.json names the commit)"
        )
    whole = Turn if kind is _Head else kind
    if str(error).startswith("damaged"):
        raise BadInputError(
            f"{path}:{number}: {error}; `placid repair RUN` moves it aside, then the same command makes it again"
        )
    raise BadInputError(f"{path}:{number}: not a {whole.__name__}: {_fault(line, whole, error)}")


def _fault(line: bytes, kind: type[msgspec.Struct], error: Exception | None) -> str:
    """What is wrong with a line."""
    try:
        given = msgspec.json.decode(line, type=dict[str, msgspec.Raw])
    except (msgspec.DecodeError, ValueError):  # no JSON object at all
        return str(error)
    return fault(given, kind, error)


class Copy(NamedTuple):
    """One line of a conversation. Of a turn there are two where two processes wrote the run."""

    turn: Turn
    file: Path
    offset: int

    @property
    def launch(self) -> int:
        """The attempt that wrote it: it names who held the lease."""
        number = self.file.stem.partition("-")[0]
        return int(number) if number.isdigit() else 0

    def equals(self, other: "Copy") -> bool:
        """The same turn, whatever an engine's cache held."""
        mine, theirs = (msgspec.structs.replace(copy.turn, cached_tokens=0) for copy in (self, other))
        return mine == theirs


class Index:
    """Where every turn of many segments is. Places only, no text, so a run of any size can
    be walked conversation by conversation; the turns themselves are read when they are asked for.
    """

    def __init__(self, files: Sequence[Path]) -> None:
        """Scans `files` once.

        Raises:
            BadInputError: a malformed line that is not a torn last one.
        """
        self.files: list[Path] = []
        self.ends: dict[Key, End] = {}
        """The end of each conversation that has one."""
        self._places: dict[Key, array[int]] = {}
        """Key → turn number, file number, offset, size, turn number, ..."""
        self._seen: list[int] = []
        """Bytes of each file that are taken in."""
        self._decoder = msgspec.json.Decoder(Turn)
        self._take(files, live=False)

    def refresh(self, files: Sequence[Path]) -> list[Key]:
        """Take in what was appended since, and new files; the sorted keys with new turns. Writers may be at work.

        Raises:
            BadInputError: a malformed line that is not a torn last one.
        """
        return self._take(files, live=True)

    def _take(self, files: Sequence[Path], live: bool) -> list[Key]:
        known, fresh = {file: number for number, file in enumerate(self.files)}, set[Key]()
        for file in files:
            number = known.get(file, len(self.files))
            if number == len(self.files):
                self.files.append(file)
                self._seen.append(0)
            for offset, size, head in located(file, _Head, offset=self._seen[number], live=live):
                places = self._places.setdefault(head.key, array("q"))
                places.extend((head.turn, number, offset, size))
                self._seen[number] = offset + size
                fresh.add(head.key)
                if (head.end is not None or head.key in self.ends) and head.turn == max(places[::4]):
                    self._set_end(head.key, head.end)  # of the last turn: a run that grew has ends in the middle too
        return sorted(fresh)

    def _set_end(self, key: Key, end: End | None) -> None:
        if end is None:
            self.ends.pop(key, None)
        else:
            self.ends[key] = end

    def ended(self, key: Key, turns: int) -> bool:
        """Whether a conversation is over that may have `turns` turns: one that reached a former limit goes on."""
        end = self.ends.get(key)
        return end is not None and not (end.at_limit and max(self._places[key][::4]) < turns)

    def numbers(self, key: Key) -> list[int]:
        """The numbers of the turns of one conversation, in order; nothing is read."""
        return sorted(set(self._places.get(key, ())[::4]))

    def __iter__(self) -> Iterator[Key]:
        """Every conversation with a turn, sorted."""
        return iter(sorted(self._places))

    def __len__(self) -> int:
        """How many conversations."""
        return len(self._places)

    def __contains__(self, key: Key) -> bool:
        return key in self._places

    def turns(self, key: Key) -> tuple[Turn, ...]:
        """The turns of one conversation in order; none if there is no such key.

        Raises:
            BadInputError: a turn is there twice or missing, or a line is no Turn.
        """
        return next(self.walk([key]))

    def walk(self, keys: Sequence[Key]) -> Iterator[tuple[Turn, ...]]:
        """The turns of each of `keys`, in this order. Raises as turns() does."""
        handles: dict[int, int] = {}
        try:
            for key in keys:
                yield self._whole(key, self._copies(key, handles))
        finally:
            for handle in handles.values():
                os.close(handle)

    def copies(self, key: Key) -> list[Copy]:
        """Every line of one conversation, by turn and file."""
        handles: dict[int, int] = {}
        try:
            return self._copies(key, handles)
        finally:
            for handle in handles.values():
                os.close(handle)

    def _whole(self, key: Key, copies: list[Copy]) -> tuple[Turn, ...]:
        """Turns 1..n. Two writers may have said the same turn: equal ones are one."""
        turns: list[Turn] = []
        for copy, before in zip(copies, [None, *copies], strict=False):
            if before is None or before.turn.turn != copy.turn.turn:
                turns.append(copy.turn)
            elif not copy.equals(before):
                raise BadInputError(
                    f"{key} holds two different turns {copy.turn.turn} ({before.file}, {copy.file}): two processes "
                    "wrote; `placid repair RUN` keeps those of one"
                )
        numbers = [turn.turn for turn in turns]
        if numbers != list(range(1, len(turns) + 1)):
            files = sorted({str(copy.file) for copy in copies})
            raise BadInputError(
                f"{key} holds turns {numbers}; expected 1..n ({', '.join(files)}); `placid repair RUN` moves "
                "aside what follows a missing one"
            )
        return tuple(turns)

    def _copies(self, key: Key, handles: dict[int, int]) -> list[Copy]:
        flat = self._places.get(key, array("q"))
        places = sorted(zip(*(flat[k::4] for k in range(4)), strict=True))
        return [self._read(handles, file, offset, size) for _, file, offset, size in places]

    def _read(self, handles: dict[int, int], file: int, offset: int, size: int) -> Copy:
        path = self.files[file]
        if file not in handles:
            handles[file] = os.open(path, os.O_RDONLY)
        line = os.pread(handles[file], size, offset)
        return Copy(decoded(path, offset, line, Turn, self._decoder), path, offset)
