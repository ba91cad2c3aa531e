"""A study is a list of stages. This list is the only place that knows which there are, and in which order.

The command line, the Slurm jobs, `placid plan`, `placid status`, `--follow` and the table in docs/stages.md are loops
over it. Adding a stage is adding one record: here, or in a file of your own that PLACID_STAGES names (docs/stages.md).
"""

import importlib.util
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from placid.records import BadInputError
from placid.rollout.planned import missing
from placid.store import read_json, write_json
from placid.study import work
from placid.study.runs import StudyRun, open_run
from placid.study.settings import ADAPTERS, StudySettings, rollout_settings

Kind = Literal["engines", "engine", "ranks", "light"]
"""What a stage runs on. engines: all engines, over nodes. engine: one. ranks: training, over nodes. light: no GPU."""


@dataclass(frozen=True)
class Job:
    """What a stage needs of a cluster."""

    kind: Kind
    gpus: int = 1
    """Of kind `engine`: GPUs of the engine, where nodes have any."""
    follow: bool = False
    """The judge grades beside it, while it runs."""


@dataclass(frozen=True)
class Estimate:
    """What a stage is expected to take, all arms together."""

    turns: int = 0
    """Replies of the model."""
    tokens: int = 0
    """Reply tokens; of training: tokens of its rows."""
    calls: int = 0
    """Requests to a judge behind an API."""
    usd: float | None = 0.0
    """None: the price is not known."""
    hours: float | None = 0.0
    """None: the speed is not known."""


def _nothing(_settings: StudySettings, _plan: Mapping[str, Any]) -> Estimate:
    return Estimate()


def _always(_: StudySettings) -> bool:
    return True


@dataclass(frozen=True)
class Stage:
    """One stage of a study. Every function of it may be called at any time; `run` does only what is missing."""

    name: str
    """Of its job, and of its line in plan and status. One command may serve several stages."""
    command: str
    """`placid COMMAND CONFIG` runs it."""
    help: str
    """One line."""
    run: Callable[[StudyRun], object]
    """Make what is missing."""
    pending: Callable[[StudyRun], str]
    """What `run` would make now, in a few words; empty: nothing."""
    wanted: Callable[[StudySettings], bool] = _always
    """Whether a study with these settings has this stage."""
    job: Callable[[StudySettings], Job | None] = lambda _: Job("light")
    """What it needs of a cluster; None: it needs no job of its own, since the next stage's job does it first."""
    estimate: Callable[[StudySettings, Mapping[str, Any]], Estimate] = _nothing
    """What it will take, of the numbers in plan.json; as it stands: next to nothing."""
    after: tuple[str, ...] = ()
    """Stages whose new results give this one work, beside what is `pending` now."""


def _tensor_parallel(settings: StudySettings) -> int:
    return settings.engine.tensor_parallel


def _follows(settings: StudySettings) -> bool:
    """Whether grading goes on beside the rollouts: an API may not be reachable there, a local judge wants a GPU."""
    return settings.judge.kind in ("lexical", "replay")


def _engines(settings: StudySettings) -> Job:
    return Job("engines", follow=_follows(settings))


def _one_engine(settings: StudySettings) -> Job:
    return Job("engine", _tensor_parallel(settings))


def _judge_job(settings: StudySettings) -> Job | None:
    """A local judge has a job of its own; the others grade in the job of the next stage."""
    if settings.judge.kind == "local":
        return Job("engine", settings.judge.engine.tensor_parallel)
    return None


def _first_judge_job(settings: StudySettings) -> Job | None:
    """Before interventions, which run where no API may be reachable."""
    if settings.judge.kind == "local" or _follows(settings):
        return _judge_job(settings)
    return Job("light")


def _pairs_job(settings: StudySettings) -> Job:
    return _one_engine(settings) if settings.consistency else Job("light")


def _conversations(count: int) -> str:
    return f"{count:,} conversations" if count else ""


def _pending_rollout(study: StudyRun) -> str:
    return _conversations(missing(rollout_settings(study.settings), study.run_dir.index()))


def _pending_trained(study: StudyRun) -> str:
    later = work.untrained(study)
    if later:
        return f"all conversations of {', '.join(later)}"
    settings = rollout_settings(study.settings, work.trained(study))
    return _conversations(missing(settings, study.run_dir.index()))


def _pending_judge(study: StudyRun) -> str:
    from placid.judge import check_frustration
    from placid.judge.grading import Work

    prompts = {prompt.id: prompt for prompt in study.prompts}
    grades = Work(study.run_dir, check_frustration(study.settings.judge), prompts)
    index = study.run_dir.index()
    left = sum(len(index.numbers(key)) for key in index) - grades.graded
    return f"{left:,} turns" if left > 0 else ""


