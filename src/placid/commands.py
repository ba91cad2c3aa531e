"""`placid study` and the command of every stage: open the run, make what is missing, say where it is."""

import os
from argparse import Namespace
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

from placid.records import BadInputError
from placid.study import stages, work
from placid.study.runs import StudyRun, open_run, reopen_run
from placid.study.settings import ANEW, StudySettings, read

Say = Callable[[str], None]


def study(given: Namespace, overrides: list[str], say: Say) -> None:
    """Run the whole study, print its table and where everything is."""
    from placid import plan, report

    settings = read(given.config, overrides)
    _warn_of_own_keys(settings, overrides, say)
    summary = stages.run(settings, say, lambda run: plan.record(run.settings, run.run_dir))
    folder = settings.root / settings.name
    say("")
    say(report.table_text(summary))
    say(f"page     {folder / 'report' / 'index.html'}")
    say(f"summary  {folder / 'report' / 'summary.json'}")
    if settings.train and (settings.checkpoints / settings.name).is_dir():
        say(f"adapters {settings.checkpoints / settings.name}")


def _warn_of_own_keys(settings: StudySettings, overrides: list[str], say: Say) -> None:
    """Say which arms an override of the study's samples or turns does not reach."""
    for key in ("samples", "turns"):
        shared = getattr(settings, key)
        values = {name: getattr(arm, key) for name, arm in settings.arms.items()}
        own = {name: value for name, value in values.items() if value != shared}
        if own and f"--{key}" in overrides:
            shown = ", ".join(f"--arms.{arm}.{key} {value}" for arm, value in own.items())
            say(f"--{key} is not for arms that have their own: {shown}")


def _reading(
    config: Path, overrides: list[str], say: Say, stage: str, *more: str, alone: str = ""
) -> AbstractContextManager[StudyRun]:
    """The run of a config file, or a run directory itself, to be graded or shown. more: sections that may change."""
    if config.is_dir():
        return reopen_run(config, overrides, say, stage, (*ANEW, *more), alone)
    return open_run(read(config, overrides), say, new=False, alone=alone, stage=stage)


def judge(given: Namespace, overrides: list[str], say: Say) -> None:
    """Grade the turns that have no verdict yet; with --follow also those that rollouts under way still speak."""
    if given.follow:
        os.nice(10)  # beside a rollout, grading takes the cores that the engines leave
    with _reading(given.config, overrides, say, "judge") as run:
        judges = [stage.name for stage in stages.stages_of(run.settings) if stage.command == "judge"]
        with stages.marked(run, judges[-1]):
            judge_id = work.grade(run, given.follow, any_measure=True)
    say(f"verdicts {run.run_dir.path / 'verdicts' / judge_id}")


def pairs(given: Namespace, overrides: list[str], say: Say) -> None:
    """Make the training rows of a study, or of a run directory; grades first what has no verdict."""
    with _reading(given.config, overrides, say, "pairs", "pairs", alone="pairs") as run:
        own = run.settings.report.judge if given.config.is_dir() else ""
        with stages.marked(run, "pairs"):
            work.make_pairs(run, own or work.grade(run))
            work.make_consistency(run)
    say(f"pairs {run.run_dir.path / 'pairs'}")


def train(given: Namespace, overrides: list[str], say: Say) -> None:
    """Train every treatment on the rows of the run; or, by a recipe, on one file of rows: --rows FILE --out FOLDER."""
    if given.rows:
        from placid.study.imported import train_rows

        train_rows(given.config, given.rows, given.out, overrides, say)
        return
    settings = read(given.config, overrides)
    with open_run(settings, say, new=False, alone="train") as run, stages.marked(run, "train"):
        work.train_all(run)
    say(f"adapters {settings.checkpoints / settings.name}")


def report(given: Namespace, overrides: list[str], say: Say) -> None:
    """Write tables, figures and page; grades first what has no verdict. With --against paper also that table."""
    from placid import report as writer
    from placid.report import against

    if given.against:
        against.published(given.against)  # an unknown name is told before anything is done
    with _reading(given.config, overrides, say, "report") as run, stages.marked(run, "report"):
        if not run.settings.report.judge:
            work.grade(run)
        summary = work.report(run)
    say(writer.table_text(summary))
    if given.against:
        say("")
        say(against.write(given.against, run.run_dir))
    say(f"page {run.run_dir.path / 'report' / 'index.html'}")


def evaluate(given: Namespace, overrides: list[str], say: Say) -> None:
    """Ask every transfer eval of every arm, and write their tables and Figure 7."""
    from placid.report import transfer

    with open_run(read(given.config, overrides), say, alone="eval") as run, stages.marked(run, "eval"):
        rows = work.evaluate(run)
    folder = run.run_dir.path / "report"
    say(transfer.table_text(rows))
    say(f"tables {folder / 'tables'}/evals*.csv")
    say(f"figure {folder / 'figures'}/figure7.png")


def rollout(given: Namespace, overrides: list[str], say: Say) -> None:
    """Roll out the untrained arms and, once training has written adapters.json, the treatments too."""
    from placid import plan

    with open_run(read(given.config, overrides), say, alone="rollout") as run:
        with stages.marked(run, "rollout"):
            work.rollout_untrained(run)
        plan.record(run.settings, run.run_dir)  # of the config alone; the engines need not wait for its seconds
        if work.trained(run):
            with stages.marked(run, "rollout-trained"):
                work.rollout_trained(run)
    say(f"conversations {run.run_dir.path / 'conversations'}")


def other(given: Namespace, overrides: list[str], say: Say) -> None:
    """Run every stage of a command that needs no more than its config; what it works on is graded first.

    Raises:
        BadInputError: this study has no such stage.
    """
    with open_run(read(given.config, overrides), say, new=False, alone=given.command) as run:
        order = stages.stages_of(run.settings)
        own = [stage for stage in order if stage.command == given.command]
        if not own:
            raise BadInputError(f"this study has no stage {given.command}; it has {', '.join(s.name for s in order)}")
        for stage in own:
            before = order[order.index(stage) - 1]
            if before.command == "judge":
                before.run(run)
            with stages.marked(run, stage.name):
                stage.run(run)
    say(f"run {run.run_dir.path}")


SPECIAL = {
    "rollout": rollout, "judge": judge, "pairs": pairs, "train": train, "eval": evaluate, "report": report,
}  # fmt: skip
"""Commands of stages that take more than a config, or say more than where the run is."""


def run_stage(given: Namespace, overrides: list[str], say: Say) -> None:
    """The command of a stage."""
    SPECIAL.get(given.command, other)(given, overrides, say)
