"""What a Ray that placid starts on this machine needs before `import ray`."""

import atexit
import os
import secrets
import shutil
import tempfile
from functools import cache
from pathlib import Path


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
