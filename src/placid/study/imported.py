"""The command line of what no study made: `placid import FILE`, and `placid train RECIPE --rows FILE --out FOLDER`."""

from collections.abc import Callable, Sequence
from pathlib import Path

from placid.config import canonical, file_sha, load
from placid.inputs.names import file_name, is_plain
from placid.pairs import asked, check_apart, read_pairs
from placid.records import BadInputError
from placid.report.settings import ReportSettings
from placid.rollout.transcripts import Imported, bring_in
from placid.store import RunDir
from placid.store.disk import fresh_folder, sweep
from placid.study.identity import identities
from placid.study.runs import UNKNOWN, manifest
from placid.study.settings import StudySettings
from placid.train import launch
from placid.train.settings import TrainSettings


def import_run(file: Path, out: Path, tag: str, say: Callable[[str], None]) -> None:
    """Transcripts made elsewhere as a run directory of their own.

    Raises:
        BadInputError: a bad line, or the run exists.
    """
    found = import_(file, out, tag)
    say(f"{found.conversations} conversations, {found.turns} turns in {out}; placid judge {out} grades them")
    if found.judge_id:
        say(f"{found.scored} scores came along and are the report's, as judge {found.judge_id}; placid report {out}")
        say(f"another judge's, once it graded: placid report {out} --report.judge ID")


def train_rows(recipe: Path, rows: Path, out: Path | None, overrides: list[str], say: Callable[[str], None]) -> Path:
    """Train by a recipe of configs/train/ on one file of rows; the finished step folder below `out`.

    overrides: keys of the recipe. A val.jsonl beside the rows is what the validation loss is told on.

    Raises:
        BadInputError: no such rows, no `out`, or a recipe that cannot be trained.
    """
    if out is None:
        raise BadInputError("train --rows FILE needs --out FOLDER, where the adapter is kept")
    if not rows.is_file():
        there = ", ".join(sorted(path.name for path in rows.glob("pairs/*.jsonl"))) if rows.is_dir() else ""
        name = f"; name one of those in {rows / 'pairs'}: {there}" if there else "; placid pairs RUN makes them"
        raise BadInputError(f"--rows {rows} is no file of rows{name}")
    settings = load(recipe, TrainSettings, overrides)
    val = rows.with_name("val.jsonl")
    kept = read_pairs(val) if val.is_file() and val != rows and val.stat().st_size else []
    check_apart(rows, [(where, asked(pair)[0]) for where, pair in kept])
    step = launch(settings, rows, out, out / "train.txt", val if settings.loss != "dpo" else None)
    say(f"adapter {step}; with arms.NAME.adapter a study holds conversations with it")
    return step


def import_(file: Path, out: Path, tag: str) -> Imported:
    """Transcripts made elsewhere as the run directory `out`, all of it or nothing.

    Raises:
        BadInputError: a bad line, or `out` exists.
    """
    if out.exists():
        raise BadInputError(f"{out} exists; choose another --out")
    if not is_plain(out.resolve().name):
        raise BadInputError(
            f"--out {str(out)!r}: a run's own folder has a plain name; expected e.g. {file_name(out.name)}"
        )
    sweep(out.parent, "")
    with fresh_folder(out) as fresh:
        imported = bring_in(file, fresh, tag)
        inputs = {path.name: file_sha(path) for path in (file, fresh / "prompts.jsonl")}
        settings = StudySettings(
            name=out.resolve().name, root=out.parent, model=UNKNOWN, tag=tag, prompts=out / "prompts.jsonl",
            arms={}, turns=imported.longest, report=everything(imported.arms, imported.judge_id),
        )  # fmt: skip
        RunDir(fresh).begin(canonical(settings), identities(canonical(settings), inputs), manifest(inputs))
        fresh.rename(out)
    return imported


def everything(arms: Sequence[str], judge_id: str) -> ReportSettings:
    """A report that shows every arm and compares each with the baseline: no name is special outside a study.

    judge_id: of the scores that came along; empty where none did.
    """
    settings = ReportSettings()
    others = tuple(arm for arm in arms if arm != settings.baseline)
    return ReportSettings(hidden=(), treatments=others, judge=judge_id)
