"""What each stage does with a run: rollouts, grades, rows, trainings, evals, report. stages.py has their order."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from placid import rollout
from placid.config import canonical, difference
from placid.records import BadInputError
from placid.rollout.intervene import arms_of, prepare
from placid.rollout.planned import missing
from placid.rollout.settings import ArmSettings, InterventionSettings
from placid.store import Index, RunDir, check_adapter, read_json, write_json
from placid.store.lease import leased
from placid.study.runs import UNKNOWN, StudyRun
from placid.study.settings import ADAPTERS, rollout_settings

if TYPE_CHECKING:
    from placid.rollout.rewrite import Writer


def rollout_untrained(study: StudyRun) -> None:
    """Rollouts of every arm that needs no training."""
    settings = rollout_settings(study.settings)
    study.stage("rollouts of the base model", lambda: rollout.run(settings, study.run_dir, study.attempt))


def intervene(study: StudyRun) -> None:
    """Write the histories of the interventions, roll out their continuations. Expects grade() before."""
    from placid.judge import check_frustration as judge_of
    from placid.render import Renderer

    settings, run_dir = study.settings, study.run_dir
    judge_id = _selected_by(run_dir) or judge_of(settings.judge)
    verdicts = run_dir.verdicts(judge_id)
    writers = {name: _writer(study, chosen) for name, chosen in settings.interventions.items()}
    arms = study.stage("histories", lambda: prepare(
        settings.interventions, settings.arms, run_dir, study.attempt, study.prompts, verdicts,
        Renderer(settings.model).encode, {name: writer for name, writer in writers.items() if writer}, judge_id,
    ))  # fmt: skip
    if arms:
        chosen = rollout_settings(settings).model_copy(update={"arms": arms})
        study.stage("rollouts after the interventions", lambda: rollout.run(chosen, run_dir, study.attempt, copy=False))


def _selected_by(run_dir: RunDir) -> str:
    """The judge whose scores have chosen what is continued: another one, later, chooses nothing anew. Empty: none."""
    file = run_dir.path / "interventions.json"
    counts = read_json(file) if file.is_file() else {}
    return next((count["judge"] for count in counts.values() if count.get("judge")), "")


def _writer(study: StudyRun, chosen: InterventionSettings) -> "Writer | None":
    """Who rewrites the histories of an intervention; None: the rule."""
    if chosen.rewriter == "rule":
        return None
    from placid.rollout.rewrite import Writer, through_engine

    settings = study.settings
    if chosen.rewriter == "model":
        model = Path(chosen.writer) if chosen.writer else settings.model
        return Writer(f"model-{model.name}", lambda: through_engine(rollout_settings(settings), model))
    from placid.judge.writer import gemini_writer

    asked = settings.judge.model_copy(update={"model": chosen.writer or settings.judge.model})
    name = f"gemini-{asked.model}"
    return Writer(name, lambda: gemini_writer(asked, study.run_dir.path / "rewrites" / name))


def adapters(run_dir: RunDir) -> dict[str, Path]:
    """Treatment arm → the folder of its adapter, of every treatment that was ever trained here."""
    file = run_dir.path / ADAPTERS
    return {arm: Path(folder) for arm, folder in read_json(file).items()} if file.is_file() else {}


def trained(study: StudyRun) -> dict[str, Path]:
    """Treatment arm → the folder of its adapter, of those in this config; their files are as training wrote them.

    Raises:
        BadInputError: a damaged file.
    """
    names = study.settings.train.runs() if study.settings.train else {}
    found = {arm: folder for arm, folder in adapters(study.run_dir).items() if arm in names}
    for folder in found.values():
        check_adapter(folder)
    return found


def untrained(study: StudyRun) -> list[str]:
    """Treatments that have no adapter yet; none where this judge found no rows to train on."""
    wanted = list(study.settings.train.runs()) if study.settings.train else []
    if (study.run_dir.path / ADAPTERS).is_file() and not rows_made(study):
        return []
    known = adapters(study.run_dir)
    return [arm for arm in wanted if arm not in known]


def rows_made(study: StudyRun) -> bool:
    """Whether training rows were made."""
    return (study.run_dir.path / "pairs" / "dropped.json").is_file()


def rollout_trained(study: StudyRun) -> None:
    """Rollouts of the treatments: the baseline's arm with the adapters of adapters.json."""
    settings = rollout_settings(study.settings, trained(study))
    study.stage("rollouts of the trained models", lambda: rollout.run(settings, study.run_dir, study.attempt))


