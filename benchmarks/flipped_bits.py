"""Flipped bits in every kind of file of a finished run: found before they are used, harmless, or silent?

    python benchmarks/flipped_bits.py --count 2000 --workers 14 --out flips.md

A table of counts and each flip that was silent or ended in a traceback; exit code 1 if there is one. Deterministic by
--seed. tests/flips.py holds the kinds and their readers. No root, no network.
"""

import argparse
import logging
import multiprocessing
import shutil
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))
import flips
import injection


def part(job: tuple[Path, Path, list[tuple[str, Path, int]]]) -> list[tuple[str, str, str]]:
    """(kind, outcome, what was said) of some flips, on a copy of the run."""
    run, folder, some = job
    logging.disable()
    own = flips.copied(run, folder)
    results = []
    for kind, name, bit in some:
        outcome, said = flips.flip(own, kind, name, bit)
        results.append((kind, outcome, f"{name} bit {bit}: {said}"))
    shutil.rmtree(folder)
    return results


def main() -> None:
    """Flip and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=2000)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, help="write the table here too")
    given = parser.parse_args()
    began = time.monotonic()
    injection.warm()
    folder = injection.scratch()
    results: list[tuple[str, str, str]] = []
    try:
        run = flips.make(folder / "bench")
        every = list(flips.flips(run, given.count, given.seed))
        parts = [every[start : start + 110] for start in range(0, len(every), 110)]
        with multiprocessing.get_context("fork").Pool(given.workers) as pool:
            jobs = [(run, folder / f"copy-{number}", some) for number, some in enumerate(parts)]
            for some in pool.imap_unordered(part, jobs):
                results += some
                print(f"{len(results)} of {given.count}, {time.monotonic() - began:.0f} s", flush=True)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    broken = sorted(f"{outcome}: {kind}: {said}" for kind, outcome, said in results if outcome in ("silent", "traceback"))
    text = "\n".join([flips.summary([(kind, outcome) for kind, outcome, _ in results]), "", *broken])
    print(text)
    if given.out:
        given.out.write_text(text + "\n")
    raise SystemExit(bool(broken))


if __name__ == "__main__":
    main()
