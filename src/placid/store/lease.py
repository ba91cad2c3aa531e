"""leases/<scope>/<generation>.json: who works on a run directory. A heartbeat, for shared file systems lose locks.

A stage that writes holds the lease of its scope and beats; a second one is refused while the first lives. The newest
generation holds. Taking the lease is the exclusive creation of the next generation, so of any number of processes one
succeeds. Only its holder writes a generation's file again, and a holder that finds a newer one ends at once.

Clocks of two hosts are never compared. A holder in this host's own table of processes is looked up there. Of any other
only its beats can tell: it lives if its file changes while this process looks, and is dead if it does not for SILENT_S.
"""

import logging
import os
import socket
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import msgspec

from placid.records import BadInputError
from placid.store import disk
from placid.store.disk import process_table

log = logging.getLogger(__name__)

BEAT_S = 5.0
"""Seconds between two beats."""
SILENT_S = 70.0
"""A holder that is not in our table of processes and has not beaten for so long, by our clock, is dead; workers on
other hosts that nobody calls have ended themselves by then (rollout.attempts.LEASE_S)."""
LOOK_S = 1.0
"""Seconds between two looks at a holder."""


class Holder(msgspec.Struct, kw_only=True):
    """Who holds a generation of a lease."""

    what: str
    """The command: study, rollout, judge, ..."""
    job: str
    """Slurm's, or ""."""
    host: str
    pid: int
    table: str
    """The table of processes that `pid` stands in: this boot of this host, and the PID namespace."""
    started: str
    """When the process began, in ticks since the boot: no clock that is set moves them."""
    beat: int = 0
    released: bool = False

    def __str__(self) -> str:
        job = f"Slurm job {self.job}, " if self.job else ""
        return f"`placid {self.what}` ({job}process {self.pid} on {self.host})"

    @property
    def lives(self) -> bool | None:
        """Whether its process is there; None: it cannot be seen from here."""
        if not self.table or self.table != process_table():
            return None
        try:
            os.kill(self.pid, 0)
        except ProcessLookupError:
            return False
        except PermissionError:  # another user's
            pass
        state, started = process_state(self.pid)
        if not started:  # /proc hides the processes of others
            return None
        return state not in "ZX" and started == self.started


def this_process(what: str) -> Holder:
    """As a holder."""
    return Holder(
        what=what, job=os.environ.get("SLURM_JOB_ID", ""), host=socket.gethostname(), pid=os.getpid(),
        table=process_table(), started=process_state(os.getpid())[1],
    )  # fmt: skip


