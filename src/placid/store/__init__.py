"""The run directory: append-only segments with one writer each, atomic manifests, numbered attempts.

    runs/<name>/
      config.json manifest.json                 resolved config and its identity · versions, host, commit, input hashes
      attempts/<n>/{log.txt,status.json}        one per launch, never overwritten
      conversations/<writer>.jsonl              one line per finished turn (records.Turn)
      verdicts/<judge_id>/<writer>.jsonl        one line per judged turn (records.Verdict)
      pairs/{train,val}.jsonl dropped.json
      report/{index.html,summary.json,tables/,figures/}

A torn last line (the writer was killed) is dropped with a warning; a bad line anywhere else is an error that names
file and line. Only the standard library and msgspec are needed to read a log.
"""

import json
import logging
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, Generic, TypeVar

import msgspec

from placid.records import SCHEMA, BadInputError, Conversation, Key, Pair, Prompt, Turn, Verdict

log = logging.getLogger(__name__)
R = TypeVar("R", bound=msgspec.Struct)


class Segment(Generic[R]):
    """An append-only JSONL file with exactly one writer. Use as a context manager."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self.path = path
        self._file = path.open("xb")  # x: a second writer of the same file is a bug and fails here
        self._encoder = msgspec.json.Encoder()

    def append(self, *records: R) -> None:
        """Write the records as one group: they are on disk (fsync) when this returns."""
        if records:
            self._file.write(b"".join(self._encoder.encode(record) + b"\n" for record in records))
            self._file.flush()
            os.fsync(self._file.fileno())

    def close(self) -> None:
        """Close; an empty segment is removed so that idle writers leave no files."""
        self._file.close()
        if not self.path.stat().st_size:
            self.path.unlink()

    def __enter__(self) -> "Segment[R]":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def read_lines(path: Path, kind: type[R]) -> Iterator[R]:
    """Records of one JSONL file.

    Raises:
        BadInputError: a malformed line that is not a torn last one, or a record of another schema version.
    """
    decoder = msgspec.json.Decoder(kind)
    data = path.read_bytes()
    lines = data.split(b"\n")
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            record = decoder.decode(line)
        except (msgspec.DecodeError, msgspec.ValidationError) as error:
            if number == len(lines):  # no newline after it: the writer died in the middle of this line
                log.warning("%s:%d: dropped a torn last line (%d bytes)", path, number, len(line))
                return
            raise BadInputError(f"{path}:{number}: not a {kind.__name__}: {error}") from None
        if getattr(record, "schema", SCHEMA) != SCHEMA:
            raise BadInputError(
                f"{path}:{number}: schema {getattr(record, 'schema', None)}, this placid reads {SCHEMA}"
            )
        yield record


def write_atomic(path: Path, data: bytes) -> None:
    """Replace `path` so that a reader sees the old or the new content, never half of it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    with temporary.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)


def write_json(path: Path, value: object) -> None:
    """Indented JSON, atomically."""
    write_atomic(path, (json.dumps(value, indent=2, ensure_ascii=False) + "\n").encode())


def write_lines(path: Path, records: Iterable[msgspec.Struct]) -> None:
    """A whole JSONL file, atomically."""
    write_atomic(path, b"".join(msgspec.json.encode(record) + b"\n" for record in records))


def read_prompts(path: Path) -> list[Prompt]:
    """The prompts of a JSONL file, in order.

    Raises:
        BadInputError: missing file, no prompts, an empty text, two prompts with one id.
    """
    if not path.is_file():
        raise BadInputError(f"no prompt file {path}; one JSON object a line: id, text, optionally answers, family")
    prompts = list(read_lines(path, Prompt))
    seen: dict[str, int] = {}
    for number, prompt in enumerate(prompts, 1):
        if not prompt.text.strip():
            raise BadInputError(f"{path}: prompt {number} (id {prompt.id!r}) has an empty text")
        if prompt.id in seen:
            raise BadInputError(
                f"{path}: prompts {seen[prompt.id]} and {number} share the id {prompt.id!r}; ids must be unique"
            )
        seen[prompt.id] = number
    if not prompts:
        raise BadInputError(f"{path} holds no prompts")
    return prompts


