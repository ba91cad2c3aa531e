"""The run directory: append-only segments with one writer each, atomic manifests, numbered attempts.

    runs/<name>/
      config.json manifest.json                 resolved config and its identity · versions, host, commit, input hashes
      attempts/<n>/{log.txt,status.json}        one per launch, never overwritten
      conversations/<writer>.jsonl              one line per finished turn (records.Turn)
      verdicts/<judge_id>/<writer>.jsonl        one line per judged turn (records.Verdict)
      pairs/{train,val}.jsonl dropped.json
      evals/answers/<attempt>.jsonl             one line per answered ask and arm; results.jsonl and manifest.json are
                                                made of them
      report/{index.html,summary.json,tables/,figures/}

A torn last line (the writer was killed) is dropped with a warning; a bad line anywhere else is an error that names
file and line. Only the standard library and msgspec are needed to read a log.
"""

import os
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import msgspec

from placid.config import file_sha
from placid.records import BadInputError, Conversation, Key, Pair, Prompt, Turn, Verdict
from placid.store.disk import damaged, read_json, write_atomic, write_json
from placid.store.segment import Index, InvalidRecordError, Lines, Segment, located, read_at, read_lines

__all__ = [
    "Index",
    "InvalidRecordError",
    "Lines",
    "RunDir",
    "Segment",
    "check_adapter",
    "check_files",
    "hashes_of",
    "located",
    "read_at",
    "read_json",
    "read_lines",
    "write_atomic",
    "write_json",
    "write_lines",
]


def write_lines(path: Path, records: Iterable[msgspec.Struct], checksum: bool = True) -> None:
    """A whole JSONL file, atomically; without checksums it is one that people edit. Raises InvalidRecordError."""
    lines = Lines()
    write_atomic(path, b"".join(lines.line(record, checksum) for record in records))


def hashes_of(folder: Path) -> dict[str, str]:
    """sha256 of every file below `folder` by its name there, but for its manifest.json and source.json."""
    own = (folder / "manifest.json", folder / "source.json")
    files = sorted(path for path in folder.rglob("*") if path.is_file() and path not in own)
    with ThreadPoolExecutor() as pool:
        return {
            file.relative_to(folder).as_posix(): sha for file, sha in zip(files, pool.map(file_sha, files), strict=True)
        }


def check_files(folder: Path, hashes: Mapping[str, str]) -> None:
    """Raises BadInputError if a file of hashes_of() is missing or changed."""
    for name, expected in hashes.items():
        file = folder / name
        if not file.is_file():
            raise BadInputError(f"{file} is missing; put it back, or remove {folder} and it is made again")
        if file_sha(file) != expected:
            raise damaged(file)


def check_adapter(folder: Path) -> None:
    """Raises BadInputError if an adapter's files are not as training wrote them; one that others made is taken."""
    manifest = folder / "manifest.json"
    if manifest.is_file():
        check_files(folder, read_json(manifest).get("sha256", {}))


BEGUN = ("leases", "prompts.jsonl", "manifest.json")
"""What stands in a run directory before its config.json."""


class RunDir:
    """Paths and readers of one run directory. Creating the object touches nothing."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def free(self) -> bool:
        """Whether no run is here yet. Nothing is written.

        Raises:
            BadInputError: the folder holds something that is no run.
        """
        if (self.path / "config.json").is_file():
            return False
        if self.path.exists() and any(path.name not in BEGUN and path.suffix != ".tmp" for path in self.path.iterdir()):
            raise BadInputError(
                f"{self.path} exists, is not empty and holds no config.json; choose another run directory"
            )
        return True

    def begin(self, config: dict[str, Any], identities: dict[str, dict[str, Any]], manifest: dict[str, Any]) -> None:
        """Make this folder, whatever is in it, the run directory of `config`.

        identities: what every name of the config stands for (study/identity.py).
        """
        write_json(self.path / "manifest.json", manifest)
        # last: its existence makes this a run directory
        write_json(self.path / "config.json", {"config": config, "identities": identities})

    def freeze_date(self) -> None:
        """Let chat templates that print the date print that of the run's first launch, here and in child processes."""
        file = self.path / "manifest.json"
        if file.is_file():  # conversations written through Python alone have none
            os.environ["PLACID_TODAY"] = read_json(file).get("date", "")

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

    def index(self) -> Index:
        """Where every finished turn of every writer is; the turns themselves stay on disk.

        Raises:
            BadInputError: a malformed line that is not a torn last one.
        """
        return Index(self.segments())

    def segments(self) -> list[Path]:
        """The conversation segments of every writer, in order."""
        return sorted((self.path / "conversations").glob("*.jsonl"))

    def turns(self) -> list[Turn]:
        """Every finished turn of every writer, in no order."""
        return [turn for file in self.segments() for turn in read_lines(file, Turn)]

    def stream(self, prompts: Iterable[Prompt]) -> Iterator[Conversation]:
        """The conversations of these prompts by key, one in memory at a time, each checked: turns 1..n, each once.

        Raises:
            BadInputError: a malformed line, or a repeated or missing turn.
        """
        by_id = {prompt.id: prompt for prompt in prompts}
        index = self.index()
        keys = [key for key in index if key.prompt_id in by_id]
        for key, turns in zip(keys, index.walk(keys), strict=True):
            yield Conversation(key=key, prompt=by_id[key.prompt_id], turns=turns)

    def conversations(self, prompts: Iterable[Prompt]) -> dict[Key, Conversation]:
        """The whole of stream() by key, all in memory: use stream() where a run can be large."""
        return {conversation.key: conversation for conversation in self.stream(prompts)}

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
