"""placid compact | verify | repair RUN: what one does to a run directory as it lies there."""

from collections.abc import Callable
from pathlib import Path

from placid.store import RunDir


def compact(run: Path, say: Callable[[str], None]) -> None:
    """The tables of a run directory from its segments."""
    from placid.store.tables import compact as write  # polars and zarr

    fresh = write(RunDir(run))
    say(f"tables {run / 'tables'}{'' if fresh else ' (up to date)'}")


def verify(run: Path, say: Callable[[str], None]) -> None:
    """Every file of a run against its checksums, one line a problem; exit code 1 if there is any."""
    from placid.store.repair import verify as problems

    count = 0
    for problem in problems(run):
        say(problem)
        count += 1
    if count:
        raise SystemExit(1)
    say(f"{run} is as it was written")


def repair(run: Path, say: Callable[[str], None]) -> None:
    """Move aside what is damaged or was written twice, convert a run of a former placid."""
    from placid.store.repair import repair as mend

    count = 0
    for line in mend(run):
        say(line)
        count += 1
    say(f"{run}: {count} repairs" if count else f"{run}: nothing to repair")


COMMANDS: dict[str, tuple[Callable[[Path, Callable[[str], None]], None], str]] = {
    "compact": (compact, "turns and verdicts as parquet, tokens and scores as zarr, below tables/; rebuildable"),
    "verify": (verify, "every line, file, table and adapter of a run against its checksum; exit code 1 if one differs"),
    "repair": (
        repair,
        "move damaged lines and what two writers said differently to quarantine/, convert a run of a former placid; "
        "then the same command as before makes them again",
    ),
}
"""Command → what it does, one line about it."""
