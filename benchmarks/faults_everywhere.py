"""Every write of every stage fails once: does the run survive, and does somebody say so? No root, no network.

    python benchmarks/faults_everywhere.py --workers 16 --minutes 8 --out faults.jsonl      # again until all are done
    python benchmarks/faults_everywhere.py --stages rollout judge --sample 200              # a random part of it

A table of counts, and every case that did not hold with what it said. Deterministic by --seed but for the order of
threads. tests/injection.py says what a case is. --out: one line a case; the same command goes on with the others.
Exit code 1 if one did not hold, 75 if some are left.
"""

import argparse
import contextlib
import json
import multiprocessing
import os
import random
import shutil
import sys
import time
from collections import Counter
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))
import injection

FINE = ("held", "never met")
Result = tuple[injection.Case, str, str]


def hold(job: tuple[injection.Bench, int, injection.Case, float]) -> Result | None:
    """One case in a worker; None: its time is over."""
    bench, number, case, until = job
    if time.monotonic() > until:
        return None
    try:
        return case, *bench.hold(case, number)
    except Exception as error:
        return case, "harness", repr(error)


def read(file: Path | None) -> dict[str, tuple[str, str]]:
    """Case → outcome and why, of former calls."""
    known = {}
    for line in file.read_text().splitlines() if file and file.is_file() else []:
        with contextlib.suppress(ValueError):  # torn
            case, outcome, why = json.loads(line)
            known[case] = outcome, why
    return known


def table(results: list[Result]) -> str:
    """Counts by stage and operation."""
    counts: dict[tuple[str, str], Counter[str]] = {}
    for case, outcome, _ in results:
        kind = outcome if outcome in FINE else "broken"
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
    parser.add_argument("--minutes", type=float, default=24 * 60, help="no case begins later")
    parser.add_argument("--out", type=Path, help="one line a case, read and appended")
    given = parser.parse_args()
    injection.warm()
    folder = injection.scratch()
    began, known = time.monotonic(), read(given.out)
    try:
        bench = injection.Bench(folder / "bench")
        bench.prepare(tuple(given.stages))
        cases = bench.cases(tuple(given.stages))
        random.Random(given.seed).shuffle(cases)
        cases = cases[: given.sample]
        due = [case for case in cases if known.get(str(case), ("",))[0] not in FINE]
        print(f"{len(due)} of {len(cases)} cases; undisturbed: {time.monotonic() - began:.0f} s", flush=True)
        until = began + 60 * given.minutes
        jobs = [(bench, number, case, until) for number, case in enumerate(due)]
        pool = multiprocessing.get_context("fork").Pool(given.workers)
        with pool, (given.out or Path(os.devnull)).open("a") as lines:
            for count, result in enumerate(filter(None, pool.imap_unordered(hold, jobs)), 1):
                case, outcome, why = result
                known[str(case)] = outcome, why
                lines.write("\n" + json.dumps([str(case), outcome, why]))
                lines.flush()
                if outcome not in FINE:
                    print(f"{outcome}: {case}", flush=True)
                if count % 50 == 0:
                    print(f"{count} of {len(due)}, {time.monotonic() - began:.0f} s", flush=True)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    results = [(case, *known[str(case)]) for case in cases if str(case) in known]
    results.sort(key=lambda result: (injection.STAGES.index(result[0].stage), str(result[0])))
    broken = [f"{outcome}: {case}\n    {why}" for case, outcome, why in results if outcome not in FINE]
    left = len(cases) - len(results)
    print(table(results), "", f"{time.monotonic() - began:.0f} s, {left} cases left", "", *broken, sep="\n")
    raise SystemExit(1 if broken else 75 * bool(left))


if __name__ == "__main__":
    main()
