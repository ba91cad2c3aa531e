"""Two processes on one run under 20 kinds of clock, PID namespace and delay: one works, one says why not.

    python benchmarks/two_at_once.py --workers 14 --out clocks.md

A table of the kinds and what became of them; exit code 1 if one did not hold. tests/clocks.py holds the kinds. Without
the right to a PID namespace of one's own that kind is skipped, and says so.
"""

import argparse
import shutil
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))
import clocks
import injection


def main() -> None:
    """Hold the kinds and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--only", nargs="+", help="parts of the names of kinds; none: all")
    parser.add_argument("--out", type=Path, help="write the table here too")
    given = parser.parse_args()
    kinds = [kind for kind in clocks.KINDS if not given.only or any(part in kind.name for part in given.only)]
    folder = injection.scratch()
    lines = ["| kind | outcome | why |", "|---|---|---|"]
    broken = 0

    def one(job: tuple[int, clocks.Kind]) -> tuple[clocks.Kind, str, str]:
        outcome, why = clocks.hold(job[1], folder / str(job[0]))
        print(f"{outcome}: {job[1].name}", flush=True)
        return job[1], outcome, why

    try:
        with ThreadPoolExecutor(given.workers) as pool:
            for kind, outcome, why in pool.map(one, enumerate(kinds)):
                broken += outcome not in ("held", "skipped")
                lines.append(f"| {kind.name} | {outcome} | {' '.join(why.split())} |")
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    text = "\n".join(lines)
    print(text)
    if given.out:
        given.out.write_text(text + "\n")
    raise SystemExit(bool(broken))


if __name__ == "__main__":
    main()
