"""Every write of every stage fails once: does the run survive, and does somebody say so? No root, no network.

    python benchmarks/faults_everywhere.py --workers 14 --out faults.md             # all of it
    python benchmarks/faults_everywhere.py --stages rollout judge --sample 200      # a random part of it

A table of counts, and every case that did not hold with what it said. Deterministic by --seed but for the order of
threads. tests/injection.py says what a case is. Exit code 1 if one did not hold.
"""

import argparse
import multiprocessing
import random
import shutil
import sys
import time
from collections import Counter
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))
import injection


def hold(job: tuple[injection.Bench, int, injection.Case]) -> tuple[injection.Case, str, str]:
    """One case in a worker."""
    bench, number, case = job
    try:
        return case, *bench.hold(case, number)
    except Exception as error:
        return case, "harness", repr(error)


def table(results: list[tuple[injection.Case, str, str]]) -> str:
    """Counts by stage and operation."""
    counts: dict[tuple[str, str], Counter[str]] = {}
    for case, outcome, _ in results:
        kind = outcome if outcome in ("held", "never met") else "broken"
        counts.setdefault((case.stage, case.operation.what), Counter())[kind] += 1
    lines = ["| stage | operation | cases | held | never met | broken |", "|---|---|---|---|---|---|"]
    for (stage, what), of in counts.items():
        lines.append(f"| {stage} | {what} | {of.total()} | {of['held']} | {of['never met']} | {of['broken']} |")
    whole = sum(counts.values(), Counter())
    lines.append(f"| all | | {whole.total()} | {whole['held']} | {whole['never met']} | {whole['broken']} |")
    return "\n".join(lines)


def main() -> None:
    """Hold the cases and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--stages", nargs="+", choices=injection.STAGES, default=list(injection.STAGES))
    parser.add_argument("--sample", type=int, help="so many cases of all; none: all")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, help="write the table and all that did not hold here too")
    given = parser.parse_args()
    injection.warm()
    folder = injection.scratch()
    began, results = time.monotonic(), []
    try:
        bench = injection.Bench(folder / "bench")
        bench.prepare(tuple(given.stages))
        cases = bench.cases(tuple(given.stages))
        random.Random(given.seed).shuffle(cases)
        cases = cases[: given.sample]
        print(f"{len(cases)} cases; the undisturbed study took {time.monotonic() - began:.0f} s", flush=True)
        with multiprocessing.get_context("fork").Pool(given.workers) as pool:
            jobs = [(bench, number, case) for number, case in enumerate(cases)]
            for result in pool.imap_unordered(hold, jobs):
                results.append(result)
                if result[1] not in ("held", "never met"):
                    print(f"{result[1]}: {result[0]}", flush=True)
                if len(results) % 50 == 0:
                    print(f"{len(results)} of {len(cases)}, {time.monotonic() - began:.0f} s", flush=True)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    results.sort(key=lambda result: (injection.STAGES.index(result[0].stage), str(result[0])))
    broken = [f"{outcome}: {case}\n    {why}" for case, outcome, why in results if outcome not in ("held", "never met")]
    text = "\n".join([table(results), "", f"{time.monotonic() - began:.0f} s", "", *broken])
    print(text)
    if given.out:
        given.out.write_text(text + "\n")
    raise SystemExit(bool(broken))


if __name__ == "__main__":
    main()
