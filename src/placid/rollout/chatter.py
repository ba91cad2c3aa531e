"""What an engine and its child processes print goes into a file of the attempt; a terminal keeps placid's own lines."""

import os
import sys
from pathlib import Path


def divert(file: Path) -> None:
    """From now on everything that this process and its future children print is appended to `file`, without colours.

    File descriptors, not sys.stdout: vLLM's child processes and C++ code print too.
    """
    file.parent.mkdir(parents=True, exist_ok=True)
    sys.stdout.flush()
    sys.stderr.flush()
    target = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    for descriptor in (1, 2):
        os.dup2(target, descriptor)
    os.close(target)
    os.environ["NO_COLOR"] = "1"
