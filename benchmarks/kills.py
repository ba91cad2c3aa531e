"""SIGKILL at random moments: is anything lost, written twice or left running, and is the end that of an unkilled run?

    python benchmarks/kills.py --simulated 950 --real 50 --minutes 60

Each round is one run directory (kills.toml): every stage is killed a few times and then left to end. A simulated kill
hits a fork of this warmed process, after a random time or at a random file operation of its own; a real one hits a
process as a user starts it: `train` (one rank, every other time two), `vllm` (a rollout on the organism's weights) and
`ray` (a rollout of two actors), where the driver dies, or every other time one of its children alone.

After each kill every process of the campaign is listed, by an environment mark that each of them bears, and must be
gone within 5 s; every turn, verdict and answer that was there before must be there, unchanged and once. In the end all
tables, figures, exports and adapters must be those of two unkilled runs, wherever these two are equal. Replies of vLLM
may follow the batch, so of `vllm` only the questions are compared. Counts are added to lab/kills.json.
"""

import argparse
import collections
import contextlib
import datetime
import hashlib
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

from placid.cluster.children import MARK, marked
from placid.evals import Answered
from placid.records import Turn, Verdict
from placid.store import read_lines

HERE = Path(__file__).parent
CONFIG = str(HERE / "kills.toml")
COUNTS = HERE.parent / "lab" / "kills.json"
GONE_S = 5.0
KILLS = {"rollout": 20, "judge": 10, "pairs": 10, "eval": 10, "report": 3, "compact": 8, "export": 4}
"""Most kills of each stage in a round, in the stages' order."""
SHARE = 0.4
"""Of a stage's time, at most so much is given to it before it dies: later it would often have ended."""
REAL = ("train", "vllm", "ray")
OPERATIONS = ("open", "os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.truncate", "shutil.rmtree")
State = dict[tuple[Any, ...], str]


