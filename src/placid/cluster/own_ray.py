"""A Ray of our own on this machine, or a seat in one that runs."""

import logging
import os
import secrets
import shutil
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

from placid.cluster import children
from placid.cluster.scratch import check_length, close
from placid.environment import forget_launcher, forget_ray

log = logging.getLogger(__name__)

NO_MONITOR = {"RAY_memory_monitor_refresh_ms": "0"}
"""Ray's memory monitor reads the machine and not our share of it, and kills workers for what others use. Without it the
kernel ends a process where memory is really gone, and its worker is replaced."""


@cache
def forget_others() -> None:
    """Take another Ray's and another launcher's variables out of this process. Before `import ray`."""
    forget_launcher()
    if foreign := forget_ray():
        log.warning("not used: %s; a Ray that runs is joined by --ray_address", ", ".join(sorted(foreign)))


@cache
def lock_down() -> None:
    """Loopback alone, and token authentication: else every user of this machine could run code through Ray's ports.

    Before `import ray`, which reads the mode once; one token for the life of this process, because Ray keeps it.
    """
    token = children.scratch() / "token"
    token.touch(mode=0o600)
    token.write_text(secrets.token_hex(32), encoding="utf-8")
    os.environ.update(RAY_AUTH_MODE="token", RAY_AUTH_TOKEN_PATH=str(token), RAY_USAGE_STATS_ENABLED="0")
    os.environ.pop("RAY_AUTH_TOKEN", None)
    # else "this node's address" is one that others can reach, and every server of Ray's listens on all of them
    os.environ["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"
    os.environ |= NO_MONITOR


@contextmanager
def seat(address: str | None, cores: int = 0) -> Iterator[None]:
    """While it is open `ray` is usable: the cluster at `address`, or without one a Ray of our own.

    cores: CPUs that our own may promise, at least this machine's. Afterwards Ray is left, or ended and its files gone.

    Raises:
        BadInputError: a TMPDIR that is too long for its sockets.
    """
    scratch = children.scratch()
    check_length(scratch, "TMPDIR")
    forget_others()
    if address is None:
        lock_down()
    import ray

    own = signal.getsignal(signal.SIGTERM)
    try:
        connect(address, scratch, cores)
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, own)  # Ray's handler would leave at once
        yield
    finally:
        ray.shutdown()
        shutil.rmtree(scratch, ignore_errors=True)  # Ray's last processes may still be writing their logs


def connect(address: str | None, scratch: Path, cores: int) -> None:
    """ray.init, with a second and third try where Ray was too slow. Call lock_down() before the first `import ray`."""
    import ray

    quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.WARNING}  # actors have logs of their own
    if address is not None:
        ray.init(address=address, **quiet)
        return
    cores = max(cores, len(os.sched_getaffinity(0)))
    for tries_left in (2, 1, 0):
        try:
            # below `scratch`, which is ours alone: Ray opens its own folder to everybody
            ray.init(num_cpus=cores, include_dashboard=False, _temp_dir=str(scratch / "r"), **quiet)
            close(scratch)
            return
        except Exception as error:
            # Ray gives its node 30 s, which no setting changes and an overloaded machine exceeds
            if not tries_left or "timed out during startup" not in str(error):
                raise
            log.warning("Ray did not start within its 30 s; once more")
            ray.shutdown()