class RunDir:
    """Paths and readers of one run directory. Creating the object touches nothing."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def claim(self, config: dict[str, Any], identity: str, manifest: dict[str, Any]) -> None:
        """Make the directory, or check that it is this config's.

        Raises:
            BadInputError: it belongs to another config (with the field-by-field difference), or is no run directory.
        """
        from placid.config import difference  # config may be imported by every room; late to keep reading light

        file = self.path / "config.json"
        if file.is_file():
            old = json.loads(file.read_text())
            if old["identity"] != identity:
                lines = difference(old["config"], config) or ["its data or model files changed"]
                raise BadInputError(
                    f"{self.path} belongs to another config ({'; '.join(lines)}); choose another run directory"
                )
            return
        if self.path.exists() and any(self.path.iterdir()):
            raise BadInputError(
                f"{self.path} exists, is not empty and holds no config.json; choose another run directory"
            )
        write_json(self.path / "manifest.json", manifest)
        write_json(file, {"identity": identity, "config": config})  # last: its existence makes this a run directory

    def new_attempt(self) -> Path:
        """A fresh `attempts/<n>/`."""
        root = self.path / "attempts"
        root.mkdir(parents=True, exist_ok=True)
        number = 1 + max((int(p.name) for p in root.iterdir() if p.name.isdigit()), default=0)
        while True:
            try:
                (root / str(number)).mkdir()
                return root / str(number)
            except FileExistsError:  # another launch took this number
                number += 1

    def segment(self, writer: str) -> Segment[Turn]:
        """The conversation segment of one writer; `writer` must be new (attempt and worker number)."""
        return Segment(self.path / "conversations" / f"{writer}.jsonl")

    def turns(self) -> list[Turn]:
        """Every finished turn of every writer, in no order."""
        return [
            turn for file in sorted((self.path / "conversations").glob("*.jsonl")) for turn in read_lines(file, Turn)
        ]

    def conversations(self, prompts: Iterable[Prompt]) -> dict[Key, Conversation]:
        """Turns put together by key, checked: numbered 1..n without gap or repetition.

        Raises:
            BadInputError: a repeated or missing turn.
        """
        by_id = {prompt.id: prompt for prompt in prompts}
        grouped: dict[Key, list[Turn]] = {}
        for turn in self.turns():
            grouped.setdefault(turn.key, []).append(turn)
        result: dict[Key, Conversation] = {}
        for key, turns in sorted(grouped.items()):
            turns.sort(key=lambda turn: turn.turn)
            if [turn.turn for turn in turns] != list(range(1, len(turns) + 1)):
                raise BadInputError(
                    f"{self.path}: {key} holds turns {[t.turn for t in turns]}; expected 1..n, each once"
                )
            if key.prompt_id in by_id:
                result[key] = Conversation(key=key, prompt=by_id[key.prompt_id], turns=tuple(turns))
        return result

    def verdict_segment(self, judge_id: str, writer: str) -> Segment[Verdict]:
        """The verdict segment of one writer."""
        return Segment(self.path / "verdicts" / judge_id / f"{writer}.jsonl")

    def verdicts(self, judge_id: str) -> dict[tuple[Key, int], Verdict]:
        """Verdicts of one judge by (key, turn); of two verdicts on one turn the later file's stands."""
        files = sorted((self.path / "verdicts" / judge_id).glob("*.jsonl"))
        return {(v.key, v.turn): v for file in files for v in read_lines(file, Verdict)}

    def pairs(self, split: str) -> list[Pair]:
        """`split` is train or val (or a named control set, e.g. sft_control)."""
        return list(read_lines(self.path / "pairs" / f"{split}.jsonl", Pair))
