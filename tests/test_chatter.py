"""placid.rollout.chatter: what a process and its children print, Python or not, stands in the file and nowhere else."""

import subprocess
import sys

CODE = """
import os, subprocess, sys
from pathlib import Path
from placid.rollout.chatter import divert
print("before")
divert(Path(sys.argv[1]))
print("said by Python", flush=True)
sys.stderr.write("an error\\n")
os.write(1, b"said by C\\n")
subprocess.run(["sh", "-c", "echo said by a child: colour $NO_COLOR; echo its error >&2"], check=True)
"""


def test_everything_goes_into_the_file(tmp_path):
    file = tmp_path / "attempts/1/engine.log"
    for times in (1, 2):  # appended, not begun anew: two engines may share it
        done = subprocess.run([sys.executable, "-c", CODE, file], capture_output=True, text=True, check=True)
        assert (done.stdout, done.stderr) == ("before\n", "")
        lines = file.read_text().splitlines()
        assert sorted(lines) == sorted(
            ["said by Python", "an error", "said by C", "said by a child: colour 1", "its error"] * times
        )
