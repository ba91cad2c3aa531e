"""Where uv finds torch+cpu, a word a line: the find-links folder of pip if it holds the wheel, else PyTorch's index."""

import subprocess
import sys
from pathlib import Path

WHEEL = "torch-2.13.0+cpu*.whl"


def main() -> None:
    """Print the words for uv's command line."""
    asked = [sys.executable, "-m", "pip", "config", "get", "global.find-links"]  # fails if the key is not set
    links = subprocess.run(asked, capture_output=True, text=True, check=False).stdout.split()
    found = [link for link in links if Path(link).is_dir() and any(Path(link).glob(WHEEL))]
    sys.stdout.write(f"--find-links\n{found[0]}\n" if found else "--torch-backend\ncpu\n")


if __name__ == "__main__":
    main()
