"""Conversations that crossed the threshold, continued from the same turn with different histories.

Reads   runs/<name>/conversations, verdicts
Writes  runs/<name>/conversations, interventions.json, and rewrites/ where a model rewrites
Cost    one more start of the engines, then as the rollouts; nothing where the config has no [interventions]

Use     python launch/intervene.py CONFIG [--dotted.key VALUE ...], the same as placid intervene
"""

import sys

from placid.cli import main

if __name__ == "__main__":
    main(["intervene", *sys.argv[1:]])
