"""Conversations under rejection: every arm of the config, each turn on disk when it is spoken.

Reads   the prompt files and the model of the config; adapters.json of the run, once training has written it
Writes  runs/<name>/conversations/*.jsonl, attempts/<n>/status.json
Cost    2 CPU cores, the organism: about a minute to start two engines, then 164 turns/s, with adapters 65 (LAB.md)

Use     python launch/rollout.py CONFIG [--dotted.key VALUE ...], the same as placid rollout
"""

import sys

from placid.cli import main

if __name__ == "__main__":
    main(["rollout", *sys.argv[1:]])
