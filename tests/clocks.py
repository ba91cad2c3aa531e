"""Two processes on one run under 20 kinds of clock, namespace and delay: one works, the other says why not.

The first is a real `placid rollout` that is slow enough to be met; the second is the same command. A kind changes what
one of them is told of the time, the host or the table of processes, through a sitecustomize of this module's own.
"""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import injection

ROOT = injection.ROOT
SITE = """
import os, time
ahead, rate, boot = (float(os.environ.get(name, start)) for name, start in (("AHEAD", 0), ("RATE", 1), ("BOOT", 0)))
began = time.time()
for name in ("time", "monotonic"):
    def changed(real=getattr(time, name), ahead=ahead if name == "time" else boot):
        start = real()
        return lambda: start + (real() - start) * rate + ahead
    setattr(time, name, changed())
real_ns = time.time_ns
time.time_ns = lambda: real_ns() + int(ahead * 1e9)
real_clock = time.clock_gettime
first = real_clock(time.CLOCK_BOOTTIME)
time.clock_gettime = lambda which: first + (real_clock(which) - first) * rate + boot
if "HOST" in os.environ:
    import socket
    socket.gethostname = lambda: os.environ["HOST"]
if "TABLE" in os.environ:
    import placid.store.disk, placid.store.lease
    placid.store.disk.process_table = placid.store.lease.process_table = lambda: os.environ["TABLE"]
if "SILENT" in os.environ:
    import placid.store.lease
    placid.store.lease.SILENT_S, placid.store.lease.BEAT_S = float(os.environ["SILENT"]), 0.2
    placid.store.lease.LOOK_S = 0.1
"""
QUICK = {"SILENT": "3"}
"""Seconds until a holder that cannot be seen is dead, in place of 70, for both; it beats every 0.2 s."""


@dataclass(frozen=True)
class Kind:
    """What the two are told, and how the first one fares before the second starts."""

    name: str
    first: dict[str, str]
    second: dict[str, str]
    signals: tuple[str, ...] = ()
    """stop, kill: sent to the first; continue: sent to it once the second has ended."""
    both_end: bool = False
    """The first is dead or superseded, so the second works."""
    namespace: bool = False
    """The second has a table of processes of its own (unshare), where this is allowed."""


def _far(table: str) -> dict[str, str]:
    return {**QUICK, "TABLE": table}


KINDS = (
    Kind("equal clocks", {}, {}),
    Kind("first 90 s behind", {"AHEAD": "-90"}, {}),
    Kind("first 120 s ahead", {"AHEAD": "120"}, {}),
    Kind("first an hour behind", {"AHEAD": "-3600"}, {}),
    Kind("first a year ahead", {"AHEAD": "31536000"}, {}),
    Kind("second a day ahead", {}, {"AHEAD": "86400"}),
    Kind("second at 1970", {}, {"AHEAD": "-1796000000"}),
    Kind("second's boot an hour ago", {}, {"BOOT": "3600"}),
    Kind("first's boot before", {"BOOT": "-100"}, {}),
    Kind("first's clock slow", {"RATE": "0.5"}, {}),
    Kind("second's clock fast", {}, {"RATE": "20"}),
    Kind("another host, equal clocks", {**_far("a"), "HOST": "a"}, {**_far("b"), "HOST": "b"}),
    Kind("another host, a day ahead", {**_far("a"), "HOST": "a", "AHEAD": "86400"}, {**_far("b"), "HOST": "b"}),
    Kind("another host, a day behind", {**_far("a"), "HOST": "a"}, {**_far("b"), "HOST": "b", "AHEAD": "86400"}),
    Kind("another table, one host name", _far("a"), _far("b")),
    Kind("no table of processes", _far(""), _far("")),
    Kind("a PID namespace", QUICK, QUICK, namespace=True),
    Kind("first stopped, then goes on", {}, {}, ("stop", "continue")),
    Kind("first killed", {}, {}, ("kill",), both_end=True),
    Kind(
        "first killed on another host", {**_far("a"), "HOST": "a"}, {**_far("b"), "HOST": "b"}, ("kill",), both_end=True
    ),
    Kind("first stopped on another host, given up, goes on", _far("a"), _far("b"), ("stop", "continue"), both_end=True),
)


