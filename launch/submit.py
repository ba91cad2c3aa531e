"""The study, or one stage of it, as jobs on a Slurm cluster.

Reads   the config, the profile slurm/<site>.toml, and what sinfo says
Writes  runs/<name>/submissions/<n>: snapshot of code and config, the scripts, the jobs' output
Cost    seconds on a login node

Use     python launch/submit.py study CONFIG --site slurm/SITE.toml [--dry-run] [...], the same as placid submit
"""

import sys

from placid.cli import main

if __name__ == "__main__":
    main(["submit", *sys.argv[1:]])
