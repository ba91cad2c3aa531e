"""kill -9 of a grading process at 50 random moments: what is paid twice, and is the verdict set the same in the end?

python benchmarks/judge_kills.py [--kills 50] [--grades 1500]        about 5 minutes

Each kill falls at a random time after the process's first new request. A call may be paid again only if it was under
way when the process died. Three counts tell: what the server answered (all of it is paid), what came out of the
process's sockets (noted by a hook in the transport), and the lines of the ledger. So `answered - read` was open
or in a socket's buffer, and `read - written` had reached the process and was lost.
"""

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE), str(HERE.parent / "tests")]
from judge_rate import make  # noqa: E402 - a script beside this one

from gemini_runs import ledger  # noqa: E402
from placid.store import RunDir  # noqa: E402

GRADER = """
import os, sys, time; from pathlib import Path; sys.path.insert(0, {here!r})
from aiohttp.client_proto import ResponseHandler
log, receive = os.open(sys.argv[1] + "/read.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND), ResponseHandler.data_received
def noted(self, data):
    if b"modelVersion" in data:
        os.write(log, b"%.6f\\n" % time.time())
    receive(self, data)
ResponseHandler.data_received = noted
from judge_rate import PROMPT
from placid.judge import run
from placid.judge.settings import JudgeSettings
from placid.store import RunDir
limits = {{"rpm": {rpm}, "tpm": 10**9, "max_concurrent": 64}}
settings = JudgeSettings.model_validate({{"kind": "gemini", "rubric": "frustration_turn", "limits": limits}})
run(settings, RunDir(Path(sys.argv[1])), [PROMPT])
"""


class Server:
    """judge_server.py in its own process."""

    def __init__(self, latency: float) -> None:
        words = [sys.executable, str(HERE / "judge_server.py"), "--rpm", "1000000", "--latency", str(latency)]
        self._process = subprocess.Popen(words, stdout=subprocess.PIPE, text=True)
        self.url = self._process.stdout.readline().strip()  # pyright: ignore[reportOptionalMemberAccess]

    def stats(self) -> dict[str, Any]:
        """What it knows now."""
        return json.loads(urllib.request.urlopen(f"{self.url}/stats").read())

    def __enter__(self) -> "Server":
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.wait()


def grader(folder: Path, url: str, rpm: int) -> subprocess.Popen[bytes]:
    """A process that grades what is left."""
    env = {**os.environ, "GEMINI_API_KEY": "benchmark", "GOOGLE_GEMINI_BASE_URL": url}
    return subprocess.Popen([sys.executable, "-c", GRADER.format(here=str(HERE), rpm=rpm), str(folder)], env=env)


def verdicts(folder: Path) -> dict[str, tuple[float | None, str]]:
    """The verdict set: (score, request) by place."""
    run_dir = RunDir(folder)
    (judge,) = (run_dir.path / "verdicts").iterdir()
    return {f"{key} {turn}": (v.score, v.request) for (key, turn), v in run_dir.verdicts(judge.name).items()}


def read_and_written(folder: Path) -> tuple[list[float], list[float]]:
    """When each reply came out of a socket, and when it was written down; seconds since 1970."""
    (judge,) = (folder / "verdicts").iterdir()
    return [float(line) for line in (folder / "read.log").read_text().split()], [kept.at for kept in ledger(judge)]


def measure(args: argparse.Namespace) -> dict[str, object]:
    """An undisturbed run, and one that is killed."""
    chance = random.Random(args.seed)
    with tempfile.TemporaryDirectory() as whole, Server(args.latency) as server:
        make(RunDir(Path(whole)), args.grades)
        if grader(Path(whole), server.url, args.rpm).wait():
            raise RuntimeError("the undisturbed run failed")
        wanted = verdicts(Path(whole))
        waits = sorted(at - came for came, at in zip(*map(sorted, read_and_written(Path(whole))), strict=True))
    kills = 0
    with tempfile.TemporaryDirectory() as killed, Server(args.latency) as server:
        folder = Path(killed)
        make(RunDir(folder), args.grades)
        while kills < args.kills:
            before = len(server.stats()["times"])
            process = grader(folder, server.url, args.rpm)
            while process.poll() is None and server.stats()["open"] + len(server.stats()["times"]) <= before:
                time.sleep(0.02)
            time.sleep(chance.uniform(0, args.longest_s))
            if process.poll() is not None:
                break  # everything is graded
            process.send_signal(signal.SIGKILL)
            process.wait()
            kills += 1
            while server.stats()["open"]:  # the server answers (and bills) what was under way
                time.sleep(0.05)
        if grader(folder, server.url, 10**6).wait():
            raise RuntimeError("the last run failed")
        stats, found, (came, written) = server.stats(), verdicts(folder), read_and_written(folder)
    return {
        "grades": args.grades,
        "kills": kills,
        "verdicts_identical": found == wanted,
        "verdicts": len(found),
        "paid_twice": stats["twice"],
        "under_way_when_killed": len(stats["times"]) - len(came),
        "read_and_not_written": len(came) - len(written),
        "median_ms_from_read_to_written": round(1000 * waits[len(waits) // 2], 3),
    }


def main() -> None:
    """Print JSON and a table."""
    words = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    words.add_argument("--kills", type=int, default=50)
    words.add_argument("--grades", type=int, default=1500)
    words.add_argument("--latency", type=float, default=0.2)
    words.add_argument("--rpm", type=int, default=2400)
    words.add_argument("--longest-s", type=float, default=1.0)
    words.add_argument("--seed", type=int, default=0)
    words.add_argument("--out", type=Path)
    args = words.parse_args()
    found = measure(args)
    if args.out:
        args.out.write_text(json.dumps(found, indent=2) + "\n")
    print(json.dumps(found))
    for name, value in found.items():
        print(f"{name:<36}{value}")


if __name__ == "__main__":
    main()