def grade(study: StudyRun, follow: bool = False, any_measure: bool = False) -> str:
    """Grade what has no verdict yet; the judge's id.

    Args:
        study: the study.
        follow: also what still comes, until every rollout is over.
        any_measure: the scores are only kept, so they may say something else than frustration.
    """
    from placid import judge

    if not any_measure:
        judge.check_frustration(study.settings.judge)
    settings, complete = study.settings.judge, Complete(study) if follow else None
    return study.stage("judge", lambda: judge.run(settings, study.run_dir, study.prompts, study.attempt, complete))


class Complete:
    """Says of the turns found so far whether no conversation of any arm is open, the treatments' too."""

    def __init__(self, study: StudyRun) -> None:
        self._study = study

    def __call__(self, index: Index) -> bool:
        """index: where the turns are that were spoken so far."""
        study = self._study
        if missing(rollout_settings(study.settings), index):
            return False
        if study.settings.interventions and not continued(study, index):
            return False
        if study.settings.train is None:
            return True
        if untrained(study):
            return False
        return not missing(rollout_settings(study.settings, trained(study)), index)


def continued(study: StudyRun, index: Index) -> bool:
    """Whether histories were chosen for every intervention, and their continuations have ended."""
    settings, file = study.settings, study.run_dir.path / "interventions.json"
    chosen = read_json(file) if file.is_file() else {}
    if any(f"{name}_t{at}" not in chosen for name, each in settings.interventions.items() for at in each.at):
        return False
    arms = arms_of(settings.interventions, settings.arms)
    begun = {key.arm for key in index}
    kept = rollout_settings(settings).model_copy(
        update={"arms": {name: arm for name, arm in arms.items() if name in begun}}
    )
    return not missing(kept, index)


def make_pairs(study: StudyRun, judge_id: str = "") -> None:
    """Training rows of the judged run, once. Expects grade() before. judge_id: whose scores; the study's by default.

    Raises:
        BadInputError: the study has no [pairs], or its run no conversations to make them of.
    """
    from placid import pairs
    from placid.judge import check_frustration as judge_of

    settings = study.settings
    if settings.pairs is None:
        raise BadInputError("this study has no [pairs] section, so no training rows can be made; add pairs.instruct")
    judge_id, made = judge_id or judge_of(settings.judge), study.run_dir.path / "pairs" / "dropped.json"
    graded(study, judge_id)
    if made.is_file():  # written last
        old = read_json(made)
        changes = difference(old.get("settings", {}), canonical(settings.pairs)) if "settings" in old else []
        if old["judge"] != judge_id:
            changes.append(f"by judge {old['judge']}")
        if changes:
            trained = (study.run_dir.path / ADAPTERS).is_file()
            way = "its treatments are trained on them" if trained else f"remove {made.parent} to make them anew"
            study.say(f"pairs: kept as they were made ({'; '.join(changes)}); {way}")
        return
    building, count = settings.pairs, pairs.characters
    if settings.model != UNKNOWN:
        count = _token_counter(settings.model)
    controlled = settings.train is None or "sft_control" in settings.train.rows.values()
    study.stage("pairs", lambda: pairs.build(building, study.run_dir, study.prompts, judge_id, count, controlled))


def missing_consistency(study: StudyRun) -> dict[str, dict[str, Any]]:
    """The sections of [consistency] whose rows are not made yet."""
    folder = study.run_dir.path / "pairs"
    return {
        name: keys
        for name, keys in study.settings.consistency.items()
        if not (folder / f"{name}.dropped.json").is_file()
    }


def make_consistency(study: StudyRun) -> None:
    """Training rows of [consistency], once: the base model answers the plain and is shown the biased prompts."""
    from placid.evals import load_all
    from placid.evals.pairs import build

    settings, sections = study.settings, missing_consistency(study)
    if not sections:
        return
    base = {settings.report.baseline: settings.arms[settings.report.baseline]}
    chosen = rollout_settings(settings).model_copy(update={"arms": base})
    instruct = settings.pairs.instruct if settings.pairs else None
    study.stage(
        "pairs of other consistency",
        lambda: build(load_all(sections), chosen, instruct, study.run_dir, study.attempt),
    )


