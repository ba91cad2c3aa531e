"""One adapter per treatment, same recipe, different rows: BCT and its instruct-only control.

Reads   runs/<name>/pairs
Writes  checkpoints/<name>/<arm>/step_<n>, runs/<name>/adapters.json
Cost    2 CPU cores, the organism: about a minute per treatment (946 rows; LAB.md)

Use     python launch/train.py CONFIG [--dotted.key VALUE ...], the same as placid train
"""

import sys

from placid.cli import main

if __name__ == "__main__":
    main(["train", *sys.argv[1:]])
