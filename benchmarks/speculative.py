"""What n-gram speculation gains on conversations that repeat themselves: the organism's, rejected, no way out.

    python benchmarks/speculative.py --conversations 24 --turns 12 --tokens 0 3 --rounds 2

The same conversations are held with `engine.ngram_tokens` 0 and each other value, every time in a process of its own,
in turn (0 3 0 3 ...), one inline vLLM engine, temperature 0. Measured from the engine's start to its end: CPU seconds
of the process and its children (fair on a busy machine), seconds, and drafted tokens that were accepted. Speculation
is lossless, so at temperature 0 the replies are the same, except where two tokens are equally likely in bfloat16.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import psutil

import placid.engine.vllm as room
from placid.engine import EngineLoad
from placid.inputs.prompts import read_prompts
from placid.records import Key
from placid.rollout import run
from placid.rollout.settings import RolloutSettings
from placid.store import RunDir, write_lines

ROOT = Path(__file__).parent.parent
PROMPTS = ROOT / "configs/prompts/organism_heldout.jsonl"


def spent() -> float:
    """CPU seconds of this process and its living descendants so far."""
    me = psutil.Process()
    return sum(sum(p.cpu_times()[:2]) for p in (me, *me.children(recursive=True)))


def counting(counts: dict[str, int]) -> Any:
    """placid's stat logger that also adds up what was drafted and accepted."""
    plain = room._watcher  # pyright: ignore[reportPrivateUsage]

    def watcher(load: EngineLoad) -> type:
        class Counting(plain(load)):
            def record(self, scheduler_stats: Any, iteration_stats: Any, *more: Any, **named: Any) -> None:
                found = getattr(scheduler_stats, "spec_decoding_stats", None)
                for name in counts if found else ():
                    counts[name] += getattr(found, f"num_{name}_tokens")
                super().record(scheduler_stats, iteration_stats, *more, **named)

        return Counting

    return watcher


def hold(folder: Path, conversations: int, turns: int, tokens: int) -> dict[str, float]:
    """One rollout in this process; what it cost from the engine's start on."""
    prompts = read_prompts(PROMPTS)[:conversations]
    write_lines(folder / "prompts.jsonl", prompts)
    samples = -(-conversations // len(prompts))
    arm = {"prompts": folder / "prompts.jsonl", "samples": samples, "turns": turns, "hatch": False}
    shared = {"model": ROOT / "checkpoints/organism", "temperature": 0, "max_tokens": 96, "launcher": "inline"}
    settings = RolloutSettings.model_validate({**shared, "engine": {"ngram_tokens": tokens}, "arms": {"base": arm}})
    counts = {"draft": 0, "accepted": 0}
    room._watcher = counting(counts)  # pyright: ignore[reportPrivateUsage]
    marks = list[tuple[float, float]]()
    start, close = room.VllmEngine.start, room.VllmEngine.close

    async def started(engine: room.VllmEngine) -> None:
        await start(engine)
        marks.append((time.perf_counter(), spent()))

    async def closed(engine: room.VllmEngine) -> None:
        marks.append((time.perf_counter(), spent()))
        await close(engine)

    room.VllmEngine.start, room.VllmEngine.close = started, closed
    run_dir = RunDir(folder / "run")
    run(settings, run_dir, run_dir.new_attempt())
    said = run_dir.turns()
    (began, cpu), (ended, cpu_ended), *_ = marks
    found = {"seconds": ended - began, "cpu_s": cpu_ended - cpu, **counts}
    return {"turns": len(said), "tokens": sum(len(turn.reply_ids) for turn in said), **found}


def replies(folder: Path) -> dict[tuple[Key, int], tuple[int, ...]]:
    """Token ids of every turn."""
    return {(turn.key, turn.turn): turn.reply_ids for turn in RunDir(folder / "run").turns()}


def measure(args: argparse.Namespace, root: Path) -> dict[str, Any]:
    """Every value in turn, `rounds` times."""
    rows: dict[int, list[dict[str, float]]] = {tokens: [] for tokens in args.tokens}
    said: dict[int, dict[tuple[Key, int], tuple[int, ...]]] = {}
    for number in range(args.rounds):
        for tokens in args.tokens:
            folder = root / f"{number}-{tokens}"
            folder.mkdir()
            words = ["--conversations", args.conversations, "--turns", args.turns, "--tokens", tokens]
            words = [sys.executable, __file__, *map(str, (*words, "--folder", folder))]
            subprocess.run(words, check=True, stdout=sys.stderr)
            rows[tokens].append(json.loads((folder / "found.json").read_text()))
            said.setdefault(tokens, replies(folder))
            print(tokens, rows[tokens][-1], file=sys.stderr, flush=True)
    result: dict[str, Any] = {"benchmark": "speculative", "conversations": args.conversations, "rounds": args.rounds}
    plain = statistics.median(row["cpu_s"] / row["tokens"] for row in rows[args.tokens[0]])
    slow = statistics.median(row["seconds"] / row["tokens"] for row in rows[args.tokens[0]])
    for tokens, held in rows.items():
        same = [said[tokens].get(place) == ids for place, ids in said[args.tokens[0]].items()]
        result[f"ngram_tokens = {tokens}"] = {
            "turns": held[0]["turns"],
            "tokens": held[0]["tokens"],
            "tokens_per_s": statistics.median(row["tokens"] / row["seconds"] for row in held),
            "gain": slow / statistics.median(row["seconds"] / row["tokens"] for row in held),
            "gain_in_cpu_seconds": plain / statistics.median(row["cpu_s"] / row["tokens"] for row in held),
            "accepted": held[0]["accepted"] / held[0]["draft"] if held[0]["draft"] else None,
            "same_replies": sum(same) / len(same),
        }
    return result


def main() -> None:
    """Print one JSON object."""
    parse = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parse.add_argument("--conversations", type=int, default=24)
    parse.add_argument("--turns", type=int, default=12)
    parse.add_argument("--tokens", type=int, nargs="+", default=[0, 3], help="engine.ngram_tokens, 0 first")
    parse.add_argument("--rounds", type=int, default=2)
    parse.add_argument("--out", type=Path)
    parse.add_argument("--folder", type=Path, help=argparse.SUPPRESS)  # one rollout, in a process of its own
    args = parse.parse_args()
    if args.folder:
        found = hold(args.folder, args.conversations, args.turns, args.tokens[0])
        (args.folder / "found.json").write_text(json.dumps(found))
        return
    with tempfile.TemporaryDirectory() as root:
        text = json.dumps(measure(args, Path(root)), indent=2)
    if args.out:
        args.out.write_text(text + "\n")
    print(text)


if __name__ == "__main__":
    main()
