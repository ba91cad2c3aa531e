"""Random kills: are finished turns lost or said twice, is the end what an undisturbed run gives, what does a kill cost?

    sudo python benchmarks/faults.py --driver 120 --disk 40 --worker 30 --coordinator 10    # root: it mounts a tmpfs

Each kind has its own run directory, which is disturbed again and again at random moments until its kills are spent,
then left to end. The simulated engine answers; kinds:

    driver       kill -9 of the process that holds everything (one engine inside). A fork: no imports in its cost
    disk         the file system under the run is full (a tmpfs that is made larger for each next launch)
    worker       kill -9 of a Ray actor; the coordinator goes on with what its segment holds
    coordinator  kill -9 of the driver of two Ray actors, which live on as orphans; the next launch comes at once

Before each kill is forgotten, the turns on disk are noted: each must be in the end result, unchanged and once.
"""

import argparse
import contextlib
import errno
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from placid.records import Key, Turn
from placid.render import Renderer
from placid.rollout import run
from placid.rollout.settings import RolloutSettings
from placid.store import RunDir, read_lines, read_prompts

ROOT = Path(__file__).parent.parent
PROMPTS = ROOT / "configs/prompts/organism_heldout.jsonl"
LAUNCH = """
import json, sys
from pathlib import Path
from placid.rollout import run
from placid.rollout.settings import RolloutSettings
from placid.store import RunDir
run_dir = RunDir(Path(sys.argv[2]))
run(RolloutSettings.model_validate(json.loads(sys.argv[1])), run_dir, run_dir.new_attempt())
"""
Found = dict[tuple[Key, int], Turn]


def settings(launcher: str, samples: int, turns: int) -> RolloutSettings:
    """Two arms on two workers."""
    arm = {"prompts": PROMPTS, "samples": samples, "turns": turns}
    return RolloutSettings.model_validate(
        {
            "model": ROOT / "checkpoints/organism",
            "launcher": launcher,
            "workers": 1 if launcher == "inline" else 2,
            "engine": {"kind": "simulate", "max_concurrent": 32},
            "arms": {"base": arm, "accept": {**arm, "condition": "accept", "hatch": False}},
        }
    )


def size(run_dir: Path) -> int:
    """Bytes of all segments."""
    total = 0
    for file in (run_dir / "conversations").glob("*.jsonl"):
        with contextlib.suppress(FileNotFoundError):  # an empty segment is removed
            total += file.stat().st_size
    return total


def on_disk(run_dir: Path) -> tuple[Found, int]:
    """Every finished turn, and how many are there twice."""
    found: Found = {}
    count = 0
    for file in sorted((run_dir / "conversations").glob("*.jsonl")):
        for turn in read_lines(file, Turn):
            count += 1
            found[turn.key, turn.turn] = turn
    return found, count - len(found)


def forked(chosen: RolloutSettings, run_dir: Path) -> int:
    """Go on with the run in a child of this process; its pid. Exits 0 when done, 28 when the disk was full."""
    pid = os.fork()
    if pid:
        return pid
    code = 1
    try:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
        run(chosen, RunDir(run_dir), RunDir(run_dir).new_attempt())
        code = 0
    except OSError as error:
        code = errno.ENOSPC if error.errno == errno.ENOSPC else 1
    finally:
        os._exit(code)


def launched(chosen: RolloutSettings, run_dir: Path) -> subprocess.Popen[bytes]:
    """The same in a new process, as a user starts it."""
    words = [sys.executable, "-c", LAUNCH, chosen.model_dump_json(), str(run_dir)]
    return subprocess.Popen(words, stderr=(run_dir.parent / "stderr.txt").open("ab"))


