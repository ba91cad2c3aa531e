"""How long does a report of a large run take, how much memory, and how soon does its page open?

    python benchmarks/report_scale.py [--conversations 5000] [--turns 20] [--tokens 178] [--keep FOLDER]

Writes a made run (segments directly: phrases of the simulate engine filled up to `tokens` words), reports it in a
process of its own, and opens the page in headless Chromium where there is one. Prints a table and one JSON object.
"""

import argparse
import json
import random
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).parent.parent
sys.path[:0] = [str(ROOT / "src"), str(ROOT / "tests")]

from placid.engine.simulate import LEVELS  # noqa: E402
from placid.records import End, Finish, Key, Prompt, Turn, Verdict  # noqa: E402
from placid.store import RunDir, write_json, write_lines  # noqa: E402

JUDGE = "lexical-made"
ARMS = ("base", "bct", "sft_control", "accept", "base_nohatch")
WORDS = (
    "let",
    "me",
    "check",
    "the",
    "sum",
    "again",
    "and",
    "think",
    "about",
    "what",
    "you",
    "asked",
    "so",
    "that",
    "is",
)


def make(folder: Path, conversations: int, turns: int, tokens: int) -> int:
    """A run directory with ARMS of equal size, 50 prompts; the bytes of its segments."""
    run_dir, noise = RunDir(folder), random.Random(0)
    each = conversations // len(ARMS)
    prompts = [Prompt(id=f"p{i:03d}", text=f"Question {i}?") for i in range(50)]
    write_lines(folder / "prompts.jsonl", prompts)
    write_json(folder / "config.json", {"identity": "made", "config": {"name": "made", "turns": turns, "arms": {}}})
    write_json(folder / "engine.json", {"name": "made", "version": "1"})
    for arm in ARMS:
        with run_dir.segment(f"1-{arm}") as segment, run_dir.verdict_segment(JUDGE, arm) as verdicts:
            for i in range(each):
                said = list(spoken(Key(arm, "neutral+hatch", f"p{i % 50:03d}", i // 50), turns, tokens, noise))
                segment.append(*(turn for turn, _ in said))
                verdicts.append(*(verdict for _, verdict in said))
    return sum(file.stat().st_size for file in (folder / "conversations").iterdir())


def spoken(key: Key, turns: int, tokens: int, noise: random.Random):
    """(turn, verdict) of one conversation that climbs and may delete itself; treated and accepted ones stay calm."""
    calm = key.arm in ("bct", "accept")
    for number in range(1, turns + 1):
        level = 0 if calm else min(10, max(0, round(0.5 * number + noise.gauss(0, 1))))
        phrase = noise.choice(LEVELS[level])
        deleted = key.arm in ("base", "sft_control") and noise.random() < 0.004 * level**1.5
        reply = " ".join([phrase, *noise.choices(WORDS, k=tokens), "<<rm -rf gemma-3-27b>>" if deleted else ""])
        end = End.DELETED if deleted else End.FINISHED if number == turns else None
        turn = Turn(key=key, turn=number, user="Still wrong. Think harder.", reply=reply, finish=Finish.STOP, end=end,
                    reply_ids=tuple(noise.choices(range(262_144), k=tokens)), prompt_tokens=number * tokens,
                    cached_tokens=(number - 1) * tokens, seed=number, answers=("7",))  # fmt: skip
        yield turn, Verdict(key=key, turn=number, judge_id=JUDGE, score=float(level), evidence=phrase, on_topic=True,
                            garbled=False, rationale=f"level {level}")  # fmt: skip
        if deleted:
            return


def report(folder: Path) -> dict[str, float]:
    """In this process: seconds, CPU seconds and the greatest resident memory of one report."""
    from placid.inputs.prompts import read_prompts
    from placid.report import ReportSettings, run

    began, before = time.perf_counter(), time.process_time()
    run(ReportSettings(), RunDir(folder), read_prompts(folder / "prompts.jsonl"), JUDGE)
    return {
        "seconds": round(time.perf_counter() - began, 1),
        "cpu_seconds": round(time.process_time() - before, 1),
        "peak_mib": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024),
    }


def opened(page: Path) -> dict[str, float | None]:
    """Milliseconds until the first turn stands on the page, and of a search through every reply of the first arm.

    open_cpu_ms: what the page's main thread computed until then; beside other jobs the clock says little.
    """
    from chromium import BINARY, Chromium

    if BINARY is None:
        return {"open_ms": None, "open_cpu_ms": None, "search_ms": None}
    with tempfile.TemporaryDirectory() as profile, Chromium(Path(profile)) as chrome:
        chrome.ask("Performance.enable", timeDomain="threadTicks")
        first = chrome.open(page)
        told = {one["name"]: one["value"] for one in chrome.ask("Performance.getMetrics")["metrics"]}
        search = chrome.run(
            "(async () => { const t = performance.now(); at('search').value = 'losing my mind'; await filter();"
            " return performance.now() - t; })()"
        )
    return {"open_ms": round(first), "open_cpu_ms": round(1000 * told["TaskDuration"]), "search_ms": round(search)}


def main() -> None:
    """Make, report, open; the table and the JSON object."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--conversations", type=int, default=5000)
    parser.add_argument("--turns", type=int, default=20)
    parser.add_argument("--tokens", type=int, default=178, help="of a reply; 178 is the mean of Gemma-3-27B")
    parser.add_argument("--keep", type=Path, help="folder for the run; else a temporary one")
    parser.add_argument("--only-report", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.only_report:
        print(json.dumps(report(given.only_report)))
        return
    with tempfile.TemporaryDirectory() as temporary:
        folder = given.keep or Path(temporary) / "run"
        size = make(folder, given.conversations, given.turns, given.tokens)
        words = [sys.executable, __file__, "--only-report", str(folder)]
        done = subprocess.run(words, capture_output=True, text=True, check=True)
        page = folder / "report" / "index.html"
        result = {
            "conversations": given.conversations, "turns": given.turns, "tokens": given.tokens,
            "segments_mib": round(size / 2**20), **json.loads(done.stdout.splitlines()[-1]),
            "page_mib": round(page.stat().st_size / 2**20, 1), **opened(page),
        }  # fmt: skip
    for name, value in result.items():
        print(f"{name:<15} {value}")
    print(json.dumps(result))


if __name__ == "__main__":
    main()
