"""Facts about Gemini's models, from gemini_models.toml: prices by day and tier, how each is asked, when it ends."""

import os
import tomllib
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

from placid.config import Settings, build
from placid.records import BadInputError, Unscored

FILE = Path(__file__).with_name("gemini_models.toml")
ADDRESS = "GOOGLE_GEMINI_BASE_URL"
"""The environment variable with another address than Google's."""
PREFIX = "models/"
"""Google's own pages write an id with it; answers may or may not."""
SOON_DAYS = 60
"""A model that ends within so many days is named at every use."""


class Price(Settings):
    """Dollars for a million tokens at the standard tier."""

    since: date = date.min
    usd_in: float
    usd_out: float


class Model(Settings):
    """One model."""

    prices: tuple[Price, ...]
    """By first day, rising."""
    ends: date | None = None
    """From this day on its id is refused, or answered by the successor."""
    successor: str = ""


class Catalogue(Settings):
    """The whole file."""

    default: str
    """The judge where the user names none."""
    paper: str
    """The judge of the paper."""
    tiers: dict[str, float]
    """Service tier -> share of the standard price."""
    flex: dict[str, float]
    """Limits of the flex tier, where the user sets none."""
    models: dict[str, Model]
    generation: dict[str, dict[str, Any]]
    """Beginning of an id -> generation settings."""
    filters: tuple[str, ...]
    """Safety filters that can be switched off."""
    finish: dict[str, Unscored]
    """Finish reason of a reply that is no whole answer -> its state. With any other but STOP, what was said is
    read, and nothing said is a refusal of the model."""

    def price(self, model: str) -> Price | None:
        """Today's price; None for a model that is not in the file."""
        known = self.models.get(model)
        return [price for price in known.prices if price.since <= today()][-1] if known else None

    def asked_by(self, model: str) -> dict[str, Any]:
        """Generation settings of the longest beginning of the id."""
        beginning = max((name for name in self.generation if model.startswith(name)), key=len)
        return self.generation[beginning]

    def advice(self, model: str) -> str:
        """What to set where this model does not answer."""
        known = self.models.get(model)
        chosen = (
            f" = {known.successor!r}, its successor," if known and known.successor else " to a model of your choice"
        )
        return f"set judge.model{chosen}"


def today() -> date:
    """The day in UTC."""
    return datetime.now(UTC).date()


CATALOGUE = build(Catalogue, tomllib.loads(FILE.read_text(encoding="utf-8")), str(FILE))


def notice(model: str) -> str:
    """What a user of this model must know today, in a sentence; empty: nothing."""
    known = CATALOGUE.models.get(model)
    if known is not None and known.ends is not None and (known.ends - today()).days <= SOON_DAYS:
        when = "ended" if ended(model) else "ends"
        return (
            f"{model} {when} on {known.ends}: Google then refuses it, or lets {known.successor} answer, whose scores "
            f"differ; {CATALOGUE.advice(model)} and compare the two only over turns that both graded "
            "(placid judge bridge)"
        )
    if model == CATALOGUE.models[CATALOGUE.paper].successor:
        return (
            f"{model} is the successor of {CATALOGUE.paper}, the paper's judge, and its scores differ: compare with "
            "published numbers with care, and with a run of the other judge only over turns that both graded (placid "
            "judge bridge)"
        )
    return ""


def ended(model: str) -> bool:
    """Whether Google no longer serves this model."""
    known = CATALOGUE.models.get(model)
    return known is not None and known.ends is not None and known.ends <= today()


def refuse_ended(model: str) -> None:
    """Raises BadInputError with the successor's name for a model that has ended. A gateway may serve it longer."""
    if ended(model) and not os.environ.get(ADDRESS):
        raise BadInputError(notice(model))
