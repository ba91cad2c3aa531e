"""`placid forget RUN NAME`: remove what a name of the config stands for, so that it is free for something else."""

import re
import shutil
from collections.abc import Callable
from pathlib import Path

import msgspec

from placid.records import BadInputError, Key
from placid.report.settings import treated
from placid.store import read_json, write_atomic, write_json
from placid.study.runs import StudyRun, recorded_identities, reopen_run
from placid.study.settings import ADAPTERS
from placid.study.work import adapters


class _Place(msgspec.Struct):
    """The part of a line that says whose it is: a turn's or verdict's key, or the arm of an eval's answer."""

    key: Key | None = None
    arm: str = ""


def forget(run: Path, name: str, say: Callable[[str], None]) -> None:
    """Remove an arm, a treatment with its trainings, an intervention, or a judge's verdicts from a run directory.

    Raises:
        BadInputError: no such name in this run, or another arm continues it; nothing is removed.
    """
    with reopen_run(run, [], say, "forget", alone="forget") as study:
        settings = study.settings
        if (run / "verdicts" / name).is_dir():
            shutil.rmtree(run / "verdicts" / name)
            say(f"removed all verdicts of {name}")
            return
        made = recorded_identities(study.run_dir) or {}  # what the config no longer names is there too
        known = {key.partition(".")[2]: key.partition(".")[0] for key in made}
        trained = adapters(study.run_dir)
        trainings = [arm for arm in trained if re.fullmatch(rf"{re.escape(name)}(_run\d+)?", arm)]
        if known.get(name) == "arms":
            arms = _alone(study, name)
        elif known.get(name) == "treatments":
            more = settings.train.arms if settings.train else ()
            trainings = list(dict.fromkeys([name, *trainings]))  # one that was never finished has a folder too
            arms = set(treated(trainings, more, settings.report.baseline))
        elif known.get(name) == "interventions":
            own = re.compile(rf"{re.escape(name)}_t\d+_")
            arms = {key.arm for key in study.run_dir.index() if own.match(key.arm)}
        else:
            names = [*known, *(folder.name for folder in (run / "verdicts").glob("*"))]
            raise BadInputError(f"{run} has no {name!r}; it has {', '.join(names)}")
        for pattern in ("evals/answers/*.jsonl", "verdicts/*/*.jsonl", "conversations/*.jsonl"):
            lines = sum(_remove_lines(file, arms) for file in sorted(run.glob(pattern)))
            say(f"removed {lines:,} lines of {pattern}")
        _remove_trainings(study, trainings, say)
        if known[name] == "interventions":
            (run / "interventions.json").unlink(missing_ok=True)
        # last: of a process that is killed before, the same command goes on
        kept = {key: value for key, value in made.items() if key.partition(".")[2] != name}
        write_json(run / "config.json", read_json(run / "config.json") | {"identities": kept})


def _alone(study: StudyRun, name: str) -> set[str]:
    """The arm, if nothing continues it."""
    settings = study.settings
    using = [f"arms.{arm}" for arm, its in settings.arms.items() if its.branch and its.branch.arm == name]
    using += [f"interventions.{key}" for key, chosen in settings.interventions.items() if chosen.source == name]
    if using:
        raise BadInputError(f"{using[0]} continues conversations of {name!r}; forget that one first")
    return {name}


def _remove_lines(file: Path, arms: set[str]) -> int:
    """Write a segment again without the lines of these arms; how many those were."""
    lines = file.read_bytes().splitlines(keepends=True)
    kept: list[bytes] = []
    for line in lines:
        if _arm_of(line) not in arms:
            kept.append(line)
    if len(kept) == len(lines):
        return 0
    if kept:
        write_atomic(file, b"".join(kept))
    else:
        file.unlink()
    return len(lines) - len(kept)


def _arm_of(line: bytes) -> str:
    """Whose line it is; empty: it is torn, which whoever reads it says."""
    try:
        place = msgspec.json.decode(line, type=_Place)
    except msgspec.DecodeError:
        return ""
    return place.key.arm if place.key else place.arm


def _remove_trainings(study: StudyRun, trainings: list[str], say: Callable[[str], None]) -> None:
    """Adapters and their folders."""
    known = adapters(study.run_dir)
    for arm in trainings:
        folder = study.settings.checkpoints / study.settings.name / arm
        if folder.is_dir():
            shutil.rmtree(folder)
            say(f"removed {folder}")
        known.pop(arm, None)
    if trainings and (study.run_dir.path / ADAPTERS).is_file():
        write_json(study.run_dir.path / ADAPTERS, {arm: str(folder) for arm, folder in known.items()})
