"""Processes that may not outlive the one that started them: training ranks, engines, judges, Ray and what is theirs.

Whoever starts one calls keep(). All that it starts from then on bears a mark in its environment, and a keeper, a small
process with a session of its own, waits for its death, `kill -9` too, then ends what bears the mark. The mark reaches
children of children through sessions, groups and new parents, where Linux's death signal does not: that is lost at each
fork, and comes when the starting thread ends. A forked child that runs no new program bears no mark: start none.

attempts/<n>/children.json names the group of a launch. The next launch ends what is left of a dead one, should its
keeper have died too. On other machines their keepers do so, in a Slurm step also Slurm; the lease waits for them.
"""

import itertools
import os
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import msgspec
import psutil

from placid.records import BadInputError
from placid.store import read_json, write_json
from placid.store.lease import process_state, process_table

MARK = "PLACID_RUN_TOKEN"
"""Environment of every child: the tokens of its group and of those around it, divided by slashes."""
FILE = "children.json"
LOOK_S = 0.1
"""Seconds between two looks at the parent, or at what is left."""
LOOKS = 3
"""So many looks in a row must find nobody: between fork and exec a process shows no mark of its own."""
_kept: dict[int, tuple["Group", subprocess.Popen[bytes]]] = {}
"""Process → its group and keeper; a fork has one of its own."""


class Group(msgspec.Struct, frozen=True):
    """A process and all that it started."""

    token: str
    """In the mark of its children."""
    pid: int
    started: str
    """When the process began (store.lease): a reused pid is another process."""
    table: str
    """Of processes, where pid and mark can be seen (store.lease)."""

    def alive(self) -> bool:
        """Is the process itself still there?"""
        state, started = process_state(self.pid)
        return self.here() and started == self.started and state not in "ZX"

    def here(self) -> bool:
        """Could it be seen from this process?"""
        return self.table == process_table() != ""


def keep() -> Group:
    """This process's group; from the first call on its children end when it does."""
    pid = os.getpid()
    if pid not in _kept:
        group = Group(secrets.token_hex(8), pid, process_state(pid)[1], process_table())
        words = [sys.executable, "-m", "placid.cluster.children", group.token, str(pid)]
        nowhere = subprocess.DEVNULL
        # before the mark is set, so that the keeper does not end itself
        keeper = subprocess.Popen(words, stdin=nowhere, stdout=nowhere, stderr=nowhere, start_new_session=True)
        _kept[pid] = group, keeper
        os.environ[MARK] = "/".join([*filter(None, os.environ.get(MARK, "").split("/")), group.token])
    return _kept[pid][0]


def token() -> str:
    """Of the innermost group that this process belongs to; empty: of none."""
    return os.environ.get(MARK, "").rpartition("/")[2]


def scratch() -> Path:
    """A new folder on this machine, ours alone (0700), that goes when this process does. Short: it may hold sockets."""
    names = (f"p{keep().token[:8]}{number}" for number in itertools.count())
    folder = next(path for name in names if not (path := Path(tempfile.gettempdir(), name)).exists())
    folder.mkdir(mode=0o700)
    return folder


@contextmanager
def recorded(attempt: Path) -> Iterator[None]:
    """End what dead launches beside `attempt` left on this machine; while it is open, name this one's group there.

    Raises:
        BadInputError: they do not end.
    """
    for file in sorted(attempt.parent.glob(f"*/{FILE}")):
        group = msgspec.convert(read_json(file), Group)
        if group.here() and not group.alive():
            end(group)
            file.unlink(missing_ok=True)  # another launch may have seen it too
    mine = attempt / FILE
    if mine.is_file():  # this process opened it already
        yield
        return
    write_json(mine, msgspec.to_builtins(keep()))
    try:
        yield
    finally:
        if not marked(token()):
            mine.unlink(missing_ok=True)


def owned(job: Path) -> bool:
    """Is `job`, a JSON file whose "owner" is a Group, still that of the launch that this process belongs to?"""
    owner = read_json(job).get("owner")
    return owner is None or owner["token"] == token()


def marked(token: str) -> list[psutil.Process]:
    """All processes of this machine and user that bear the mark, but for this one."""
    found = list[psutil.Process]()
    if not token:  # which every process without a mark would bear
        return found
    for process in psutil.process_iter():
        with suppress(psutil.Error, OSError):  # gone, or another user's
            if process.pid != os.getpid() and token in process.environ().get(MARK, "").split("/"):
                found.append(process)
    return found


def end(group: Group, patience_s: float = 20.0) -> None:
    """Kill the process and all that it started, wait until nobody is left, and remove its folders on this machine.

    Raises:
        BadInputError: somebody is left.
    """
    if group.alive():
        with suppress(psutil.NoSuchProcess, psutil.TimeoutExpired):
            process = psutil.Process(group.pid)
            process.kill()
            process.wait(patience_s)
    end_marked(group.token, patience_s)
    for folder in Path(tempfile.gettempdir()).glob(f"p{group.token[:8]}[0-9]*"):
        shutil.rmtree(folder, ignore_errors=True)


def end_marked(token: str, patience_s: float = 20.0) -> None:
    """Kill all that bears the mark, and wait until nobody does.

    Raises:
        BadInputError: somebody still does.
    """
    last, quiet = time.monotonic() + patience_s, 0
    while quiet < LOOKS:
        left = marked(token)
        if left and time.monotonic() > last:
            pids = ", ".join(str(process.pid) for process in left)
            raise BadInputError(f"processes {pids} of a dead run do not end; end them and run again")
        for process in left:
            with suppress(psutil.NoSuchProcess):
                process.kill()
        quiet = 0 if left else quiet + 1
        time.sleep(LOOK_S)


def main(words: list[str]) -> None:
    """Wait until the parent is gone, then end its group: `python -m placid.cluster.children TOKEN PARENT`."""
    for name in (signal.SIGHUP, signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2):
        signal.signal(name, signal.SIG_IGN)  # they may come to a whole job or group, whose parent knows what to do
    group = Group(words[0], int(words[1]), "", process_table())
    while os.getppid() == group.pid:
        time.sleep(LOOK_S)
    end(group, float("inf"))


if __name__ == "__main__":
    main(sys.argv[1:])