class Campaign:
    """One run directory and what was done to it."""

    def __init__(self, kind: str, chosen: RolloutSettings, root: Path, whole: int, kills: int, seed: int) -> None:
        """whole: bytes of the undisturbed run."""
        self.kind, self.chosen, self.run_dir = kind, chosen, root / kind
        self.random = random.Random(f"{seed} {kind}")
        self.marks = sorted(self.random.uniform(0, 0.95) * whole for _ in range(kills))
        self.noted: Found = {}
        self.kills = 0
        self.run_dir.mkdir(parents=True)

    def note(self) -> None:
        """A kill has happened; what is on disk now is finished."""
        self.kills += 1
        found, _ = on_disk(self.run_dir)
        for at, turn in self.noted.items():
            assert found.get(at) == turn, f"{self.kind}: kill {self.kills} lost or changed {at}"
        self.noted = found

    def reached(self, alive: Callable[[], bool]) -> bool:
        """Wait until the next mark is written; False if the run ends before."""
        while size(self.run_dir) < self.marks[self.kills]:
            if not alive():
                return False
            time.sleep(0.002 * self.random.random())
        return True

    def driver(self) -> None:
        """kill -9 of the whole process, again and again."""
        while self.kills < len(self.marks):
            pid = forked(self.chosen, self.run_dir)
            ended = not self.reached(lambda pid=pid: os.waitpid(pid, os.WNOHANG)[0] == 0)
            if ended:
                break
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
            self.note()
        _, status = os.waitpid(forked(self.chosen, self.run_dir), 0)
        assert status == 0, f"{self.kind}: the last launch ended with {status}"

    def disk(self) -> None:
        """A tmpfs too small for the run, larger for each next launch."""
        extra, full = 400_000, self.marks[-1] / len(self.marks)
        subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={extra}", "tmpfs", str(self.run_dir)], check=True)
        try:
            while True:
                pid = forked(self.chosen, self.run_dir)
                _, status = os.waitpid(pid, 0)
                if status == 0:
                    break
                assert os.waitstatus_to_exitcode(status) == errno.ENOSPC, f"disk: ended with {status}"
                self.note()
                extra += int(full * self.random.uniform(0.5, 1.5))
                subprocess.run(["mount", "-o", f"remount,size={extra}", str(self.run_dir)], check=True)
            shutil.copytree(self.run_dir, self.run_dir.parent / "disk-kept")
        finally:
            subprocess.run(["umount", str(self.run_dir)], check=True)
        self.run_dir = self.run_dir.parent / "disk-kept"

    def worker(self) -> None:
        """kill -9 of one actor after the other under one living coordinator; a new one if it ends before."""
        process = launched(self.chosen, self.run_dir)
        killed = set[int]()
        while self.kills < len(self.marks) and self.reached(lambda: process.poll() is None):
            status = json.loads(max(self.run_dir.glob("attempts/*/status.json"), key=_number).read_text())["rollout"]
            pids = {entry["pid"] for entry in status["workers"]} - killed
            alive = [pid for pid in sorted(pids) if Path(f"/proc/{pid}").exists()]
            if not alive:
                time.sleep(0.05)
                continue
            pid = self.random.choice(alive)
            killed.add(pid)
            os.kill(pid, signal.SIGKILL)
            self.note()
        assert process.wait() == 0, "worker: the coordinator did not end well"

    def coordinator(self) -> None:
        """kill -9 of the driver; its actors are orphans when the next launch begins."""
        while self.kills < len(self.marks):
            process = launched(self.chosen, self.run_dir)
            if not self.reached(lambda p=process: p.poll() is None):
                break
            process.kill()
            process.wait()
            self.note()
        assert launched(self.chosen, self.run_dir).wait() == 0, "coordinator: the last launch did not end well"


def _number(file: Path) -> int:
    return int(file.parent.name)


def measure(args: argparse.Namespace, root: Path) -> dict[str, Any]:
    """The undisturbed run, then every kind."""
    os.environ["TOKENIZERS_PARALLELISM"] = "false"  # it does not survive a fork
    Renderer(ROOT / "checkpoints/organism")  # its imports, before anything forks
    reference, seconds = root / "undisturbed", {}
    for launcher in ("inline", "ray"):
        chosen, folder = settings(launcher, args.samples, args.turns), root / f"undisturbed-{launcher}"
        if launcher == "ray" and not args.worker + args.coordinator:
            continue
        began = time.monotonic()
        if launcher == "inline":
            os.waitpid(forked(chosen, folder), 0)
            reference = folder
        else:
            root.mkdir(exist_ok=True)
            assert launched(chosen, folder).wait() == 0
        seconds[launcher] = time.monotonic() - began
    whole, twice = on_disk(reference)
    assert not twice
    rows = []
    for kind, kills in (("driver", args.driver), ("disk", args.disk), ("worker", args.worker),
                        ("coordinator", args.coordinator)):  # fmt: skip
        if not kills:
            continue
        launcher = "ray" if kind in ("worker", "coordinator") else "inline"
        campaign = Campaign(kind, settings(launcher, args.samples, args.turns), root, size(reference), kills, args.seed)
        began = time.monotonic()
        getattr(campaign, kind)()
        taken = time.monotonic() - began
        found, duplicated = on_disk(campaign.run_dir)
        lost = [at for at, turn in campaign.noted.items() if found.get(at) != turn]
        conversations = RunDir(campaign.run_dir).conversations(read_prompts(PROMPTS))
        rows.append(
            {
                "kind": kind,
                "kills": campaign.kills,
                "lost": len(lost),
                "duplicated": duplicated,
                "identical": found == whole and all(c.end is not None for c in conversations.values()),
                "seconds": round(taken, 1),
                "undisturbed_seconds": round(seconds[launcher], 1),
                "seconds_per_kill": (taken - seconds[launcher]) / max(campaign.kills, 1),
                "files": len(list((campaign.run_dir / "conversations").iterdir())),
            }
        )
        print(json.dumps(rows[-1]), file=sys.stderr, flush=True)
    total = Counter({name: sum(int(row[name]) for row in rows) for name in ("kills", "lost", "duplicated")})
    identical = all(row["identical"] for row in rows)
    return {"benchmark": "faults", "turns": len(whole), **total, "identical": identical, "rows": rows}


def main() -> None:
    """Print one JSON object; exit 1 if a turn was lost, said twice or said differently."""
    parse = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for kind in ("driver", "disk", "worker", "coordinator"):
        parse.add_argument(f"--{kind}", type=int, default=0, metavar="KILLS")
    parse.add_argument("--samples", type=int, default=10)
    parse.add_argument("--turns", type=int, default=20)
    parse.add_argument("--seed", type=int, default=0)
    parse.add_argument("--out", type=Path)
    args = parse.parse_args()
    root = Path(tempfile.mkdtemp(prefix="placid-faults-"))
    try:
        result = measure(args, root)
    finally:
        shutil.rmtree(root, ignore_errors=True)
    text = json.dumps(result, indent=2)
    if args.out:
        args.out.write_text(text + "\n")
    print(text)
    raise SystemExit(0 if result["identical"] and not result["lost"] + result["duplicated"] else 1)


if __name__ == "__main__":
    main()