class Campaign:
    """All rounds of one launch."""

    def __init__(self, root: Path, seed: int) -> None:
        self.root, self.random = root, random.Random(seed)
        self.token = os.environ[MARK]
        self.counts: dict[str, collections.Counter[str]] = collections.defaultdict(collections.Counter)
        self.faults: list[str] = []
        self.seconds: dict[str, float] = {}
        self.operations: dict[str, int] = {}

    def words(self, stage: str, name: str) -> list[str]:
        """Of the command line."""
        run = str(self.root / name)
        if stage == "compact":
            return ["compact", run]
        if stage == "export":
            return ["export", run, "--to", "hf"]
        words = [stage, CONFIG, "--name", name, "--root", str(self.root), "--checkpoints", str(self.root / "trained")]
        return words

    def fork(self, stage: str, name: str, at: int | None = None, count: Path | None = None) -> int:
        """The stage in a fork of this process, killed at its file operation number `at`; its pid."""
        pid = os.fork()
        if pid:
            return pid
        log = os.open(self.root / "log.txt", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(log, 1)
        os.dup2(log, 2)
        os.setpgid(0, 0)
        done = 0

        def hook(event: str, args: tuple[Any, ...]) -> None:
            nonlocal done
            if event in OPERATIONS and str(self.root / name) in str(args[0]) and _writes(event, args):
                done += 1
                if done == at:
                    os.kill(os.getpid(), signal.SIGKILL)

        sys.addaudithook(hook)
        code = 1
        try:
            from placid import cli

            code = cli.main(self.words(stage, name))
        except SystemExit as error:
            code = int(error.code or 0)
        except BaseException:  # noqa: BLE001 - shown below
            import traceback

            traceback.print_exc()
        if count:
            count.write_text(str(done))
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code or 0)

    def whole(self, stage: str, name: str) -> None:
        """Let the stage end.

        Raises:
            RuntimeError: it does not end well.
        """
        count, began = self.root / "operations", time.monotonic()
        _, status = os.waitpid(self.fork(stage, name, count=count), 0)
        if status:
            end = (self.root / "log.txt").read_text()[-1500:]
            raise RuntimeError(f"{stage} of {name} ended with {os.waitstatus_to_exitcode(status)}: {end}")
        self.seconds.setdefault(stage, time.monotonic() - began)
        self.operations.setdefault(stage, int(count.read_text()))

    def simulated(self, stage: str, name: str) -> bool:
        """Kill the stage once; False if it ended before."""
        count = self.counts[stage]
        before = state(self.root / name)
        by_time = self.random.random() < 0.5
        at = None if by_time else self.random.randint(1, max(1, self.operations[stage]))
        pid = self.fork(stage, name, at)
        end = time.monotonic() + (self.random.uniform(0, SHARE * self.seconds[stage]) if by_time else 600)
        found = status = 0
        while not found and time.monotonic() < end:
            found, status = os.waitpid(pid, os.WNOHANG)
            time.sleep(0.002)
        if not found:
            os.kill(pid, signal.SIGKILL)
            _, status = os.waitpid(pid, 0)
        if not os.WIFSIGNALED(status):
            if status:
                self.faults.append(f"{stage} of {name} left with {os.waitstatus_to_exitcode(status)}")
            return False
        self.after(count, stage, name, before)
        return True

    def after(self, count: collections.Counter[str], stage: str, name: str, before: State) -> None:
        """What a kill left."""
        end = time.monotonic() + GONE_S
        while (left := marked(self.token)) and time.monotonic() < end:
            time.sleep(0.05)
        now = state(self.root / name, lambda key: count.update(twice=1) or self.faults.append(f"twice: {key}"))
        lost = [key for key, text in before.items() if now.get(key) != text]
        count.update(kills=1, lost=len(lost), orphans=len(left))
        if left or lost:
            shown = [" ".join(process.cmdline())[:80] for process in left if process.is_running()]
            self.faults.append(f"{stage} of {name}: left running {shown}, lost {lost[:3]}")
        for process in left:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()

    def round(self, number: int, most: int) -> None:
        """One run directory, killed at most so many times."""
        name = f"run-{number}"
        for stage, kills in KILLS.items():
            for _ in range(kills):
                if most <= 0 or not self.simulated(stage, name):
                    break
                most -= 1
            self.whole(stage, name)
        self.counts["simulated"].update(left_over=len(left_over(self.root / name)))
        self.compared("simulated", name, files(self.root / name))
        shutil.rmtree(self.root / name)

    def compared(self, kind: str, name: str, found: State) -> None:
        """Is the end that of the unkilled runs?"""
        wanted = self.reference
        keys = {key for key in wanted.keys() | found.keys() if str(key) not in self.free}
        other = [key for key in keys if wanted.get(key) != found.get(key)]
        self.counts[kind].update(ends=1, ends_unequal=bool(other))
        if other:
            self.faults.append(f"{name} ends otherwise: {sorted(map(str, other))[:8]}")

    def references(self) -> None:
        """Two unkilled runs: what differs between them says nothing."""
        ends = []
        for name in ("unkilled-0", "unkilled-1"):
            for stage in KILLS:
                self.whole(stage, name)
            ends.append(files(self.root / name))
        self.reference = {key: text for key, text in ends[0].items() if ends[1].get(key) == text}
        self.free = sorted(str(key) for key in ends[0].keys() | ends[1].keys() if key not in self.reference)
        print(f"unkilled: {self.seconds} s, {self.operations} operations; not compared: {self.free}", flush=True)

    def real(self, kind: str, number: int) -> None:
        """One run of real processes: killed once, looked at, and left to end."""
        name, count, alone = f"{kind}-{number}", self.counts[kind], number % 2 == 1
        stage = "train" if kind == "train" else "rollout"
        if kind == "train":  # of the rows of an unkilled run
            shutil.copytree(self.root / "unkilled-0", self.root / name, ignore=shutil.ignore_patterns("attempts"))
            more = ["--train.recipe.processes", "2" if alone else "1"]
        elif kind == "vllm":
            more = ["--engine.kind", "vllm", "--engine.kv_gib", "0.2"]
        else:
            more = ["--launcher", "ray", "--workers", "2"]
        words = [sys.executable, "-m", "placid.cli", *self.words(stage, name), *more]
        before = state(self.root / name)
        log = (self.root / "log.txt").open("ab")
        process = subprocess.Popen(words, stdout=log, stderr=log)
        end = time.monotonic() + self.random.uniform(1, self.seconds.get(kind, 45))
        while process.poll() is None and time.monotonic() < end:
            time.sleep(0.02)
        below = [p for p in marked(self.token) if p.pid != process.pid and "cluster.children" not in p.cmdline()]
        if process.poll() is None:
            if alone and below and kind != "vllm":  # the launch itself must end well, or be repeated
                self.random.choice(below).kill()
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(timeout=120)
            process.kill()
            process.wait()
            self.after(count, stage, name, before)
        began = time.monotonic()
        if subprocess.run(words, stdout=log, stderr=log, check=False).returncode:
            self.faults.append(f"{name} did not end: {(self.root / 'log.txt').read_text()[-800:]}")
        self.seconds.setdefault(kind, max(5.0, time.monotonic() - began))
        if kind == "train":
            (step,) = (self.root / "trained" / name / "bct").glob("step_*")
            wanted = self.counts["train digests"]
            wanted[hashlib.sha256((step / "loss.csv").read_bytes()).hexdigest()[:8] + (" x2" if alone else " x1")] += 1
        else:
            said = {key: text for key, text in state(self.root / name).items() if key[0] == "conversations"}
            whole = {key: text for key, text in self.reference.items() if key[0] == "conversations"}
            same = said == whole if kind == "ray" else {key[2] for key in said} == {key[2] for key in whole}
            count.update(ends=1, ends_unequal=not same)
            if not same:
                self.faults.append(f"{name} ends otherwise")
        shutil.rmtree(self.root / name)


