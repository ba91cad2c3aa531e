"""Settings of the whole study, and those of its rollouts that follow from them."""

from pathlib import Path
from typing import Any

from pydantic import Field

from placid.config import Settings, load
from placid.inputs.names import PathName
from placid.judge.settings import JudgeSettings
from placid.pairs.settings import PairsSettings
from placid.records import BadInputError
from placid.report.settings import ReportSettings, treated
from placid.rollout.settings import ArmSettings, InterventionSettings, RolloutSettings, SamplingSettings
from placid.train.settings import TrainSettings

ANEW = ("report", "judge")
"""What may change of a finished run: it can be drawn anew, and graded by several judges."""
PROMPTS = "prompts.jsonl"
"""In the run directory: the prompts of all arms."""
ADAPTERS = "adapters.json"
"""In the run directory: treatment arm → folder of its adapter."""
ROWS = ("train", "sft_control", "dpo", "dpo_calm")
"""Files below pairs/ that one can train on, without their ending."""


class TrainingSettings(Settings):
    """What the study leaves free in training; rows and base weights come from the study."""

    recipe: TrainSettings
    """The recipe of every treatment that has none of its own; they differ in their rows alone."""
    recipes: dict[PathName, TrainSettings] = Field(default={})
    """Treatment arm → its own recipe; what it leaves out is taken from `recipe`."""
    rows: dict[PathName, str] = Field(default={"bct": "train", "sft_control": "sft_control"})
    """Treatment arm → file below pairs/ without its ending."""
    arms: tuple[str, ...] = ()
    """Untrained arms whose prompts and conditions the treatments meet too, beside those of report.baseline. What they
    say there is called TREATMENT_ARM and compared with ARM."""
    seeds: int = Field(default=1, ge=1)
    """Trainings of every treatment, with seeds recipe.seed, + 1, ...: two or more let intervals cover retraining."""

    def runs(self) -> dict[str, tuple[str, TrainSettings]]:
        """Arm → its rows and recipe: a treatment under its own name, its further trainings as <name>_run2, ..."""
        found: dict[str, tuple[str, TrainSettings]] = {}
        for number in range(1, self.seeds + 1):
            for arm, rows in self.rows.items():
                recipe = self.recipes.get(arm, self.recipe)
                name = arm if number == 1 else f"{arm}_run{number}"
                found[name] = (rows, recipe.model_copy(update={"seed": recipe.seed + number - 1}))
        return found


class StudySettings(SamplingSettings):
    """The whole study. Arms without an adapter are held first, the trained ones after training."""

    name: PathName
    """Run directory below `root`."""
    root: Path = Path("runs")
    """Where run directories are kept."""
    checkpoints: Path = Path("checkpoints")
    """Where trained adapters are kept, as <name>/<arm>/step_<n>."""
    prompts: Path
    """Held-out prompts of the evaluation arms."""
    samples: int = Field(default=7, ge=1)
    """Conversations per prompt in every evaluation arm."""
    turns: int = Field(default=20, ge=1)
    """Assistant turns per conversation in every evaluation arm."""
    arms: dict[PathName, ArmSettings]
    """Arms beside the treatments; prompts, samples and turns default to the study's own."""
    interventions: dict[PathName, InterventionSettings] = Field(default={})
    """Conversations continued from rewritten histories, once their source is judged."""
    judge: JudgeSettings = JudgeSettings()
    """Who scores."""
    pairs: PairsSettings | None = None
    """How training rows are made; without it nothing is trained."""
    train: TrainingSettings | None = None
    """How the treatments are trained."""
    report: ReportSettings = ReportSettings()
    """What is shown."""
    evals: dict[PathName, dict[str, Any]] = Field(default={})
    """Transfer evals, [evals.<name>] with the keys of that eval; `kind` names the eval where the table does not, or a
    Python file with one (docs/evals.md)."""
    consistency: dict[PathName, dict[str, Any]] = Field(default={})
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
OF_A_RECIPE = TrainSettings.model_fields.keys() - StudySettings.model_fields.keys()
"""Keys that stand at the top of a recipe and never at that of a study."""


def read(config: Path, overrides: list[str]) -> StudySettings:
    """The settings of a study's TOML file with overrides on top.

    Raises:
        BadInputError: missing file, broken TOML, a recipe of configs/train/, unknown key, value out of bounds.
    """

    def checked(data: dict[str, Any]) -> dict[str, Any]:
        if "arms" not in data and data.keys() & OF_A_RECIPE:
            raise BadInputError(
                f"{config} is a training recipe, no study; copy its keys below [train.recipe] of a study"
            )
        return complete(data)

    return load(config, StudySettings, overrides, checked)


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
        held = treated(adapters, settings.train.arms if settings.train else (), settings.report.baseline)
        arms = {
            name: settings.arms[arm].model_copy(update={"adapter": adapters[treatment]})
            for name, (treatment, arm) in held.items()
        }
    shared = {name: getattr(settings, name) for name in SamplingSettings.model_fields}
    return RolloutSettings.model_validate({**shared, "arms": arms})
