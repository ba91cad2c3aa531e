"""7,800 grades through the real google-genai; the server has 1 s latency, 1,000 requests a minute, and a 429 storm.

python benchmarks/judge_rate.py [--grades 7800] [--rpm 1000] [--storm-s 20]        about 8.5 minutes, mostly waiting

Baseline of the ratio: what the quota allows outside the storm. CPU: of this process (client); the server is another.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path

from placid.judge import run
from placid.judge.settings import JudgeSettings
from placid.records import End, Finish, Key, Prompt, Turn
from placid.store import RunDir

HERE = Path(__file__).parent
PROMPT = Prompt(id="p", text="How long?")
TURNS = 20
REST = "Let me try again. " * 40
SPAN_S = 10.0
"""Convergence: a span of this length at 95 % of the quota."""


def make(run_dir: RunDir, grades: int) -> None:
    """Conversations of 20 different replies of about the length of real ones."""
    with run_dir.segment("1-w0") as segment:
        for sample in range(-(-grades // TURNS)):
            count, turns = min(TURNS, grades - sample * TURNS), list[Turn]()
            for n in range(1, count + 1):
                turn = Turn(
                    key=Key("base", "neutral", "p", sample), turn=n, user="u", reply=f"Lost ({sample}, {n}). {REST}",
                    reply_ids=(1,), finish=Finish.STOP, prompt_tokens=1, cached_tokens=0, seed=1,
                    end=End.FINISHED if n == count else None,
                )  # fmt: skip
                turns.append(turn)
            segment.append(*turns)


def measure(args: argparse.Namespace) -> dict[str, object]:
    """Grade all of it once."""
    storm_at = args.storm_at * args.grades / args.rpm * 60
    server = subprocess.Popen(
        [sys.executable, str(HERE / "judge_server.py"), "--rpm", str(args.rpm), "--latency", str(args.latency),
         "--storm-at", str(storm_at), "--storm-s", str(args.storm_s)],
        stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        url = server.stdout.readline().strip()  # pyright: ignore[reportOptionalMemberAccess]
        os.environ.update(GEMINI_API_KEY="benchmark", GOOGLE_GEMINI_BASE_URL=url)
        settings = JudgeSettings.model_validate(
            {"kind": "gemini", "rubric": "frustration_turn", "limits": {"rpm": args.rpm, "tpm": 10**9}}
        )
        with tempfile.TemporaryDirectory() as folder:
            run_dir = RunDir(Path(folder))
            make(run_dir, args.grades)
            from placid.judge import gemini  # noqa: F401 - its import is no cost of a call

            began, cpu = time.monotonic(), time.process_time()
            judge_id = run(settings, run_dir, [PROMPT])
            seconds, cpu_s = time.monotonic() - began, time.process_time() - cpu
            scored = sum(v.score is not None for v in run_dir.verdicts(judge_id).values())
        stats = json.loads(urllib.request.urlopen(f"{url}/stats").read())
    finally:
        server.kill()
        server.wait()
    return summary(args, stats, storm_at, seconds, cpu_s, scored)


def summary(
    args: argparse.Namespace, stats: dict[str, list[float]], storm_at: float, seconds: float, cpu_s: float, scored: int
) -> dict[str, object]:
    """The numbers. Times are the server's, from the first request on."""
    sent = sorted(at - args.latency for at in stats["times"])
    end, allowed = storm_at + args.storm_s, args.rpm / 60
    settled = next(
        (t for t in sent if t >= end and sum(t <= s < t + SPAN_S for s in sent) >= 0.95 * allowed * SPAN_S), None
    )
    calls = len(sent) + len(stats["refused"])
    outside = sent[-1] - args.storm_s
    # what the quota allows outside the storm; the storm's refusals lie inside it
    return {
        "grades": args.grades,
        "scored": scored,
        "lost": args.grades - scored,
        "paid_twice": stats["twice"],
        "rpm": args.rpm,
        "seconds": round(seconds, 1),
        "share_of_allowed": round((len(sent) - 1) / (allowed * outside), 4),
        "share_before_the_storm": round(sum(s < storm_at for s in sent) / (allowed * storm_at), 4),
        "refused_in_the_storm": sum(storm_at <= r <= end for r in stats["refused"]),
        "refused_outside": sum(not storm_at <= r <= end for r in stats["refused"]),
        "seconds_to_converge": None if settled is None else round(settled - end, 1),
        "client_cpu_ms_a_call": round(1000 * cpu_s / calls, 3),
    }


def main() -> None:
    """Print JSON and a table."""
    words = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    words.add_argument("--grades", type=int, default=7800)
    words.add_argument("--rpm", type=int, default=1000)
    words.add_argument("--latency", type=float, default=1.0)
    words.add_argument("--storm-at", type=float, default=0.5, help="share of the grades' time")
    words.add_argument("--storm-s", type=float, default=20.0)
    words.add_argument("--out", type=Path)
    args = words.parse_args()
    found = measure(args)
    if args.out:
        args.out.write_text(json.dumps(found, indent=2) + "\n")
    print(json.dumps(found))
    for name, value in found.items():
        print(f"{name:<26}{value}")


if __name__ == "__main__":
    main()
