"""What n-gram speculation gains on conversations that repeat themselves: the organism's, rejected, no way out.

    python benchmarks/speculative.py --conversations 24 --turns 12 --tokens 0 3 --rounds 2 --json

The same conversations are held with `engine.ngram_tokens` 0 and each other value, every time in a process of its own,
in turn (0 3 0 3 ...), one inline engine, vLLM. Measured are CPU seconds of the process and all its children from the
engine's start to its end (fair on a busy machine), and seconds. At temperature 0 the replies must be the same, except
where two tokens are equally likely in bfloat16: `same_replies` says how many are.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil

from placid.engine.vllm import VllmEngine
from placid.records import Key
from placid.rollout import run
from placid.rollout.settings import RolloutSettings
from placid.store import RunDir, read_prompts, write_lines

PROMPTS = Path("configs/prompts/organism_heldout.jsonl")


def spent() -> float:
    """CPU seconds of this process and its living descendants so far."""
    me = psutil.Process()
    return sum(sum(p.cpu_times()[:2]) for p in (me, *me.children(recursive=True)))


def hold(folder: Path, conversations: int, turns: int, tokens: int, temperature: float) -> dict[str, float]:
    """One rollout in this process; what it cost from the engine's start on."""
    prompts = read_prompts(PROMPTS)[: min(conversations, 30)]
    write_lines(folder / "prompts.jsonl", prompts)
    arm = {
        "prompts": folder / "prompts.jsonl",
        "samples": -(-conversations // len(prompts)),
        "turns": turns,
        "hatch": False,
    }
    settings = RolloutSettings.model_validate({
        "model": "checkpoints/organism", "temperature": temperature, "max_tokens": 96, "launcher": "inline",
        "engine": {"ngram_tokens": tokens}, "arms": {"base": arm},
    })  # fmt: skip
    began, ended = list[float](), list[float]()
    start, close = VllmEngine.start, VllmEngine.close

    async def started(engine: VllmEngine) -> None:
        await start(engine)
        began.extend((time.perf_counter(), spent()))

    async def closed(engine: VllmEngine) -> None:
        ended.extend((time.perf_counter(), spent()))
        await close(engine)

    VllmEngine.start, VllmEngine.close = started, closed
    run_dir = RunDir(folder / "run")
    run(settings, run_dir, run_dir.new_attempt())
    said = run_dir.turns()
    return {
        "turns": len(said),
        "tokens": sum(len(turn.reply_ids) for turn in said),
        "seconds": ended[0] - began[0],
        "cpu_s": ended[1] - began[1],
    }


def replies(folder: Path) -> dict[tuple[Key, int], tuple[int, ...]]:
    """Token ids of every turn."""
    return {(turn.key, turn.turn): turn.reply_ids for turn in RunDir(folder / "run").turns()}


def main() -> None:
    """Parse, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--conversations", type=int, default=24)
    parser.add_argument("--turns", type=int, default=12)
    parser.add_argument("--tokens", type=int, nargs="+", default=[0, 3], help="engine.ngram_tokens, 0 first")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--temperature", type=float, default=0.0)
    parser.add_argument("--json", action="store_true", help="only the JSON object")
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)  # one rollout, in a process of its own
    given = parser.parse_args()
    if given.folder:
        found = hold(given.folder, given.conversations, given.turns, given.tokens[0], given.temperature)
        (given.folder / "found.json").write_text(json.dumps(found))
        return
    rows: dict[int, list[dict[str, float]]] = {tokens: [] for tokens in given.tokens}
    said = {}
    with tempfile.TemporaryDirectory() as root:
        for number in range(given.rounds):
            for tokens in given.tokens:
                folder = Path(root) / f"{number}-{tokens}"
                folder.mkdir()
                words = ["--conversations", given.conversations, "--turns", given.turns, "--tokens", tokens]
                words += ["--temperature", given.temperature, "--folder", folder]
                subprocess.run([sys.executable, __file__, *map(str, words)], check=True, stdout=sys.stderr)
                rows[tokens].append(json.loads((folder / "found.json").read_text()))
                said.setdefault(tokens, replies(folder))
    result = {
        "conversations": given.conversations,
        "temperature": given.temperature,
        "rounds": given.rounds,
        "by_tokens": {},
    }
    for tokens, held in rows.items():
        per_token = statistics.median(1000 * row["cpu_s"] / row["tokens"] for row in held)
        same = [said[tokens].get(place) == ids for place, ids in said[given.tokens[0]].items()]
        result["by_tokens"][tokens] = {
            "turns": held[0]["turns"],
            "cpu_ms_per_token": per_token,
            "tokens_per_s": statistics.median(row["tokens"] / row["seconds"] for row in held),
            "same_replies": sum(same) / len(same),
        }
    plain = result["by_tokens"][given.tokens[0]]["cpu_ms_per_token"]
    for row in result["by_tokens"].values():
        row["gain"] = plain / row["cpu_ms_per_token"]
    if not given.json:
        for tokens, row in result["by_tokens"].items():
            print(tokens, "  ".join(f"{name} {value:.3f}" for name, value in row.items()), file=sys.stderr)
    print(json.dumps(result))


if __name__ == "__main__":
    main()
