"""runs/<name>/lease.json: who works on a run directory. A heartbeat and no lock: shared file systems lose locks.

A stage that writes holds the lease and beats; a second one is refused while the first beats. A process that died on
this host is seen at once, one on another host when its beats stop. A holder that finds another's name in the file has
been taken for dead (its node was cut off, say) and must not write any more: it ends at once.
"""

import json
import logging
import os
import secrets
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil

from placid.records import BadInputError
from placid.store import write_json

log = logging.getLogger(__name__)

BEAT_S = 5.0
"""Seconds between two beats."""
SILENT_S = 60.0
"""A holder on another host that has not beaten for so long is dead."""
LOOK_S = 1.0
"""Seconds between two looks at a holder that should be dead."""


class Lease:
    """The lease of one run directory. Creating the object touches nothing."""

    def __init__(self, run_dir: Path) -> None:
        self._run, self._file = run_dir, run_dir / "lease.json"
        self._token = secrets.token_hex(8)

    def holder(self) -> dict[str, Any] | None:
        """Who works on it: host, pid, job (Slurm's, or ""), what, beat (seconds since 1970); None if nobody alive."""
        try:
            found = json.loads(self._file.read_text())
        except FileNotFoundError:
            return None
        return found if found["token"] != self._token and _alive(found) else None

    def take(self, what: str, patience_s: float) -> None:
        """Become the holder; waits so long for one that should be dead.

        Raises:
            BadInputError: another one is alive.
        """
        end = time.monotonic() + patience_s
        told = False
        while found := self.holder():
            if time.monotonic() >= end:
                raise BadInputError(f"{self._run} is being worked on by {describe(found)}; wait for it or stop it")
            if not told:
                log.warning("waiting for %s, which should be dead", describe(found))
                told = True
            time.sleep(LOOK_S)
        self._record = _me() | {"token": self._token, "what": what}
        self._write()

    def beat(self) -> bool:
        """Say that this process lives; False if another one holds the lease now."""
        try:
            mine = json.loads(self._file.read_text())["token"] == self._token
        except FileNotFoundError:  # somebody deleted the run directory below us
            mine = False
        if mine:
            self._write()
        return mine

    def release(self) -> None:
        """Nobody holds it any more, unless another one does."""
        if self.beat():
            self._file.unlink(missing_ok=True)

    def _write(self) -> None:
        write_json(self._file, self._record | {"beat": time.time()})


def describe(found: dict[str, Any]) -> str:
    """The holder in words."""
    job = f"Slurm job {found['job']}, " if found["job"] else ""
    return f"`placid {found['what']}` ({job}process {found['pid']} on {found['host']})"


@contextmanager
def leased(run_dir: Path, what: str) -> Iterator[None]:
    """Hold the lease of `run_dir` and beat. In a Slurm job a former holder may need a minute to be seen dead.

    Raises:
        BadInputError: another one is alive.
    """
    lease, done = Lease(run_dir), threading.Event()
    lease.take(what, SILENT_S + 2 * BEAT_S if "SLURM_JOB_ID" in os.environ else 0)

    def beat() -> None:
        while not done.wait(BEAT_S):
            try:
                alive = lease.beat()
            except OSError as error:  # a full disk or a stale handle: the stage itself will meet it too
                log.warning("no beat: %s", error)
                continue
            if not alive and not done.is_set():
                log.error("%s was given to another process while this one could not be heard; it ends now", run_dir)
                os._exit(1)

    thread = threading.Thread(target=beat, name="lease", daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()
        lease.release()


def _me() -> dict[str, Any]:
    return {
        "host": socket.gethostname(),
        "pid": os.getpid(),
        "created": psutil.Process().create_time(),
        "job": os.environ.get("SLURM_JOB_ID", ""),
    }


def _alive(found: dict[str, Any]) -> bool:
    """On this host the process itself is looked at, which guards against a reused pid; elsewhere its last beat."""
    if found["host"] != socket.gethostname():
        return time.time() - found["beat"] < SILENT_S
    try:
        return abs(psutil.Process(found["pid"]).create_time() - found["created"]) < 0.02
    except psutil.NoSuchProcess:
        return False
