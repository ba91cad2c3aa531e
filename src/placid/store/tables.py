"""Segments → tables/: what one analyses a run with. Rebuildable at any time, and equal to the segments.

    turns.parquet     one row a turn: every field of records.Turn but the token ids, sorted by key and turn
    verdicts.parquet  one row a judged turn and judge: every field of records.Verdict, in the same order
    tokens.zarr/
      ids             int32[L]      reply token ids of all rows of turns.parquet, one after the other
      logprobs        float64[L]    of each of them, in nats; nan where they were not asked for
      offsets         int64[R + 1]  row r holds ids[offsets[r] : offsets[r + 1]]
      scores/<judge>  float64[N, T] conversation x turn; nan where there is no score
    source.json       the segments they were made of with their sizes, and the sha256 of every file; written last

Conversations are numbered in the order of their keys (the column `conversation`, the first axis of `scores`), so the
tables do not depend on which worker held what, nor on resumes. One conversation is in memory at a time, and one shard:
each shard is written once and whole, by one writer.
"""

import logging
import os
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np

from placid.committed import holds_answer
from placid.records import BadInputError, Key, Turn, Verdict
from placid.store import RunDir, check_files, hashes_of, read_json, write_json
from placid.store.disk import fresh_folder, remove
from placid.store.lease import leased
from placid.store.segment import Index, decoded, located

if TYPE_CHECKING:
    import zarr

log = logging.getLogger(__name__)

CHUNK, SHARD = 1 << 16, 1 << 22
"""Tokens a chunk (what is read at once) and a shard (one file): 10,000 conversations of 20 turns: about 20 files."""
PART = 1 << 14
"""Rows that are in memory before they are written."""


def compact(run_dir: RunDir) -> bool:
    """Write tables/ anew; False if they are already those of the segments as they are.

    Raises:
        BadInputError: nothing to compact, a malformed line, a turn that is missing or differs; or another process is
            at it.
    """
    with leased(run_dir.path, "compact", "tables"):
        return _compact(run_dir)


def _compact(run_dir: RunDir) -> bool:
    folder, segments = run_dir.path / "tables", _segments(run_dir.path)
    file = folder / "source.json"
    if _up_to_date(folder, segments):
        return False
    index = run_dir.index()
    if not len(index):
        raise BadInputError(f"{run_dir.path} holds no conversations; there is nothing to compact")
    with fresh_folder(folder) as fresh:
        try:
            longest = _write_turns(index, fresh)
            _write_verdicts(run_dir.path, {key: row for row, key in enumerate(index)}, longest, fresh)
        except BaseException:
            _await_zarr()
            raise
        folder.mkdir(exist_ok=True)
        file.unlink(missing_ok=True)
        for made in sorted(fresh.iterdir()):
            remove(folder / made.name)
            made.replace(folder / made.name)
        write_json(file, {"segments": segments, "files": hashes_of(folder)})
    return True


def _await_zarr() -> None:
    """Return when zarr writes no more: after an error its other threads go on, into a folder that was removed."""
    import asyncio

    from zarr.core.sync import sync

    async def others() -> None:
        await asyncio.gather(*(asyncio.all_tasks() - {asyncio.current_task()}), return_exceptions=True)

    sync(others())


def _up_to_date(folder: Path, segments: dict[str, int]) -> bool:
    """Whether the tables are those of these segments, and as they were written."""
    try:
        made = read_json(folder / "source.json")
        check_files(folder, made["files"])
        return made["segments"] == segments
    except FileNotFoundError:
        return False
    except (BadInputError, KeyError) as error:  # KeyError: of schema 1
        log.warning("the tables are made again: %s", error)
        return False


def _segments(run: Path) -> dict[str, int]:
    """Every segment, with its size in bytes."""
    files = [*run.glob("conversations/*.jsonl"), *run.glob("verdicts/*/*.jsonl")]
    return {file.relative_to(run).as_posix(): file.stat().st_size for file in sorted(files)}