def _writes(event: str, args: tuple[Any, ...]) -> bool:
    mode, flags = (args[1], args[2]) if event == "open" else ("w", 0)
    return any(letter in str(mode or "") for letter in "wax+") or bool(isinstance(flags, int) and flags & 3)


def state(run: Path, twice: Callable[[Any], object] = lambda _: None) -> State:
    """Every turn, verdict and answer that is on disk; what is there a second time is told."""
    found: State = {}
    for folder, kind in (("conversations", Turn), ("verdicts", Verdict), ("evals/answers", Answered)):
        for file in sorted((run / folder).rglob("*.jsonl")):
            if kind is Verdict and file.parent.parent.name != "verdicts":
                continue  # a judge's own ledger
            with contextlib.suppress(FileNotFoundError):  # an empty segment is removed
                for record in read_lines(file, kind):
                    place = (record.arm, record.ask) if isinstance(record, Answered) else (str(record.key), record.turn)
                    key = (folder, file.parent.name if kind is Verdict else "", *place)
                    if key in found:
                        twice(key)
                    found[key] = str(record)
    return found


def files(run: Path) -> State:
    """What a run ends with: its records, and the content of every file that is made of them, its name left out."""
    found = state(run)
    made = [*run.glob("pairs/*"), *run.glob("report/**/*"), *run.glob("export/**/*"), *run.glob("tables/*.parquet")]
    for file in made:
        if file.is_file() and not file.name.startswith("."):
            text = file.read_bytes().replace(run.name.encode(), b"NAME")
            found[("file", str(file.relative_to(run)))] = hashlib.sha256(text).hexdigest()
    return found


def left_over(run: Path) -> list[Path]:
    """Temporary files that a killed process had not renamed yet; nobody reads them."""
    return [path for path in run.rglob("*") if path.name.endswith(".tmp")]


def warm() -> None:
    """Load what every stage loads, so that a fork costs no imports."""
    os.environ["TOKENIZERS_PARALLELISM"] = "false"  # it does not survive a fork
    from placid import cli, judge, pairs, render, report, rollout, store, study  # noqa: F401
    from placid.evals import running  # noqa: F401
    from placid.report import export, figures, gallery, page  # noqa: F401
    from placid.store import tables  # noqa: F401

    render.Renderer(HERE.parent / "checkpoints/organism")


def main() -> None:
    """Print what was counted; exit 1 if anything was lost, twice, left running or unequal."""
    parse = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parse.add_argument("--simulated", type=int, default=950)
    parse.add_argument("--real", type=int, default=0)
    parse.add_argument("--kinds", nargs="*", default=REAL, choices=REAL, help="of real kills")
    parse.add_argument("--minutes", type=float, default=60, help="no round begins later")
    parse.add_argument("--seed", type=int, default=0)
    parse.add_argument("--count", action="store_true", help="add the counts to lab/kills.json")
    args = parse.parse_args()
    if MARK not in os.environ:  # a mark can only be seen in what a program was started with
        os.environ[MARK] = f"kills{os.urandom(6).hex()}"
        os.execv(sys.executable, [sys.executable, *sys.argv])
    root, end = Path(tempfile.mkdtemp(prefix="placid-kills-")), time.monotonic() + 60 * args.minutes
    campaign = Campaign(root, args.seed)
    warm()
    try:
        campaign.references()
        number = 0
        while time.monotonic() < end and (left := args.simulated - simulated(campaign)) > 0:
            campaign.round(number, left)
            number += 1
            print(f"round {number}: {simulated(campaign)} kills, {len(campaign.faults)} faults", flush=True)
        for number in range(args.real):
            if time.monotonic() < end:
                kind = args.kinds[number % len(args.kinds)]
                campaign.real(kind, number // len(args.kinds))
                print(f"real {number + 1}: {kind} {dict(campaign.counts[kind])}", flush=True)
    finally:
        told = told_of(campaign)
        print(json.dumps(told, indent=1), *campaign.faults[:20], sep="\n", flush=True)
        if args.count:
            known = json.loads(COUNTS.read_text()) if COUNTS.is_file() else []
            COUNTS.write_text(json.dumps([*known, told], indent=1) + "\n")
        shutil.rmtree(root, ignore_errors=True)
    raise SystemExit(1 if campaign.faults else 0)


def simulated(campaign: Campaign) -> int:
    """Simulated kills so far."""
    return sum(campaign.counts[stage]["kills"] for stage in KILLS)


def told_of(campaign: Campaign) -> dict[str, Any]:
    """One entry of lab/kills.json."""
    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, cwd=HERE, check=False
    )
    counts = {kind: dict(count) for kind, count in sorted(campaign.counts.items())}
    return {
        "date": f"{datetime.datetime.now(datetime.UTC):%Y-%m-%d}",
        "commit": commit.stdout.strip(),
        "counts": counts,
    }


if __name__ == "__main__":
    main()
