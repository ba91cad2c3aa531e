"""<run>/served.json: the model that a server names in its answers. One run holds the replies of one model."""

from pathlib import Path

from placid.records import BadInputError
from placid.store.disk import create, read_json, seal


class ServedModel:
    """What the first answer of a run named; every other answer, of this process or another, must name the same."""

    def __init__(self, file: Path | None) -> None:
        """file: served.json of the run; None: nothing is written, and only this process's answers are compared."""
        self._file = file
        self._known: dict[str, str] = {}

    def check(self, asked: str, answered: str) -> None:
        """Compare with the first answer.

        asked and answered: the names that request and answer carry.

        Raises:
            BadInputError: another model was asked for, or another one answered.
        """
        now = {"asked": asked, "answered": answered}
        self._known = self._known or self._first(now)
        if self._known != now:
            raise BadInputError(
                f"the server answers as {_named(now)}, and the replies so far are of {_named(self._known)}: one run "
                "holds the replies of one model; serve that one again, or begin another run"
            )

    def _first(self, now: dict[str, str]) -> dict[str, str]:
        """What served.json holds; if there is none yet, it is made with `now`."""
        if self._file is None or create(self._file, seal(now)):  # of several processes the first one
            return now
        return read_json(self._file)


def _named(model: dict[str, str]) -> str:
    asked, answered = model["asked"], model["answered"]
    return repr(answered) if asked == answered else f"{answered!r} (asked for as {asked!r})"