def _write_turns(index: Index, folder: Path) -> int:
    """turns.parquet and the tokens; the number of turns of the longest conversation."""
    import zarr

    group = zarr.open_group(folder / "tokens.zarr", mode="w", zarr_format=3)
    ids, logprobs = Flat(group, "ids", "int32"), Flat(group, "logprobs", "float64")
    offsets = Flat(group, "offsets", "int64")
    offsets.add([0])
    table, end, longest = Table(folder / "turns.parquet", _turn_schema()), 0, 0
    keys = list(index)
    for row, turns in enumerate(index.walk(keys)):
        longest = max(longest, len(turns))
        for turn in turns:
            ids.add(turn.reply_ids)
            logprobs.add(turn.logprobs if turn.logprobs is not None else [np.nan] * len(turn.reply_ids))
            end += len(turn.reply_ids)
            offsets.add([end])
            table.add(_turn_row(row, turn))
    for writer in (ids, logprobs, offsets, table):
        writer.close()
    return longest


def _write_verdicts(run: Path, rows: dict[Key, int], longest: int, folder: Path) -> None:
    """verdicts.parquet and the scores of every judge; of two verdicts on one turn the later one stands."""
    import zarr

    group = zarr.open_group(folder / "tokens.zarr", mode="a").create_group("scores")
    table = Table(folder / "verdicts.parquet", _verdict_schema())
    for judge in sorted(path for path in (run / "verdicts").glob("*") if path.is_dir()):
        scores = np.full((len(rows), longest), np.nan)
        for row, verdict in _latest(sorted(judge.glob("*.jsonl")), rows, longest):
            scores[row, verdict.turn - 1] = np.nan if verdict.score is None else verdict.score
            table.add(_verdict_row(row, verdict))
        group.create_array(
            judge.name, data=scores, chunks=(min(len(rows), CHUNK), longest), dimension_names=["conversation", "turn"]
        )
    table.close()


def _latest(files: Sequence[Path], rows: dict[Key, int], longest: int) -> Iterator[tuple[int, Verdict]]:
    """(conversation, verdict) in the order of conversations and turns. Only places are kept, the words stay on disk."""
    place_NT3 = np.full((len(rows), longest, 3), -1, np.int64)  # file, offset, size
    strange = 0
    for number, file in enumerate(files):
        for offset, size, verdict in located(file, Verdict):
            row = rows.get(verdict.key)
            if row is None or not 1 <= verdict.turn <= longest:
                strange += 1
            else:
                place_NT3[row, verdict.turn - 1] = number, offset, size
    if strange:
        log.warning("%d verdicts in %s are on turns that are not there; left out", strange, files[0].parent)
    decoder = msgspec.json.Decoder(Verdict)
    handles = [file.open("rb") for file in files]
    try:
        for row, column in np.argwhere(place_NT3[:, :, 0] >= 0).tolist():
            number, offset, size = place_NT3[row, column].tolist()
            line = os.pread(handles[number].fileno(), size, offset)
            yield row, decoded(files[number], offset, line, Verdict, decoder)
    finally:
        for handle in handles:
            handle.close()


class Flat:
    """A one-dimensional array that grows by whole shards."""

    def __init__(self, group: "zarr.Group", name: str, dtype: str) -> None:
        """A new empty array `name`."""
        from zarr.codecs import BloscCodec

        # shuffled, because most bytes of a token id and of a float32 kept as float64 are zero
        packed = BloscCodec(cname="zstd", clevel=3, shuffle="shuffle")
        self._array = group.create_array(
            name, shape=(0,), chunks=(CHUNK,), shards=(SHARD,), dtype=dtype, compressors=packed
        )
        self._buffer, self._length, self._written = np.empty(SHARD, dtype), 0, 0

    def add(self, values: Sequence[float]) -> None:
        """Append."""
        given = np.asarray(values, self._buffer.dtype)
        while len(given):
            fits = min(len(given), SHARD - self._length)
            self._buffer[self._length : self._length + fits] = given[:fits]
            self._length, given = self._length + fits, given[fits:]
            if self._length == SHARD:
                self.close()

    def close(self) -> None:
        """Write what is waiting."""
        if self._length:
            until = self._written + self._length
            self._array.resize((until,))
            self._array[self._written : until] = self._buffer[: self._length]
            self._written, self._length = until, 0


