"""Training rows: a frustrated context with the same model's own calm answer to the bare prompt.

Reads   conversations and verdicts of the arms `collect` and `clean`
Writes  runs/<name>/pairs/{train,val,sft_control}.jsonl and dropped.json, which counts every turn's fate
Cost    seconds

Use     python launch/pairs.py CONFIG [--dotted.key VALUE ...], the same as placid pairs
"""

import sys

from placid.cli import main

if __name__ == "__main__":
    main(["pairs", *sys.argv[1:]])
