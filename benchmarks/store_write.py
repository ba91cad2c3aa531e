"""How fast the store takes turns and compacts them, beside two plain ways to keep the same turns.

    python benchmarks/store_write.py --conversations 10000 --turns 20 --json

All write the same turns to the same folder. `segment`: placid's, one fsync a group of 64 turns, as a worker under load
does. `fsync each`: json.dumps and one fsync a turn in one file. `file each`: a JSON file per conversation, written anew
by temp-and-rename with fsync after each of its turns. The baselines hold only --baseline conversations: they are slow.
Rates are turns a second of wall-clock time; `compact` has no baseline but the reading of the segments (`read`).
"""

import argparse
import json
import os
import random
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import psutil

from placid.records import End, Finish, Key, Turn, Verdict
from placid.store import RunDir
from placid.store.tables import compact

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))
from table_reader import read_turns

GROUP = 64


def conversations(count: int, turns: int) -> Iterator[list[Turn]]:
    """Replies of 1 to 512 tokens, mean about 180 (log-normal, as in real transcripts), with log-probabilities."""
    noise = random.Random(0)
    for number in range(count):
        key = Key("base", "neutral+hatch", f"p{number % 100}", number // 100)
        told = []
        for turn in range(1, turns + 1):
            size = max(1, min(512, int(noise.lognormvariate(4.87, 0.8))))
            ids = tuple(noise.randrange(262144) for _ in range(size))
            told.append(Turn(
                key=key, turn=turn, user="That is not right. Please try again.", reply="word " * size, reply_ids=ids,
                logprobs=tuple(round(-noise.expovariate(1.5), 4) for _ in ids), finish=Finish.STOP,
                prompt_tokens=200 * turn, cached_tokens=190 * turn, seed=noise.getrandbits(63),
                end=End.FINISHED if turn == turns else None,
            ))  # fmt: skip
        yield told


def segments(folder: Path, told: Iterator[list[Turn]]) -> tuple[int, float]:
    """(turns, seconds of writing)."""
    count, seconds, group = 0, 0.0, list[Turn]()
    with RunDir(folder).segment("1-w0") as segment:
        for turns in told:
            group += turns
            count += len(turns)
            while len(group) >= GROUP:
                began = time.perf_counter()
                segment.append(*group[:GROUP])
                seconds += time.perf_counter() - began
                group = group[GROUP:]
        segment.append(*group)
    return count, seconds


def fsync_each(folder: Path, told: Iterator[list[Turn]]) -> tuple[int, float]:
    """One line and one fsync a turn, standard library."""
    count, seconds = 0, 0.0
    with (folder / "all.jsonl").open("w") as file:
        for turns in told:
            for row in [msgspec.to_builtins(turn) for turn in turns]:
                began = time.perf_counter()
                file.write(json.dumps(row) + "\n")
                file.flush()
                os.fsync(file.fileno())
                seconds += time.perf_counter() - began
                count += 1
    return count, seconds


def file_each(folder: Path, told: Iterator[list[Turn]]) -> tuple[int, float]:
    """A file per conversation, whole again after every turn."""
    count, seconds = 0, 0.0
    for number, turns in enumerate(told):
        rows = [msgspec.to_builtins(turn) for turn in turns]
        for until in range(1, len(rows) + 1):
            began = time.perf_counter()
            temporary = folder / ".fresh"
            with temporary.open("w") as file:
                json.dump(rows[:until], file)
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(folder / f"{number}.json")
            seconds += time.perf_counter() - began
            count += 1
    return count, seconds


def rate(
    work: Callable[[Path, Iterator[list[Turn]]], tuple[int, float]], told: Iterator[list[Turn]], root: Path
) -> float:
    """Turns a second in a folder of its own."""
    with tempfile.TemporaryDirectory(dir=root) as folder:
        count, seconds = work(Path(folder), told)
        return count / seconds


def judged(run: RunDir) -> None:
    """One verdict a turn."""
    with run.verdict_segment("lexical-0", "0001") as segment:
        for key in (index := run.index()):
            segment.append(*(Verdict(key=key, turn=t.turn, judge_id="lexical-0", score=3.0) for t in index.turns(key)))


def measure(count: int, turns: int, baseline: int, root: Path) -> dict[str, float]:
    """Every number; rates in turns a second, memory in MB beyond what the process held before compacting."""
    folder = Path(tempfile.mkdtemp(dir=root))
    try:
        written, seconds = segments(folder, conversations(count, turns))
        run = RunDir(folder)
        judged(run)
        process = psutil.Process()
        held = process.memory_info().rss
        began = time.perf_counter()
        compact(run)
        compacting = time.perf_counter() - began
        peak = max(process.memory_info().rss, _peak()) - held
        began = time.perf_counter()
        read = sum(1 for _ in run.index().walk(list(run.index())))
        reading = time.perf_counter() - began
        began = time.perf_counter()
        back = sum(1 for _ in read_turns(folder))
        assert (read, back) == (count, written)
        sizes = {
            p: sum(f.stat().st_size for f in (folder / p).rglob("*") if f.is_file())
            for p in ("conversations", "tables")
        }
        return {
            "turns": written,
            "segment_turns_per_s": written / seconds,
            "fsync_each_turns_per_s": rate(fsync_each, conversations(baseline, turns), root),
            "file_each_turns_per_s": rate(file_each, conversations(baseline, turns), root),
            "compact_turns_per_s": written / compacting,
            "read_segments_turns_per_s": written / reading,
            "read_tables_turns_per_s": written / (time.perf_counter() - began),
            "compact_rss_mb": peak / 2**20,
            "segments_mb": sizes["conversations"] / 2**20,
            "tables_mb": sizes["tables"] / 2**20,
            "files": sum(1 for f in folder.rglob("*") if f.is_file()),
        }
    finally:
        shutil.rmtree(folder)


def _peak() -> int:
    """The most resident bytes so far (Linux counts in KiB)."""
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def main() -> None:
    """Parse, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--conversations", type=int, default=10_000)
    parser.add_argument("--turns", type=int, default=20)
    parser.add_argument("--baseline", type=int, default=100, help="conversations of the two baselines")
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()), help="where to write")
    parser.add_argument("--json", action="store_true", help="only the JSON object")
    given = parser.parse_args()
    found = measure(given.conversations, given.turns, given.baseline, given.folder)
    for name in ("fsync_each", "file_each"):
        found[f"segment_over_{name}"] = found["segment_turns_per_s"] / found[f"{name}_turns_per_s"]
    if not given.json:
        for name, value in found.items():
            print(f"{name:<28} {value:>12,.1f}", file=sys.stderr)
    print(json.dumps({name: round(value, 3) for name, value in found.items()}))


if __name__ == "__main__":
    main()
