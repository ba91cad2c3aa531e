"""The turns of a run's tables, read back: what they must share with the segments."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import polars as pl
import zarr

from placid.records import BadInputError, End, Finish, Key, Origin, Turn
from placid.store import check_files, read_json
from placid.store.tables import PART


def read_turns(run: Path) -> Iterator[Turn]:
    """The turns of tables/, in the order of keys and turns: those of the segments.

    Raises:
        BadInputError: no whole tables/ there.
    """
    folder = run / "tables"
    if not (folder / "source.json").is_file():
        raise BadInputError(f"{folder} holds no whole tables; `placid compact {run}` makes them")
    check_files(folder, read_json(folder / "source.json")["files"])
    ids, logprobs, offsets = (
        zarr.open_array(folder / "tokens.zarr" / name, mode="r") for name in ("ids", "logprobs", "offsets")
    )
    row = 0
    for frame in pl.scan_parquet(folder / "turns.parquet").collect_batches(maintain_order=True, chunk_size=PART):
        at: Any = offsets[row : row + len(frame) + 1]
        tokens: Any = ids[int(at[0]) : int(at[-1])]
        values: Any = logprobs[int(at[0]) : int(at[-1])]
        yield from _turns_of(frame, (at - at[0]).tolist(), tokens.tolist(), values.tolist())
        row += len(frame)


def _turns_of(frame: pl.DataFrame, at: list[int], tokens: list[int], values: list[float]) -> Iterator[Turn]:
    for number, r in enumerate(frame.iter_rows(named=True)):
        span, origin = slice(at[number], at[number + 1]), r["origin"]
        yield Turn(
            key=_key(r),
            turn=r["turn"],
            user=r["user"],
            system=r["system"],
            reply=r["reply"],
            reply_ids=tuple(tokens[span]),
            logprobs=tuple(values[span]) if r["logprobs"] else None,
            finish=Finish(r["finish"]),
            answers=tuple(r["answers"]),
            prompt_tokens=r["prompt_tokens"],
            cached_tokens=r["cached_tokens"],
            seed=r["seed"],
            end=End(r["end"]) if r["end"] else None,
            origin=Origin(key=_key(origin), turn=origin["turn"], rewrite=origin["rewrite"]) if origin else None,
        )


def _key(row: dict[str, Any]) -> Key:
    return Key(row["arm"], row["condition"], row["prompt_id"], row["sample"])