def namespaces() -> bool:
    """Whether this user may have a table of processes of its own."""
    if not shutil.which("unshare"):
        return False
    return subprocess.run([*UNSHARE, "true"], capture_output=True).returncode == 0


UNSHARE = ("unshare", "--user", "--map-root-user", "--pid", "--fork", "--mount-proc")


def start(place: Path, told: dict[str, str], out: str, words: tuple[str, ...] = ()) -> "subprocess.Popen[str]":
    """`placid rollout` of the config in `place`."""
    site = place / "site"
    site.mkdir(exist_ok=True)
    (site / "sitecustomize.py").write_text(SITE)
    env = {**os.environ, **told, "PYTHONPATH": f"{site}{os.pathsep}{ROOT / 'src'}"}
    command = [*words, sys.executable, "-m", "placid.cli", "rollout", str(place / "study.toml")]
    with (place / out).open("w") as file:
        return subprocess.Popen(command, cwd=ROOT, env=env, stdout=file, stderr=subprocess.STDOUT, text=True)


def turns(run: Path) -> list[tuple[str, int]]:
    """(key, turn) of every whole line."""
    lines = [line for file in run.glob("conversations/*.jsonl") for line in file.read_bytes().splitlines(True)]
    rows = [json.loads(line) for line in lines if line.endswith(b"\n")]
    return [(json.dumps(row["key"]), row["turn"]) for row in rows]


def hold(kind: Kind, folder: Path, limit_s: float = 240) -> tuple[str, str]:
    """(outcome, why): held, skipped, or what is broken."""
    if kind.namespace and not namespaces():
        return "skipped", "no PID namespaces for this user here"
    folder.mkdir(parents=True)
    rows = (ROOT / "configs/prompts/organism_heldout.jsonl").read_text().splitlines()[:3]
    (folder / "prompts.jsonl").write_text("\n".join(rows) + "\n")
    (folder / "study.toml").write_text(
        f'name = "run"\nroot = "{folder / "runs"}"\nmodel = "{ROOT / "checkpoints/organism"}"\n'
        f'prompts = "{folder / "prompts.jsonl"}"\nsamples = 1\nturns = 8\nlauncher = "inline"\n'
        '[engine]\nkind = "simulate"\nreply_s = 0.9\nmax_concurrent = 3\n[arms.base]\n[arms.accept]\ncondition = "accept"\n'
    )
    run = folder / "runs" / "run"
    first = start(folder, kind.first, "first.txt")
    try:
        return _hold(kind, folder, run, first, limit_s)
    finally:
        if first.poll() is None:
            first.send_signal(signal.SIGCONT)
            first.kill()
            first.wait()


def _hold(kind: Kind, folder: Path, run: Path, first: "subprocess.Popen[str]", limit_s: float) -> tuple[str, str]:
    last = time.monotonic() + limit_s
    while not turns(run):  # it works
        if first.poll() is not None or time.monotonic() > last:
            return "the first did not start", (folder / "first.txt").read_text()[-800:]
        time.sleep(0.02)
    if "stop" in kind.signals:
        first.send_signal(signal.SIGSTOP)
    if "kill" in kind.signals:
        first.kill()
        first.wait()
    second = start(folder, kind.second, "second.txt", UNSHARE if kind.namespace else ())
    code = second.wait(max(1.0, last - time.monotonic()))
    if "continue" in kind.signals:
        first.send_signal(signal.SIGCONT)
    first_code = first.wait(max(1.0, last - time.monotonic()))
    told = (folder / "second.txt").read_text()
    seen = turns(run)
    if len(seen) != len(set(seen)):
        return "twice", f"{len(seen)} lines, {len(set(seen))} turns"
    if "Traceback" in told:
        return "traceback", told[-800:]
    if kind.both_end:
        worked, other = code, first_code
    else:
        worked, other = first_code, code
    if worked != 0 or other == 0:
        return "not one of two", f"first {first_code}, second {code}: {told[-800:]}"
    if not kind.both_end and (code != 2 or "is being worked on by" not in told):
        return "no reason given", f"exit code {code}: {told[-800:]}"
    return "held", ""
