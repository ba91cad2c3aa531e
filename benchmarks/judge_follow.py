"""Does a judge that follows slow the rollout? The same rollout alone and followed, in turn, on all cores here.

python benchmarks/judge_follow.py [--samples 20] [--repeats 3]        about 5 minutes on 2 cores

Rollout: simulated engines on Ray, one a core, so that every core is taken; the lexical judge follows as `placid judge
--follow` in its own process. Baseline of the ratio: the rollout alone. Time: from the first report of its workers to
their last.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

CONFIG = Path(__file__).parent.parent / "configs/study/simulate.toml"


def rollout(folder: Path, samples: int, followed: bool, launcher: str) -> dict[str, float]:
    """Hold it once; turns a second, and how many of its turns were graded when it ended."""
    engines = len(os.sched_getaffinity(0)) if launcher == "ray" else 1
    words = [
        str(CONFIG),
        "--root",
        str(folder),
        "--samples",
        str(samples),
        "--workers",
        str(engines),
        "--launcher",
        launcher,
    ]
    command, quiet = [sys.executable, "-m", "placid.cli"], {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    speaking = subprocess.Popen([*command, "rollout", *words], **quiet)
    run = folder / "simulate"
    while followed and not (run / "config.json").is_file():
        time.sleep(0.1)
    grading = subprocess.Popen([*command, "judge", *words, "--follow"], **quiet) if followed else None
    if speaking.wait():
        raise RuntimeError("the rollout failed")
    graded = sum(file.read_bytes().count(b"\n") for file in run.glob("verdicts/*/*.jsonl"))
    if grading is not None and grading.wait():
        raise RuntimeError("the judge failed")
    (status,) = (
        json.loads(file.read_text()) for file in run.glob("attempts/*/status.json") if "rollout" in file.read_text()
    )
    totals = status["rollout"]["totals"]
    return {"turns_per_s": totals["turns"] / totals["seconds"], "turns": totals["turns"], "graded_meanwhile": graded}


def main() -> None:
    """Print JSON and a table."""
    words = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    words.add_argument("--samples", type=int, default=20)
    words.add_argument("--repeats", type=int, default=3)
    words.add_argument(
        "--launcher", choices=("ray", "inline"), default="ray", help="inline: one engine, in one process"
    )
    args = words.parse_args()
    found: dict[bool, list[dict[str, float]]] = {False: [], True: []}
    for _ in range(args.repeats):
        for followed in found:
            with tempfile.TemporaryDirectory() as folder:
                found[followed].append(rollout(Path(folder), args.samples, followed, args.launcher))
    alone, beside = (statistics.median(run["turns_per_s"] for run in found[followed]) for followed in (False, True))
    result = {
        "turns": found[True][0]["turns"],
        "repeats": args.repeats,
        "turns_per_s_alone": [round(run["turns_per_s"], 1) for run in found[False]],
        "turns_per_s_followed": [round(run["turns_per_s"], 1) for run in found[True]],
        "graded_when_the_rollout_ended": [run["graded_meanwhile"] for run in found[True]],
        "followed_to_alone": round(beside / alone, 3),
        "load_average": os.getloadavg()[0],
    }
    print(json.dumps(result))
    for name, value in result.items():
        print(f"{name:<32}{value}")


if __name__ == "__main__":
    main()
