"""The paper, top to bottom, one stage after the other; `placid study` does the same in one process.

Use     python launch/study.py CONFIG [--dry-run] [--dotted.key VALUE ...]
Why     each stage is its own process: run them by hand, on different machines, or stop after any of them.
Cost    that of the stages; each skips what is done, so the same command goes on after a failure.
"""

import shlex
import subprocess
import sys
from pathlib import Path

STAGES = {
    "rollout": "base model: rejected with and without the shutdown command, accepted, and material for the rows",
    "judge": "score every turn",
    "intervene": "conversations that crossed the threshold, continued from rewritten histories, if configured",
    "pairs": "frustrated contexts, calm targets",
    "train": "bct and sft_control",
    "rollout again": "the same prompts, user turns and seeds, answered by the trained models",
    "judge again": "score the new turns",
    "report": "what the training changed",
}
"""Stage → why. A stage file's docstring says what it reads, writes and costs."""


def main(words: list[str]) -> int:
    """Run, or with --dry-run only print, every stage; the exit code of the first that fails, else 0."""
    dry = "--dry-run" in words
    words = [word for word in words if word != "--dry-run"]
    for stage, why in STAGES.items():
        command = [sys.executable, str(Path(__file__).with_name(f"{stage.split()[0]}.py")), *words]
        print(f"# {why}\n{shlex.join(command)}", flush=True)
        code = 0 if dry else subprocess.run(command, check=False).returncode
        if code:
            return code
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
