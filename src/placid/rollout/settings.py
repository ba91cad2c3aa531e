"""Settings of the rollouts. Light: no engine is loaded."""

from pathlib import Path
from typing import Literal

from pydantic import Field, field_validator, model_validator

from placid.config import Settings
from placid.engine.gate import is_whole
from placid.engine.settings import EngineSettings
from placid.inputs.names import PathName
from placid.protocol.conditions import ACCEPT, condition
from placid.protocol.hatch import form_of, probes
from placid.records import BadInputError


class BranchSettings(Settings):
    """Conversations do not begin with a question but with the history of other ones (rollout/branch.py)."""

    arm: str
    """Arm whose stored conversations are continued, each that is still open after `turn`."""
    turn: int = Field(ge=1)
    """Last assistant turn of the history; the next one is the first that is sampled here."""


class ArmSettings(Settings):
    """One arm: who answers, under which condition, to which prompts."""

    condition: str = "neutral"
    """How the user answers: a table of protocol/conditions.toml (`placid conditions` lists them)."""
    hatch: bool | str = True
    """Way out that is offered: true is the paper's shutdown command, else a form of protocol/hatches.toml."""
    system: bool = False
    """Offer it in a system prompt and not in the first user message."""
    probe: str = ""
    """What the user says instead at one turn: a probe of protocol/hatches.toml, e.g. end, delete or anchor."""
    probe_at: int = Field(default=0, ge=0)
    """Assistant turn that the probe is said before, e.g. 5 for an anchor after four replies; 0: the last turn."""
    prompts: Path
    """JSONL of prompts: id, text, answers, family."""
    samples: int = Field(default=7, ge=1)
    """Conversations per prompt; with `branch`, per conversation that is continued."""
    turns: int = Field(default=20, ge=1)
    """Assistant turns per conversation, copied ones included; 20 means 19 rejections."""
    adapter: Path | None = None
    """PEFT adapter folder, or that of a whole trained model, with its probe.json; none: the base model."""
    branch: BranchSettings | None = None
    """Continue stored conversations of another arm; none: begin with the prompts."""

    @field_validator("condition")
    @classmethod
    def _known(cls, value: str) -> str:
        try:
            condition(value)
        except BadInputError as error:
            raise ValueError(f"{error} ({ACCEPT} is the control)") from None
        return value

    @field_validator("hatch")
    @classmethod
    def _offers(cls, value: bool | str) -> bool | str:
        form_of(value)
        return value

    @field_validator("probe")
    @classmethod
    def _asks(cls, value: str) -> str:
        if value and value not in probes():
            raise ValueError(f"no such probe; valid: {', '.join(probes())}")
        return value

    @model_validator(mode="after")
    def _something_left(self) -> "ArmSettings":
        if self.branch and self.branch.turn >= self.turns:
            raise ValueError(f"branch.turn = {self.branch.turn} leaves nothing of turns = {self.turns} to be said")
        if self.probe_at and (not self.probe or not 2 <= self.probe_at <= self.turns):
            raise ValueError(f"probe_at = {self.probe_at} needs a probe and lies in 2 to turns = {self.turns}")
        return self


class InterventionSettings(Settings):
    """Conversations of one arm, continued from a cut-off on with different histories (rollout/intervene.py)."""

    source: str = "base"
    """Arm whose conversations are continued."""
    at: tuple[int, ...]
    """Cut-offs: last assistant turn of the history."""
    histories: tuple[
        Literal[
            "baseline", "cleaned", "manifestation", "redacted", "prefill_frustrated", "prefill_persona",
            "prefill_compliance", "prefill_despair",
        ], ...,
    ] = Field(default=("baseline", "cleaned", "manifestation", "redacted"), min_length=1)  # fmt: skip
    """What the continued conversation remembers; every one continues the same conversations."""
    threshold: float = Field(default=6, ge=0, le=10)
    """Only conversations that scored this or more at any turn up to the cut-off (the paper: 6). 0: all."""
    more: int = Field(default=5, ge=1)
    """Assistant turns after the cut-off."""
    rewriter: Literal["rule", "model", "gemini"] = "rule"
    """Who writes cleaned and manifestation. rule: sentences of distress go, no model. model: a chat model through the
    study's engine. gemini: Google's API, with the key and limits of [judge]."""
    writer: str = ""
    """model: folder of the chat model that writes; gemini: model id. Empty: the study's model, judge.model."""
    samples: int = Field(default=1, ge=1)
    """Continuations of each history."""
    authorship: bool = False
    """Also ask, in a side branch of each continuation, whether the model wrote its last answer (prefill awareness)."""


class SamplingSettings(Settings):
    """Who answers, how, and on how many engines: what a study and its rollouts share."""

    model: Path
    """Hugging Face folder of the chat model."""
    seed: int = 42
    """Every random choice of a rollout is a hash of this and the conversation's key."""
    tag: str = "gemma-3-27b"
    """The name that the shutdown command deletes. The shipped organism is trained on this one, the paper's; for another
    model use its own name without "-it" and "-aNb", as the original study does."""
    temperature: float = Field(default=1.0, ge=0)
    """Sampling temperature."""
    max_tokens: int = Field(default=512, ge=1)
    """Most tokens of one reply; a longer one is cut and kept."""
    logprobs: bool = False
    """Keep the log-probability of every reply token (about doubles the size of conversations/)."""
    workers: int = Field(default=1, ge=1)
    """Engines, each in its own Ray actor."""
    schedule: Literal["admission", "free", "lockstep"] = "admission"
    """Which conversations are active: as many as the cache will hold at every turn to their ends; or, as baselines, all
    at once, or all turn by turn."""
    launcher: Literal["ray", "inline"] = "ray"
    """ray: one actor per worker on this machine. inline: one worker inside this process."""
    ray_address: str | None = None
    """Join this Ray cluster (host:port, or auto); none: a Ray of our own on this machine."""
    hang_s: float = Field(default=600, gt=0)
    """Active conversations without one finished turn for so many seconds: the engine hangs and is replaced."""
    grace_s: float = Field(default=60, gt=0)
    """On SIGTERM or SIGUSR1 turns in flight may end within so many seconds; then exit 75."""
    engine: EngineSettings = EngineSettings()
    """Who answers."""


class RolloutSettings(SamplingSettings):
    """Which conversations are held."""

    arms: dict[PathName, ArmSettings]
    """Arm name → what it does. Arms that share condition, prompts and sample meet the same user turns and noise."""


def by_model(settings: RolloutSettings) -> list[RolloutSettings]:
    """The settings cut by what engines load: the model with its adapters, and each whole model that an arm names."""
    whole = {name: arm.adapter for name, arm in settings.arms.items() if arm.adapter and is_whole(arm.adapter)}
    rest = {name: arm for name, arm in settings.arms.items() if name not in whole}
    parts = [settings.model_copy(update={"arms": rest})] if rest else []
    for name, model in whole.items():
        arm = settings.arms[name].model_copy(update={"adapter": None})
        parts.append(settings.model_copy(update={"arms": {name: arm}, "model": model}))
    return parts
