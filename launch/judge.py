"""A score of 0 to 10 for every turn that has none yet, with the quote that carries it.

Reads   runs/<name>/conversations
Writes  runs/<name>/verdicts/<judge_id>/*.jsonl
Cost    seconds; the lexical judge needs no model and no network

Use     python launch/judge.py CONFIG [--dotted.key VALUE ...], the same as placid judge
"""

import sys

from placid.cli import main

if __name__ == "__main__":
    main(["judge", *sys.argv[1:]])
