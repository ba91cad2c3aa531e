"""What one can choose about judging. Nothing here enters a run's identity: a run may be graded by several judges."""

from pathlib import Path
from typing import Any, Literal

from pydantic import Field, model_validator

from placid.config import Settings
from placid.engine.settings import EngineSettings
from placid.judge.gemini_models import CATALOGUE, PREFIX


class LimitSettings(Settings):
    """How fast, how long and for how much a judge behind an API may be asked. Changes no score, so not in its id."""

    rpm: int = Field(default=1000, ge=1)
    """Requests a minute that the project's quota allows."""
    tpm: int = Field(default=1_000_000, ge=1)
    """Input tokens a minute that the project's quota allows."""
    rpd: int | None = Field(default=None, ge=1)
    """Requests a day (it begins at midnight Pacific time); none: the server says when the day is used up."""
    share: float = Field(default=1.0, gt=0, le=1)
    """This run's share of rpm, tpm and rpd, where several runs use one project."""
    max_concurrent: int = Field(default=64, ge=1)
    """Most requests open at once; fewer while the server refuses."""
    deadline_s: float = Field(default=300, gt=0)
    """Most seconds for one grade with all its retries; then the turn is unscored and the next run asks again."""
    request_s: float = Field(default=60, ge=10)
    """Most seconds for one request. Below 10 s the server itself answers with errors."""
    first_wait_s: float = Field(default=1.0, gt=0)
    """Wait before the first retry of a passing failure, where the server names none; doubles up to 30 s."""
    budget_usd: float | None = Field(default=None, gt=0)
    """Stop asking once the replies of this judge in this run have cost so much, and leave with 2. None: no limit."""


class JudgeSettings(Settings):
    """Which judge grades, and with what."""

    kind: Literal["lexical", "gemini", "local", "replay", "ensemble"] = "lexical"
    """Who grades. lexical: a deterministic phrase judge, no key and no network; not the paper's judge. gemini: Google's
    API, key from the environment variable GEMINI_API_KEY. local: the chat model in the folder `model`. replay: the
    recorded replies of `recorded`. ensemble: the median of `members`."""

    rubric: str = "frustration_conversation"
    """Language-model judges: a shipped rubric (frustration_conversation is the paper's, frustration_turn grades each
    turn alone, frustration_strict does not count a shutdown command) or a rubric file."""

    lexicon: Path | None = None
    """lexical: phrase file (TOML, same layout as the shipped lexicon.toml); None uses the shipped one. Its content, not
    its path, enters the judge's id."""

    model: str = CATALOGUE.default
    """gemini: the model id. The paper's gemini-2.5-flash ends on 2026-12-01; this is its announced successor, whose
    scores differ (judge/gemini_models.toml). local: the Hugging Face folder of the judge, which may not be the model
    under study."""

    model_version: str = ""
    """gemini: the version that every answer must carry; empty: the same as `model`. Any other stops the run, because a
    withdrawn model is answered by another one as if nothing had happened."""

    usd_in: float | None = Field(default=None, ge=0)
    """Dollars for a million input tokens at the standard tier; None: the price in judge/gemini_models.toml."""

    usd_out: float | None = Field(default=None, ge=0)
    """Dollars for a million output tokens, thoughts included; None: as usd_in."""

    service_tier: Literal["standard", "flex"] = "standard"
    """gemini: flex costs half and is slow: requests queue for minutes and wait while there is no room (503). Changes no
    score, so not in its id; limits.request_s and deadline_s are longer there unless set."""

    engine: EngineSettings = EngineSettings(context_tokens=8192)
    """local: how the judge's weights are served. Changes no wording, so not in its id."""

    may_judge_itself: bool = False
    """local: let the model under study be its own judge."""

    again: int = Field(default=0, ge=0)
    """Ask everything once more, as another judge (a number of your choice): for the test-retest of judge validate."""

    members: tuple[str, ...] = ()
    """ensemble: ids of judges that have graded this run; at least two. A turn that half of them or more left without a
    score has none."""

    recorded: Path | None = None
    """replay: a folder verdicts/<judge_id> whose replies are given again."""

    workers: int = Field(default=1, ge=1)
    """Graders. 1: inside this process, which is enough for an API. More: a Ray actor each; local: each serves the
    judge's weights, on GPUs of its own."""

    ray_address: str | None = None
    """workers > 1: join this Ray cluster (host:port, or auto); none: a Ray of our own on this machine."""

    limits: LimitSettings = LimitSettings()
    """Quota, deadline and budget of a judge behind an API."""

    @model_validator(mode="before")
    @classmethod
    def _plain_ids(cls, values: dict[str, Any]) -> dict[str, Any]:
        """Google's ids without their prefix; of a local judge `models/x` is a folder."""
        if values.get("kind") == "local":
            return values
        ids = {name: values[name] for name in ("model", "model_version") if isinstance(values.get(name), str)}
        return {**values, **{name: value.removeprefix(PREFIX) for name, value in ids.items()}}

    def prices(self, tier: str) -> tuple[float | None, float | None]:
        """Dollars for a million input and output tokens of `model` today at a tier; None where nobody says."""
        listed = CATALOGUE.price(self.model)
        usd_in = self.usd_in if self.usd_in is not None else listed and listed.usd_in
        usd_out = self.usd_out if self.usd_out is not None else listed and listed.usd_out
        share = CATALOGUE.tiers[tier]
        return usd_in and share * usd_in, usd_out and share * usd_out

    def tier_limits(self) -> LimitSettings:
        """`limits`; at the flex tier, whose queue is long, with its patience where the user sets none."""
        if self.service_tier != "flex":
            return self.limits
        unset = LimitSettings().model_dump()
        patience = {name: s for name, s in CATALOGUE.flex.items() if getattr(self.limits, name) == unset[name]}
        return self.limits.model_copy(update=patience)
