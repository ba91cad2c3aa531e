"""The paper, top to bottom, one stage after the other; `placid study` does the same in one process.

Use     python launch/study.py CONFIG [--dry-run] [--dotted.key VALUE ...]
Why     each stage is its own process: run them by hand, on different machines, or stop after any of them.
Cost    that of the stages; each skips what is done, so the same command goes on after a failure.
"""

import shlex
import subprocess
import sys
from pathlib import Path

from placid.study.settings import read
from placid.study.stages import stages_of


def main(words: list[str]) -> int:
    """Run, or with --dry-run only print, every stage; the exit code of the first that fails, else 0."""
    dry = "--dry-run" in words
    words = [word for word in words if word != "--dry-run"]
    for stage in stages_of(read(Path(words[0]), words[1:])):
        command = [sys.executable, "-m", "placid.cli", stage.command, *words]
        print(f"# {stage.name}: {stage.help}\n{shlex.join(command)}", flush=True)
        code = 0 if dry else subprocess.run(command, check=False).returncode
        if code:
            return code
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
