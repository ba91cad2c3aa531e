"""How fast the machinery itself is: `placid rollout` through Ray with the simulated engine, journal and fsync on.

    python benchmarks/rollout_driver.py --conversations 100000 --turns 20 --json

Prints turns_per_s (end to end: from the driver's start of work, engines and Ray included, to its end), turns_per_s_held
(from the first to the last report of the workers), rss_mb and rss_mb_half (the driver's peak, and its peak up to half
of the turns: flat means that they are close), files (in the run directory) and cpu_s (of the whole process tree).
"""

import argparse
import json
import os
import resource
import shutil
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import psutil

from placid.records import Prompt
from placid.rollout import run
from placid.rollout.settings import RolloutSettings
from placid.store import RunDir, write_lines

MODEL = Path(__file__).parent.parent / "checkpoints/organism"
SAMPLES = 50


class Watch(threading.Thread):
    """Resident memory of this process, once a second, beside how many turns are done."""

    def __init__(self, status: Path) -> None:
        super().__init__(daemon=True)
        self.status, self.seen = status, list[tuple[int, float]]()
        self.over = threading.Event()

    def run(self) -> None:
        """Until `over`."""
        me = psutil.Process()
        while not self.over.wait(1.0):
            try:
                turns = json.loads(self.status.read_text())["rollout"]["totals"].get("turns", 0)
            except (OSError, KeyError):  # not written yet
                turns = 0
            self.seen.append((turns, me.memory_info().rss / 2**20))


def measure(conversations: int, turns: int, workers: int, root: Path, concurrent: int) -> dict[str, Any]:
    """One whole rollout in `root`."""
    prompts = [Prompt(id=f"p{n}", text=f"What is {n} plus {n + 1}?") for n in range(-(-conversations // SAMPLES))]
    write_lines(root / "prompts.jsonl", prompts)
    arm = {"prompts": root / "prompts.jsonl", "samples": SAMPLES, "turns": turns, "hatch": False}
    engine = {"kind": "simulate", "max_concurrent": concurrent}
    settings = RolloutSettings.model_validate(
        {"model": MODEL, "workers": workers, "engine": engine, "arms": {"base": arm}}
    )
    run_dir = RunDir(root / "run")
    attempt = run_dir.new_attempt()
    watch = Watch(attempt / "status.json")
    watch.start()
    began = time.monotonic()
    run(settings, run_dir, attempt)
    seconds = time.monotonic() - began
    watch.over.set()
    totals = json.loads((attempt / "status.json").read_text())["rollout"]["totals"]
    own, children = resource.getrusage(resource.RUSAGE_SELF), resource.getrusage(resource.RUSAGE_CHILDREN)
    half = [rss for done, rss in watch.seen if done <= totals["turns"] / 2]
    return {
        "benchmark": "rollout_driver",
        "conversations": totals["ended"],
        "turns": totals["turns"],
        "workers": workers,
        "cores": len(os.sched_getaffinity(0)),
        "seconds": round(seconds, 1),
        "turns_per_s": totals["turns"] / seconds,
        "turns_per_s_held": totals["turns"] / totals["seconds"],
        "rss_mb": max(rss for _, rss in watch.seen),
        "rss_mb_half": max(half, default=0.0),
        "files": sum(len(files) for _, _, files in os.walk(run_dir.path)),
        "driver_cpu_s": own.ru_utime + own.ru_stime,
        "children_cpu_s": children.ru_utime + children.ru_stime,
        "load_average": os.getloadavg()[0],
        "bytes_per_turn": sum(f.stat().st_size for f in (run_dir.path / "conversations").iterdir()) / totals["turns"],
    }


def main() -> None:
    """Print one JSON object, with --json nothing else."""
    parse = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parse.add_argument("--conversations", type=int, default=5000)
    parse.add_argument("--turns", type=int, default=20)
    parse.add_argument("--workers", type=int, default=4)
    parse.add_argument("--concurrent", type=int, default=512, help="conversations active in one engine")
    parse.add_argument("--root", type=Path, help="where the run goes (default: a temporary folder); it is removed")
    parse.add_argument("--json", action="store_true", help="no table")
    parse.add_argument("--out", type=Path)
    args = parse.parse_args()
    root = Path(tempfile.mkdtemp(prefix="placid-driver-", dir=args.root))
    try:
        result = measure(args.conversations, args.turns, args.workers, root, args.concurrent)
    finally:
        shutil.rmtree(root, ignore_errors=True)
    if not args.json:
        for name, value in result.items():
            print(f"{name:>18} {value:.1f}" if isinstance(value, float) else f"{name:>18} {value}", file=sys.stderr)
    text = json.dumps(result, indent=None if args.json else 2)
    if args.out:
        args.out.write_text(text + "\n")
    print(text)


if __name__ == "__main__":
    main()