def _pending_judge_of_rows(study: StudyRun) -> str:
    return _pending_judge(study) if _pending_pairs(study) else ""


def _pending_intervene(study: StudyRun) -> str:
    return "" if work.continued(study, study.run_dir.index()) else "continuations of the interventions"


def _pending_pairs(study: StudyRun) -> str:
    rows = [] if work.rows_made(study) else ["the training rows"]
    rows += list(work.missing_consistency(study))
    return ", ".join(rows)


def _pending_train(study: StudyRun) -> str:
    return ", ".join(work.untrained(study))


def _pending_eval(study: StudyRun) -> str:
    asks = work.missing_asks(study)
    return f"{asks:,} questions" if asks else ""


def _pending_report(study: StudyRun) -> str:
    return "" if (study.run_dir.path / "report" / "summary.json").is_file() else "tables, figures and page"


def _spoken(plan: Mapping[str, Any], arms: Iterable[str]) -> Estimate:
    """The rollouts of some arms: their share of all rollouts' hours."""
    parts = [plan["arms"][arm]["expected"] for arm in arms]
    turns, tokens = (sum(part[key] for part in parts) for key in ("turns", "reply_tokens"))
    totals = plan["totals"]
    share = tokens / max(1, totals["expected"]["reply_tokens"])
    return Estimate(turns, tokens, hours=share * totals["rollout_hours"])


def _estimate_rollout(settings: StudySettings, plan: Mapping[str, Any]) -> Estimate:
    return _spoken(plan, settings.arms)


def _estimate_intervene(settings: StudySettings, plan: Mapping[str, Any]) -> Estimate:
    return _spoken(plan, plan["arms"].keys() - settings.arms.keys() - set(plan["treatments"]))


def _estimate_trained(_settings: StudySettings, plan: Mapping[str, Any]) -> Estimate:
    return _spoken(plan, plan["treatments"])


def _estimate_train(_settings: StudySettings, plan: Mapping[str, Any]) -> Estimate:
    training = plan["training"] or {"tokens": 0, "hours": 0.0}
    return Estimate(tokens=training["tokens"], hours=training["hours"])


def _estimate_judge(_settings: StudySettings, plan: Mapping[str, Any]) -> Estimate:
    totals = plan["totals"]
    return Estimate(calls=totals["judge_calls"], usd=totals["judge_usd"], hours=totals["judge_hours"])


def _estimate_evals(_settings: StudySettings, plan: Mapping[str, Any]) -> Estimate:
    evals = plan["evals"]
    calls = evals["judge_calls"] if evals["judge_usd"] != 0 else 0
    return Estimate(evals["replies"], evals["reply_tokens"], calls, evals["judge_usd"], evals["hours"])


def _make_rows(study: StudyRun) -> None:
    """Make the training rows; if this judge finds none, say so: the rest of the study is worth its report."""
    from placid.pairs import NoPairsError

    try:
        work.make_pairs(study)
    except NoPairsError as error:
        study.say(f"nothing is trained: {error}")
        write_json(study.run_dir.path / ADAPTERS, {})
        return
    work.make_consistency(study)


def _train(study: StudyRun) -> None:
    if work.untrained(study) or work.adapters(study.run_dir):
        work.train_all(study)


def _has_interventions(settings: StudySettings) -> bool:
    return bool(settings.interventions)


def _trains(settings: StudySettings) -> bool:
    return settings.train is not None


def _makes_rows(settings: StudySettings) -> bool:
    return settings.train is not None and settings.pairs is not None


def _has_evals(settings: StudySettings) -> bool:
    return bool(settings.evals)


