"""How a job ended, and whether it comes back: `python -m placid.cluster.end RUN CODE --requeues N`, exit 0: requeue it.

What is known goes to the key `slurm` of attempts/<n>/status.json of every attempt that this start of the job made:
job, name, restart, nodes, state, why. A job that was killed before it could say so is settled from Slurm's
accounting by whoever looks next (`settle`).
"""

import argparse
import logging
import os
import re
import signal
import sys
import time
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from placid.cluster import slurm
from placid.store import read_json, write_json

log = logging.getLogger(__name__)

DRAINED = (75, 128 + signal.SIGUSR1, 128 + signal.SIGTERM, 128 + signal.SIGINT)
"""Exit codes of a stage that was told to stop: in good order, or, where it has no handler yet, by the signal itself."""
KILLED = 128 + signal.SIGKILL
NEAR_S = 90
"""A drain that ends with less time left (beside the grace) was for the time limit."""
LOST = {
    "NODE_FAIL": "a node failed",
    "OUT_OF_MEMORY": "out of memory: ask for more (memory_gb in the profile)",
    "TIMEOUT": "time limit, before the stage had drained (grace_s in the profile)",
    "CANCELLED": "cancelled",
    "PREEMPTED": "preempted before the stage had drained",
    "REQUEUED": "requeued by Slurm",
}
"""Slurm's state → what it means for the user."""


@dataclass(frozen=True)
class Job:
    """What Slurm knows of a job while its script runs."""

    state: str
    """RUNNING, or what it is becoming: CANCELLED, PREEMPTED, ..."""
    seconds_left: float
    """Until its end: the time limit, or once it is preempted that of the partition's grace."""
    preempted: bool = False
    """By a job of higher priority; it hears so while it may still drain."""


@dataclass(frozen=True)
class End:
    """How it ended."""

    state: str
    """done, requeued, stopped or failed."""
    why: str
    requeue: bool = False


def judge(code: int, job: Job, restart: int, requeues: int, grace_s: float) -> End:
    """What an exit code means, given what Slurm knows. Pure."""
    if code == 0:
        return End("done", "")
    if code == 2:
        return End("failed", "bad input or a spent budget; the job's output says what")
    if code == KILLED:
        return End("failed", "killed, most likely out of memory (memory_gb in the profile)")
    if code not in DRAINED:
        return End("failed", f"exit code {code}; the job's output ends with the reason")
    if job.state != "RUNNING":  # whoever ends it (scancel, Slurm's own requeue) decides what follows
        return End("stopped", LOST.get(job.state, job.state.lower()))
    why = "time limit" if job.seconds_left < grace_s + NEAR_S else "told to stop"
    why = "preempted" if job.preempted else why
    if restart >= requeues:
        return End("stopped", f"{why}; it came back {restart} times, which is all that requeues = {requeues} allows")
    return End("requeued", why, requeue=True)


def begin(attempt: Path, stage: str) -> None:
    """Write which stage this attempt is of, and under which job it runs, if under any: numbers are given by who comes
    first, so that a judge beside a rollout may well have the lower one.
    """
    job = {"slurm": here() | {"state": "running", "why": ""}} if "SLURM_JOB_ID" in os.environ else {}
    write_json(attempt / "status.json", {"stage": stage, **job})


def here() -> dict[str, Any]:
    """This start of this job."""
    return {
        "job": os.environ["SLURM_JOB_ID"],
        "name": os.environ.get("SLURM_JOB_NAME", ""),
        "restart": int(os.environ.get("SLURM_RESTART_COUNT", "0")),
        "nodes": os.environ.get("SLURM_JOB_NODELIST", ""),
    }


def look(job: str) -> Job:
    """What scontrol says now.

    Raises:
        slurm.SlurmError: no answer.
    """
    shown = slurm.call("scontrol", "show", "job", job)
    state = re.search(r"JobState=(\w+)", shown)
    end = re.search(r"EndTime=(\S+)", shown)
    left = float("inf")
    if end and end[1] not in ("Unknown", "N/A"):
        left = datetime.fromisoformat(end[1]).timestamp() - time.time()
    preempted = re.search(r"PreemptTime=\d", shown) is not None
    return Job(state[1] if state else "UNKNOWN", left, preempted)


def mark(run: Path, start: dict[str, Any], end: End) -> None:
    """Write the end into every attempt of that start of that job that does not have one."""
    for file, status in _attempts(run):
        if all(status["slurm"][key] == start[key] for key in ("job", "restart")):
            status["slurm"] |= {"state": end.state, "why": end.why}
            write_json(file, status)


def settle(run: Path) -> None:
    """Give an end to attempts whose job was killed before it could write one, from queue and accounting.

    Without an answer from Slurm, or where there is none, they stay as they are.
    """
    open_ = [(file, status) for file, status in _attempts(run) if status["slurm"]["state"] == "running"]
    jobs = sorted({status["slurm"]["job"] for _, status in open_})
    if not jobs or not slurm.here():
        return
    try:
        waiting, starts = slurm.queued(jobs), slurm.starts(jobs)
    except slurm.SlurmError as error:
        log.warning("how jobs %s ended is not known: %s", ", ".join(jobs), error)
        return
    for file, status in open_:
        job, restart = status["slurm"]["job"], status["slurm"]["restart"]
        known = starts.get(job, [])
        state = known[restart] if restart < len(known) else ""
        if (job in waiting and restart >= len(known) - 1) or state in ("", "RUNNING", "PENDING", "COMPLETING"):
            if job in waiting or state:
                continue
            state = "gone from the queue; this site keeps no accounting"
        end = "stopped" if state in LOST else "failed"
        status["slurm"] |= {"state": end, "why": LOST.get(state, state.lower())}
        write_json(file, status)


def _attempts(run: Path) -> list[tuple[Path, dict[str, Any]]]:
    """Every status.json that a job wrote."""
    found = [(file, read_json(file)) for file in sorted(run.glob("attempts/*/status.json"))]
    return [(file, status) for file, status in found if "slurm" in status]


def main(words: list[str]) -> int:
    """Judge, write, tell; 0 if the job shall be requeued."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", type=Path)
    parser.add_argument("code", type=int)
    parser.add_argument("--requeues", type=int, required=True)
    parser.add_argument("--grace-s", type=float, required=True)
    asked = parser.parse_args(words)
    start = here()
    try:
        job = look(start["job"])
    except slurm.SlurmError as error:
        print(f"placid: {error}", file=sys.stderr)  # noqa: T201 - the job's log
        job = Job("UNKNOWN", float("inf"))
    end = judge(asked.code, job, start["restart"], asked.requeues, asked.grace_s)
    mark(asked.run, start, end)
    print(f"placid: job {start['job']} ({start['name']}): {end.state}{': ' + end.why if end.why else ''}", flush=True)  # noqa: T201
    return 0 if end.requeue else 1


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
