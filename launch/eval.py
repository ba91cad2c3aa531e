"""Transfer evals of the base model and, once training has written adapters.json, of the treatments.

Reads   [evals.<name>] of the config, adapters.json
Writes  runs/<name>/evals, report/tables/evals*.csv, report/figures/figure7.*
Cost    one start of the engine, then one reply a row and arm; with a language-model judge its price

Use     python launch/eval.py CONFIG [--dotted.key VALUE ...], the same as placid eval
"""

import sys

from placid.cli import main

if __name__ == "__main__":
    main(["eval", *sys.argv[1:]])