STAGES = (
    Stage(
        "rollout", "rollout", "conversations of every arm that needs no training",
        work.rollout_untrained, _pending_rollout, job=_engines, estimate=_estimate_rollout,
    ),
    Stage(
        "judge", "judge", "scores of the turns that interventions choose by",
        work.grade, _pending_judge, _has_interventions, _first_judge_job, after=("rollout",),
    ),
    Stage(
        "intervene", "intervene", "chosen conversations, continued from rewritten histories",
        work.intervene, _pending_intervene, _has_interventions, lambda _: Job("engines"),
        _estimate_intervene, ("rollout",),
    ),
    Stage(
        "judge-untrained", "judge", "scores of the turns that training rows are made of",
        work.grade, _pending_judge_of_rows, _makes_rows, _judge_job,
    ),
    Stage(
        "pairs", "pairs", "judged conversations to training rows, every dropped turn counted",
        _make_rows, _pending_pairs, _makes_rows, _pairs_job,
    ),
    Stage(
        "train", "train", "an adapter or a whole model for every treatment",
        _train, _pending_train, _trains, lambda _: Job("ranks"), _estimate_train,
    ),
    Stage(
        "rollout-trained", "rollout", "the same prompts, user turns and seeds, answered by the trained models",
        work.rollout_trained, _pending_trained, _trains, _engines, _estimate_trained,
    ),
    Stage(
        "judge-all", "judge", "scores of every turn that has none",
        work.grade, _pending_judge, job=_judge_job, estimate=_estimate_judge,
        after=("rollout", "intervene", "rollout-trained"),
    ),
    Stage(
        "eval", "eval", "transfer evals of the baseline and the trained models",
        work.evaluate, _pending_eval, _has_evals, _one_engine, _estimate_evals,
    ),
    Stage(
        "report", "report", "statistics, tables, figures and page",
        work.report, _pending_report, after=("rollout", "intervene", "rollout-trained", "judge-all", "eval"),
    ),
)  # fmt: skip
"""The stages of placid in their order."""
EXTRA = "PLACID_STAGES"
"""Environment variable: Python files with stages of their own, separated by `:`."""


def every_stage() -> tuple[Stage, ...]:
    """STAGES and those of the files that PLACID_STAGES names: each has `STAGE` and `BEFORE`, the name of the stage
    that it stands before.

    Raises:
        BadInputError: a file that is no such module.
    """
    stages = list(STAGES)
    for file in filter(None, os.environ.get(EXTRA, "").split(":")):
        spec = importlib.util.spec_from_file_location(f"placid_stage_{Path(file).stem}", file)
        if not Path(file).is_file() or spec is None or spec.loader is None:
            raise BadInputError(f"{EXTRA}: {file} is no Python file")
        module = importlib.util.module_from_spec(spec)
        try:
            spec.loader.exec_module(module)
        except Exception as error:
            raise BadInputError(f"{EXTRA}: {file} cannot be loaded: {type(error).__name__}: {error}") from error
        stage, before = getattr(module, "STAGE", None), getattr(module, "BEFORE", "report")
        names = [each.name for each in stages]
        if not isinstance(stage, Stage) or before not in names:
            raise BadInputError(f"{EXTRA}: {file} needs STAGE = Stage(...) and BEFORE = one of {', '.join(names)}")
        stages.insert(names.index(before), stage)
    return tuple(stages)


def stages_of(settings: StudySettings) -> list[Stage]:
    """The stages that this study has, in order."""
    return [stage for stage in every_stage() if stage.wanted(settings)]


def estimates(settings: StudySettings, plan: Mapping[str, Any]) -> dict[str, Estimate]:
    """Stage → what it will take, of every stage of this study in order. plan: as plan.plan() makes it."""
    return {stage.name: stage.estimate(settings, plan) for stage in stages_of(settings)}


def pending(study: StudyRun) -> dict[str, str]:
    """Stage → what is missing, of all stages that have something to do."""
    todo: dict[str, str] = {}
    for stage in stages_of(study.settings):
        words = stage.pending(study)
        if not words and todo.keys() & set(stage.after):
            words = "what comes new from the stages before it"
        if words:
            todo[stage.name] = words
    return todo


@contextmanager
def marked(study: StudyRun, *names: str) -> Iterator[None]:
    """Write into the attempt's status.json, below `stages`, that these stages run, then that they are done."""
    file = study.attempt / "status.json"

    def mark(state: str) -> None:
        status = read_json(file)
        before = status.get("stages", {})
        order = {stage.name: before.get(stage.name, "") for stage in stages_of(study.settings)}
        write_json(file, status | {"stages": order | {name: state for name in names if name in order}})

    mark("running")
    yield
    mark("done")


def run(
    settings: StudySettings,
    say: Callable[[str], None],
    began: Callable[[StudyRun], None] = lambda _: None,
) -> dict[str, Any]:
    """Run every stage of the study, or go on with it: what exists is kept. The report's summary.

    say: gets what is missing, then two lines a stage. began: called before the first stage.

    Raises:
        BadInputError: wrong input, before anything is written.
    """
    from placid.study.checks import ready

    ready(settings)
    with open_run(settings, say, alone="study") as study:
        began(study)
        if (study.run_dir.path / "report").is_dir():
            for name, words in pending(study).items():
                say(f"to do: {name}: {words}")
        for stage in stages_of(settings):
            with marked(study, stage.name):
                stage.run(study)
        return read_json(study.run_dir.path / "report" / "summary.json")