def train_all(study: StudyRun) -> None:
    """Train every treatment and write adapters.json (arm → folder).

    Raises:
        BadInputError: the study has no [train], or its rows are not made yet.
    """
    from placid import train

    settings = study.settings
    if settings.train is None:
        raise BadInputError("this study has no [train] section, so nothing can be trained; add train.recipe")
    made: dict[str, Path] = {}
    for arm, (rows, recipe) in settings.train.runs().items():
        source, out = study.run_dir.path / "pairs" / f"{rows}.jsonl", settings.checkpoints / settings.name / arm
        output = study.attempt / f"train-{arm}.txt"
        # of every treatment, its control too, so that they can be compared; they hold no rejected reply for dpo
        val = source.with_name("val.jsonl") if recipe.loss != "dpo" else None
        made[arm] = study.stage(f"train {arm}", partial(train.launch, recipe, source, out, output, val))
    every = adapters(study.run_dir) | made
    write_json(study.run_dir.path / ADAPTERS, {arm: str(folder) for arm, folder in every.items()})


def evaluate(study: StudyRun) -> list[dict[str, Any]]:
    """Transfer evals of the baseline, of arms with an adapter of their own and of the treatments that are trained; the
    rows of report/tables/evals_groups.csv.

    Raises:
        BadInputError: the study has no [evals].
    """
    from placid.evals import load_all
    from placid.evals.running import run as ask
    from placid.report import transfer

    settings = study.settings
    if not settings.evals:
        raise BadInputError("this study has no [evals.<name>] section, so nothing can be evaluated; add [evals.mmlu]")
    chosen = rollout_settings(settings).model_copy(update={"arms": evaluated(study)})
    study.stage(
        "transfer evals",
        lambda: ask(load_all(settings.evals), chosen, settings.judge, study.run_dir, study.attempt),
    )
    return study.stage("tables of the evals", lambda: transfer.run(study.run_dir, settings.report.baseline))


def evaluated(study: StudyRun) -> dict[str, ArmSettings]:
    """The arms that evals are asked of."""
    settings, made = study.settings, trained(study)
    arms = {name: arm for name, arm in settings.arms.items() if arm.adapter or name == settings.report.baseline}
    return arms | {name: arm for name, arm in rollout_settings(settings, made).arms.items() if name in made}


def missing_asks(study: StudyRun) -> int:
    """How many questions of the evals have no answer; those of treatments that are not trained yet too."""
    from placid.evals import load_all
    from placid.evals.asking import kept
    from placid.evals.running import check

    plans = check(load_all(study.settings.evals))
    asks = {ask.name for rows in plans.values() for row in rows.rows for ask in row.asks.values()}
    arms = [*evaluated(study), *untrained(study)]
    answered = kept(study.run_dir)
    return sum((arm, name) not in answered for arm in arms for name in asks)


def graded(study: StudyRun, judge_id: str) -> None:
    """Raises BadInputError if this judge has no verdicts here."""
    known = sorted(folder.name for folder in (study.run_dir.path / "verdicts").glob("*") if folder.is_dir())
    if judge_id not in known:
        raise BadInputError(f"report.judge = {judge_id!r} graded nothing here; valid: {', '.join(known) or 'none yet'}")


def report(study: StudyRun) -> dict[str, Any]:
    """Tables, figures and page, and the run's turns and scores as parquet and zarr; the summary. Expects grade()."""
    from placid import report as room
    from placid.judge import check_frustration as judge_of
    from placid.store.tables import compact  # polars and zarr

    judge_id = study.settings.report.judge or judge_of(study.settings.judge)
    graded(study, judge_id)
    with leased(study.run_dir.path, "report", "report"):
        summary = study.stage("report", lambda: room.run(study.settings.report, study.run_dir, study.prompts, judge_id))
    study.stage("tables", lambda: compact(study.run_dir))
    return summary


def _token_counter(model: Path) -> Callable[..., int]:
    """Tokens of a training row: what "equally many tokens" of the control means."""
    from placid.render import Renderer

    renderer = Renderer(model)
    return lambda pair: len(renderer.example(pair.messages, pair.target).ids)
