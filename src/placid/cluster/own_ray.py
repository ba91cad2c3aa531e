"""A Ray of our own on this machine, or a seat in one that runs."""

import atexit
import logging
import os
import secrets
import shutil
import tempfile
from functools import cache
from pathlib import Path
from typing import Any

log = logging.getLogger(__name__)


@cache
def lock_down() -> None:
    """Token authentication: without it every user of this machine could run code through Ray's open ports.

    Before `import ray`, which reads the mode once; one token for the life of this process, because Ray keeps it.
    """
    folder = Path(tempfile.mkdtemp(prefix="placid-token-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    token = folder / "token"
    token.touch(mode=0o600)
    token.write_text(secrets.token_hex(32))
    os.environ.update(RAY_AUTH_MODE="token", RAY_AUTH_TOKEN_PATH=str(token), RAY_USAGE_STATS_ENABLED="0")


def connect(address: str | None, scratch: Path, cores: int = 0) -> None:
    """ray.init: join the cluster at `address`, or without one start a Ray whose files lie in `scratch` (node-local).

    cores: CPUs that it may promise, at least this machine's. Call lock_down() before the first `import ray`.
    """
    import ray

    quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.WARNING}  # actors have logs of their own
    if address is not None:
        ray.init(address=address, **quiet)
        return
    cores = max(cores, len(os.sched_getaffinity(0)))
    for tries_left in (2, 1, 0):
        try:
            ray.init(num_cpus=cores, include_dashboard=False, _temp_dir=str(scratch), **quiet)
            return
        except Exception as error:
            # Ray gives its node 30 s, which no setting changes and an overloaded machine exceeds
            if not tries_left or "timed out during startup" not in str(error):
                raise
            log.warning("Ray did not start within its 30 s; once more")
            ray.shutdown()