class Lease:
    """The lease of one scope of a run directory. Creating the object touches nothing."""

    def __init__(self, run_dir: Path, scope: str = "run") -> None:
        """scope: what its holder writes: run, judge-<id>, report, tables."""
        self._run, self._folder = run_dir, run_dir / "leases" / scope
        self._generation = 0
        self._beaten = 0.0

    def holder(self, patience_s: float = 0) -> Holder | None:
        """Who works on it; None if nobody alive. Takes up to SILENT_S where only beats can tell, and waits so much
        longer for one that lives."""
        return self._watch(patience_s)[1]

    def take(self, what: str, patience_s: float = 0) -> None:
        """Become the holder; waits so long for one that should be dead.

        Raises:
            BadInputError: another one is alive.
        """
        me = this_process(what)
        while True:
            newest, holder = self._watch(patience_s)
            if holder is not None:
                raise BadInputError(f"{self._run} is being worked on by {holder}; wait for it or stop it")
            made = disk.create(self._file(newest + 1), disk.seal(msgspec.to_builtins(me)))
            # a process that slept between looking and creating may have made a generation that was there before
            if made and max(self._generations()) == newest + 1:
                break
        self._holder, self._generation, self._beaten = me, newest + 1, _clock()
        for generation in self._generations():
            if generation < self._generation:
                self._file(generation).unlink(missing_ok=True)

    def beat(self) -> bool:
        """Say that this process lives; False if another one holds the lease now, or the run directory is gone."""
        if max(self._generations(), default=0) != self._generation:
            return False
        self._holder.beat += 1
        disk.write_json(self._file(self._generation), msgspec.to_builtins(self._holder))
        self._beaten = _clock()
        return True

    def guard(self) -> None:
        """Before a record is written: a process that was stopped for long (SIGSTOP, a laptop's lid) may have been taken
        for dead meanwhile, and must not write before it knows."""
        if _clock() - self._beaten > SILENT_S / 2:
            self._end_unless(self.beat())

    def release(self) -> None:
        """Nobody holds it any more, unless another one does."""
        self._holder.released = True
        with suppress(OSError):  # a full disk: then its process is seen to be gone
            self.beat()

    def keep(self, done: threading.Event) -> None:
        """Beat until `done`; ends this process if another one has the lease."""
        while not done.wait(BEAT_S):
            try:
                held = self.beat()
            except OSError as error:  # a full disk or a stale handle: the stage itself will meet it too
                log.warning("no beat: %s", error)
                held = max(self._generations(), default=self._generation) == self._generation
            self._end_unless(held or done.is_set())

    def _end_unless(self, held: bool) -> None:
        if not held:
            log.error("%s was given to another process while this one could not be heard; it ends now", self._run)
            os._exit(1)

    def _watch(self, patience_s: float) -> tuple[int, Holder | None]:
        """The newest generation, and its holder if it lives."""
        began = since = _clock()
        seen: tuple[int, bytes] | None = None
        changed = False
        while True:
            newest = max(self._generations(), default=0)
            data = self._read(newest)
            holder, now = _holder(data), _clock()
            if data is None or (holder is not None and (holder.released or holder.lives is False)):
                return newest, None
            if (newest, data) != seen:
                changed, since = seen is not None, now
                seen = (newest, data)
            there = holder is not None and holder.lives is True
            if not there and now - since >= SILENT_S:
                return newest, None
            if (there or changed) and now - began >= patience_s:
                return newest, holder or Holder(what="?", job="", host="?", pid=0, table="", started="")
            if now == began:
                log.warning("looking whether %s still works on %s (up to %.0f s)", holder, self._run, SILENT_S)
            time.sleep(LOOK_S)

    def _file(self, generation: int) -> Path:
        return self._folder / f"{generation}.json"

    def _generations(self) -> list[int]:
        return [int(file.stem) for file in self._folder.glob("*.json") if file.stem.isdigit()]

    def _read(self, generation: int) -> bytes | None:
        try:
            return self._file(generation).read_bytes()
        except FileNotFoundError:
            return None


@contextmanager
def leased(run_dir: Path, what: str, scope: str = "run") -> Iterator[None]:
    """Hold a lease of `run_dir` and beat. In a Slurm job a former holder may need a minute to be seen dead.

    Raises:
        BadInputError: another one is alive.
    """
    lease, done = Lease(run_dir, scope), threading.Event()
    lease.take(what, SILENT_S + 2 * BEAT_S if "SLURM_JOB_ID" in os.environ else 0)
    disk.sweep(run_dir)
    disk.sweep(run_dir.parent, "")
    thread = threading.Thread(target=lease.keep, args=(done,), name=f"lease {scope}", daemon=True)
    thread.start()
    disk.GUARDS.append(lease.guard)
    try:
        yield
    finally:
        disk.GUARDS.remove(lease.guard)
        done.set()
        thread.join()
        lease.release()


def _holder(data: bytes | None) -> Holder | None:
    """None: no file, or a damaged one: its beats alone can tell then."""
    value = disk.unseal(data) if data else None
    try:
        return msgspec.convert(value, Holder) if value else None
    except msgspec.ValidationError:
        return None


def process_state(pid: int) -> tuple[str, str]:
    """State and start of a process (fields 3 and 22 of /proc/<pid>/stat), empty where they cannot be read."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
    except OSError:
        return "", ""
    return fields[0], fields[19]


def _clock() -> float:
    """Seconds on a clock that nobody sets and that does not stop while the machine sleeps."""
    return time.clock_gettime(time.CLOCK_BOOTTIME) if sys.platform == "linux" else time.monotonic()
