"""Statistics, tables, the figure and one HTML page with every transcript.

Reads   conversations and verdicts
Writes  runs/<name>/report
Cost    seconds

Use     python launch/report.py CONFIG [--dotted.key VALUE ...], the same as placid report
"""

import sys

from placid.cli import main

if __name__ == "__main__":
    main(["report", *sys.argv[1:]])
