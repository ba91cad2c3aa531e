"""docs/faults.md: what can go wrong, what becomes of it, what the user sees, what a rerun does.

The rows stand in tests/data/faults.toml, a table for each part of the house. A test that brings one about calls
`check(part, fault, state, sees)`, which holds the row to what happened. After a change of rows:

    PYTHONPATH=src:tests python tests/faults.py > docs/faults.md
"""

import tomllib
from pathlib import Path

FILE = Path(__file__).with_name("data") / "faults.toml"
TITLES = {
    "judge": "The judge's API",
    "engine": 'The server that answers (`engine.kind = "http"`)',
    "files": "Files that come in",
    "slurm": "Slurm, Ray and the machine",
}
ROWS = tomllib.loads(FILE.read_text(encoding="utf-8")) if FILE.is_file() else {}
HEAD = """# What can go wrong, and what becomes of it

Written by tests/faults.py from tests/data/faults.toml; a test brings about every row and holds it to what happened.
One faulty item is that item's state and the run goes on; only a wrong key, model or setting stops a run. Exit codes: 0 done,
2 wrong input or an empty account (nothing changes until you change it), 75 try again later (Slurm does), 1 failed.
"""


def check(part, fault, state, sees):
    """This fault became this state, and this is what the user saw."""
    (row,) = [row for row in ROWS[part] if row["fault"] == fault]
    assert (row["state"], row["sees"]) == (state, sees), f"tests/data/faults.toml, {part}: {fault}"


def page():
    """The whole page."""
    parts = [HEAD]
    for part, title in TITLES.items():
        if part in ROWS:
            lines = [f"## {title}\n", "| fault | state | what you see | what a rerun does |", "|---|---|---|---|"]
            cells = [
                [row[name].replace("|", "\\|") for name in ("fault", "state", "sees", "rerun")] for row in ROWS[part]
            ]
            parts.append("\n".join([*lines, *(f"| {' | '.join(row)} |" for row in cells)]) + "\n")
    return "\n".join(parts)


if __name__ == "__main__":
    print(page(), end="")
