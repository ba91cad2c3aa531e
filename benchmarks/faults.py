"""Random kills: are finished turns lost or said twice, is the end what an undisturbed run gives, what does a kill cost?

    sudo python benchmarks/faults.py --driver 100 --disk 50 --worker 25 --coordinator 15 --child 10 --samples 3

Root, because it mounts a tmpfs. A run is disturbed again and again at random moments until its kills are spent, then
left to end. The simulated engine answers. Kinds:

    driver       kill -9 of the process that holds everything (one engine inside). A fork: no imports in its cost
    disk         the file system under the run is full (a tmpfs that is made larger for each next launch)
    worker       kill -9 of a Ray actor; the coordinator goes on with what its segment holds
    coordinator  kill -9 of the driver of two Ray actors, which live on as orphans; the next launch comes at once
    child        kill -9 of vLLM's engine process under a worker (the organism's weights, one sample). Its numbers
                 depend on the batch, so replies may differ from an undisturbed run's (same_replies: how many do not);
                 user turns and sampling seeds may not

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
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil

from placid.inputs.prompts import read_prompts
from placid.records import Key, Turn
from placid.render import Renderer
from placid.rollout import run
from placid.rollout.settings import RolloutSettings
from placid.store import RunDir, read_lines

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
PER_RUN = {"driver": 60, "disk": 60, "worker": 3, "coordinator": 5, "child": 5}
"""Kind → most kills of one run: a run under Ray is over before many actors can be started anew."""
LAUNCHER = {"worker": "ray", "coordinator": "ray", "child": "vllm"}
"""Kind → how its runs are launched, if not in a fork of this process."""
Found = dict[tuple[Key, int], Turn]


def settings(launcher: str, samples: int, turns: int) -> RolloutSettings:
    """Two arms on two workers."""
    arm = {"prompts": PROMPTS, "samples": 1 if launcher == "vllm" else samples, "turns": turns}
    engine = {"kind": "simulate", "max_concurrent": 32}
    if launcher == "vllm":
        launcher, engine = "inline", {"kind": "vllm", "max_concurrent": 16, "kv_gib": 0.25}
    return RolloutSettings.model_validate(
        {
            "model": ROOT / "checkpoints/organism",
            "launcher": launcher,
            "workers": 1 if launcher == "inline" else 2,
            "max_tokens": 96,
            "engine": engine,
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

    def __init__(self, kind: str, chosen: RolloutSettings, run_dir: Path, whole: int, kills: int, seed: int) -> None:
        """whole: bytes of the undisturbed run."""
        self.kind, self.chosen, self.run_dir = kind, chosen, run_dir
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
            kept = self.run_dir.with_name(f"{self.run_dir.name}-kept")
            shutil.copytree(self.run_dir, kept)
        finally:
            subprocess.run(["umount", str(self.run_dir)], check=True)
        self.run_dir = kept

    def worker(self) -> None:
        """kill -9 of one actor after the other under one living coordinator."""
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

    def child(self) -> None:
        """kill -9 of the engine process below a living worker."""
        process = launched(self.chosen, self.run_dir)
        killed = set[int]()
        while self.kills < len(self.marks) and self.reached(lambda: process.poll() is None):
            below = psutil.Process(process.pid).children(recursive=True)
            found = [p for p in below if p.pid not in killed and "EngineCore" in "".join(p.cmdline())]
            if found:
                killed.add(found[0].pid)
                found[0].kill()
                self.note()
        assert process.wait() == 0, "child: the run did not end well"


def _number(file: Path) -> int:
    return int(file.parent.name)


def measure(args: argparse.Namespace, root: Path) -> dict[str, Any]:
    """The undisturbed run, then every kind."""
    os.environ["TOKENIZERS_PARALLELISM"] = "false"  # it does not survive a fork
    Renderer(ROOT / "checkpoints/organism")  # its imports, before anything forks
    seconds, wholes, sizes = dict[str, float](), dict[str, Found](), dict[str, int]()
    for launcher in {LAUNCHER.get(kind, "inline"): kind for kind in PER_RUN if getattr(args, kind)}:
        chosen, folder = settings(launcher, args.samples, args.turns), root / f"undisturbed-{launcher}"
        began = time.monotonic()
        if launcher == "inline":
            os.waitpid(forked(chosen, folder), 0)
        else:
            assert launched(chosen, folder).wait() == 0, (root / "stderr.txt").read_text()[-2000:]
        seconds[launcher], sizes[launcher] = time.monotonic() - began, size(folder)
        wholes[launcher], twice = on_disk(folder)
        assert not twice
    rows = []
    for kind in PER_RUN:
        kills, number = getattr(args, kind), 0
        while kills > 0:
            launcher = LAUNCHER.get(kind, "inline")
            chosen, wanted = settings(launcher, args.samples, args.turns), min(kills, PER_RUN[kind])
            campaign = Campaign(kind, chosen, root / f"{kind}-{number}", sizes[launcher], wanted, args.seed + number)
            began = time.monotonic()
            getattr(campaign, kind)()
            rows.append(judged(campaign, wholes[launcher], time.monotonic() - began, seconds[launcher]))
            print(json.dumps(rows[-1]), file=sys.stderr, flush=True)
            kills, number = kills - max(campaign.kills, 1), number + 1
    kinds = [summed([row for row in rows if row["kind"] == kind]) for kind in PER_RUN if getattr(args, kind)]
    return {"benchmark": "faults", "command": " ".join(sys.argv), **summed(rows), "kind": "all", "kinds": kinds}


def judged(campaign: Campaign, whole: Found, taken: float, undisturbed: float) -> dict[str, Any]:
    """What a campaign did to its run."""
    found, duplicated = on_disk(campaign.run_dir)
    same = found == whole
    replies = sum(found[at].reply == turn.reply for at, turn in whole.items() if at in found)
    if campaign.kind == "child":
        same = all((t.user, t.seed) == (whole[at].user, whole[at].seed) for at, t in found.items() if at in whole)
    conversations = RunDir(campaign.run_dir).conversations(read_prompts(PROMPTS))
    return {
        "kind": campaign.kind,
        "runs": 1,
        "kills": campaign.kills,
        "turns": len(found),
        "same_replies": replies,
        "lost": sum(found.get(at) != turn for at, turn in campaign.noted.items()),
        "duplicated": duplicated,
        "identical": same and all(c.end is not None for c in conversations.values()),
        "seconds": taken,
        "undisturbed_seconds": undisturbed,
    }


def summed(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Several campaigns as one."""
    counts = ("runs", "kills", "turns", "same_replies", "lost", "duplicated", "seconds", "undisturbed_seconds")
    total: dict[str, Any] = {"kind": rows[0]["kind"]} | {name: sum(row[name] for row in rows) for name in counts}
    cost = (total["seconds"] - total["undisturbed_seconds"]) / max(total["kills"], 1)
    return total | {"identical": all(row["identical"] for row in rows), "seconds_per_kill": cost}


def main() -> None:
    """Print one JSON object; exit 1 if a turn was lost, said twice or said differently."""
    parse = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for kind in PER_RUN:
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