class Table:
    """A parquet file of any length: written in parts, put together at the end."""

    def __init__(self, path: Path, schema: dict[str, Any]) -> None:
        self._path, self._schema = path, schema
        self._parts = path.with_name(f".{path.name}.parts")
        self._parts.mkdir()
        self._rows: list[tuple[object, ...]] = []
        self._count = 0

    def add(self, row: tuple[object, ...]) -> None:
        """One row, in the order of the schema."""
        self._rows.append(row)
        if len(self._rows) == PART:
            self._flush()

    def _flush(self) -> None:
        import polars as pl

        part = self._parts / f"{self._count:06d}.parquet"
        pl.DataFrame(self._rows, schema=self._schema, orient="row").write_parquet(part, compression="lz4")
        self._count += 1
        self._rows.clear()

    def close(self) -> None:
        """The whole file."""
        import polars as pl

        if self._rows or not self._count:
            self._flush()
        pl.scan_parquet(self._parts / "*.parquet").sink_parquet(self._path, row_group_size=PART)
        shutil.rmtree(self._parts)


def _key_schema() -> dict[str, Any]:
    import polars as pl

    return {
        "conversation": pl.Int32, "arm": pl.String, "condition": pl.String, "prompt_id": pl.String, "sample": pl.Int32,
        "turn": pl.Int32,
    }  # fmt: skip


def _turn_schema() -> dict[str, Any]:
    import polars as pl

    text, whole = pl.String, pl.Int32
    origin = {"arm": text, "condition": text, "prompt_id": text, "sample": whole, "turn": whole, "rewrite": text}
    return {
        **_key_schema(), "user": text, "system": text, "reply": text, "finish": text, "end": text,
        "answers": pl.List(text), "right": pl.Boolean, "prompt_tokens": whole, "cached_tokens": whole,
        "reply_tokens": whole, "logprobs": pl.Boolean, "seed": pl.Int64, "origin": pl.Struct(origin),
    }  # fmt: skip


def _turn_row(conversation: int, t: Turn) -> tuple[object, ...]:
    """`right`: None where no right answer is known. `logprobs`: were they asked for?"""
    origin = None
    if t.origin is not None:
        origin = {**msgspec.structs.asdict(t.origin.key), "turn": t.origin.turn, "rewrite": t.origin.rewrite}
    return (
        conversation, t.key.arm, t.key.condition, t.key.prompt_id, t.key.sample, t.turn,
        t.user, t.system, t.reply, t.finish.value, t.end.value if t.end else None,
        list(t.answers), holds_answer(t.reply, t.answers) if t.answers else None, t.prompt_tokens, t.cached_tokens,
        len(t.reply_ids), t.logprobs is not None, t.seed, origin,
    )  # fmt: skip


VERDICT_FIELDS = tuple(name for name in Verdict.__struct_fields__ if name not in ("schema", "key", "turn", "scale"))


def _verdict_schema() -> dict[str, Any]:
    import polars as pl

    kinds = {"score": pl.Float64, "expected": pl.Float64, "on_topic": pl.Boolean, "garbled": pl.Boolean}
    scale = {"scale_low": pl.Float64, "scale_high": pl.Float64}
    return {**_key_schema(), **{name: kinds.get(name, pl.String) for name in VERDICT_FIELDS}, **scale}


def _verdict_row(conversation: int, v: Verdict) -> tuple[object, ...]:
    values = [getattr(v, name) for name in VERDICT_FIELDS]
    key = (conversation, v.key.arm, v.key.condition, v.key.prompt_id, v.key.sample, v.turn)
    return (*key, *(str(value) if isinstance(value, str) else value for value in values), *v.scale)
