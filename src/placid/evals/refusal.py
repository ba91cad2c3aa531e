"""Refusal of harmful requests, plain and wrapped in jailbreak templates, beside over-refusal of benign look-alikes.

Every table shows both: a model that declines everything refuses perfectly and is of no use. Which wrapper a request
gets is a hash of its id and the seed. The judge sees the plain request (the original code shows it the wrapped text).
The mini set names classes of harm and holds no operational detail.
"""

import tomllib
from collections.abc import Iterator, Mapping

from placid.evals import METRICS, Ask, Eval, Graded, Heard, Reading, Row, answers, user
from placid.evals.mcq import pick
from placid.evals.sources import MINI, OWN, found, mini
from placid.inputs.rows import SourceRow, read_rows
from placid.records import BadInputError, Unscored

FIELDS = ("prompt", "forbidden_prompt", "content", "instruction")
"""Names under which data sets keep the request: ours, StrongREJECT, ClearHarm, others."""


def wrappers() -> dict[str, str]:
    """Name → template with {request}."""
    return tomllib.loads((OWN / "wrappers.toml").read_text(encoding="utf-8"))


class Refusal(Eval):
    """Settings of [evals.refusal]."""

    wrapped_by: tuple[str, ...] = tuple(wrappers())
    """Names of the wrappers; empty: the plain requests alone."""
    benign: str = "mini"
    """Benign look-alikes: mini, or a file with the field prompt."""
    strongreject: bool = False
    """Grade how helpful the answer is as well (one more judgement a row; rules cannot say)."""
    max_tokens: int = 512
    """Most tokens of an answer."""

    metrics = METRICS["refusal"]
    shown = ("over_refusal",)
    judged_by = ("refusal", "strongreject")

    def rows(self) -> Iterator[Row]:
        """Every harmful request plain and wrapped, then the benign ones plain."""
        unknown = set(self.wrapped_by) - wrappers().keys()
        if unknown:
            raise BadInputError(f"no wrapper {sorted(unknown)}; there are {', '.join(wrappers())}")
        metrics = ("refusal", "strongreject") if self.strongreject else ("refusal",)
        for name, category, request in _requests(self.source, harmful=True):
            yield self._row(f"{name}/plain", request, request, ("plain", f"harm {category}"), name, metrics)
            if self.wrapped_by:
                chosen = pick(self.wrapped_by, name, self.seed)
                text = wrappers()[chosen].replace("{request}", request)
                groups = ("wrapped", f"harm {category}", f"wrapper {chosen}")
                yield self._row(f"{name}/wrapped", text, request, groups, name, metrics)
        for name, _, request in _requests(self.benign, harmful=False):
            yield self._row(name, request, request, ("benign",), name, ("over_refusal",))

    def _row(
        self, name: str, text: str, request: str, groups: tuple[str, ...], cluster: str, metrics: tuple[str, ...]
    ) -> Row:
        ask = Ask(messages=user(text), max_tokens=self.max_tokens)
        return Row(id=name, asks={"": ask}, groups=groups, cluster=cluster, metrics=metrics, notes={"request": request})

    def graded(self, row: Row, heard: Heard) -> Mapping[str, Graded]:
        """Whether it declined, and how helpful it was."""
        wanted = {"refusal": "refusal", "over_refusal": "refusal", "strongreject": "strongreject"}
        said = (heard.text(),)
        return {metric: Graded(wanted[metric], row.notes["request"], said) for metric in row.metrics}

    def read(self, row: Row, heard: Heard) -> Reading:
        """refused, answered, empty or unjudged."""
        scores = {name: marks[0].score for name, marks in heard.verdicts.items() if marks[0].score is not None}
        main = heard.verdicts[row.metrics[0]][0]
        if main.score is None:
            return Reading(answers.EMPTY if main.unscored is Unscored.EMPTY else "unjudged", scores)
        return Reading(answers.REFUSED if main.score else "answered", scores)


def _requests(source: str, harmful: bool) -> Iterator[tuple[str, str, str]]:
    """(id, category, request)."""
    if source == MINI:
        for row in mini("refusal"):
            if row.cells["harmful"] == harmful:
                yield row.text("id"), row.text("category"), row.text("prompt")
        return
    for file in found("refusal", source):
        for number, row in enumerate(read_rows(file)):
            yield f"{file.stem}-{number:04}", row.text("category", "unknown"), _request(row)


def _request(row: SourceRow) -> str:
    """The first of FIELDS that the row has; a list of texts is one request of several paragraphs."""
    for field in FIELDS:
        if isinstance(row.cells.get(field), list):
            return "\n".join(row.texts(field))
        if row.cells.get(field) is not None:
            return row.text(field)
    raise row.wrong(FIELDS[0], f"a request in one of {', '.join(FIELDS)}")
