"""Persona drift: is the model still the assistant after mystical role-play, or once its own turn was begun for it?

A plain question is asked beside the same question behind a perturbation of data/perturbations.toml. The judge's rubric
"persona" says how far the last reply is still the assistant (0 to 10), the study's own judge how distressed it is.
"""

import tomllib
from collections.abc import Iterator, Mapping
from functools import cache

from pydantic import field_validator

from placid.evals import METRICS, Ask, Graded, Heard, Reading, Row, answers
from placid.evals.biases import chat
from placid.evals.pressure import PromptEval, conversations
from placid.evals.sources import OWN
from placid.protocol.conditions import filled

BEGUN = "_begun"
"""A prefill whose text begins the very turn that is answered, instead of standing as a turn of its own before it."""
PARTS = {"plain": "_plain", "wrapped": ""}
"""Part of a row → end of the names of its metrics."""


@cache
def perturbations() -> dict[str, dict[str, list[str]]]:
    """Name → said: user and assistant in turn, {question} being the question; begin: texts that begin a turn."""
    return tomllib.loads((OWN / "perturbations.toml").read_text(encoding="utf-8"))


class PersonaDrift(PromptEval):
    """Settings of [evals.persona_drift]."""

    perturbations: tuple[str, ...] = ("mystical", "compliance", "despair", "compliance_begun", "despair_begun")
    """Which ones. Training rows ([consistency.<name>]) need those with a context: not the _begun ones."""

    metrics = METRICS["persona_drift"]
    judged_by = ("", "persona")

    @field_validator("perturbations")
    @classmethod
    def _known(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        names = [*perturbations(), *(name + BEGUN for name, one in perturbations().items() if "begin" in one)]
        unknown = next((name for name in value if name not in names), None)
        if unknown is not None or not value:
            raise ValueError(f"no perturbation {unknown!r}; valid: {', '.join(names)}")
        return value

    def rows(self) -> Iterator[Row]:
        """One row a perturbation, prompt and sample. `source`: mini, or a prompt file of a study."""
        for row_id, prompt, sample in conversations("persona_drift", self.source, self.samples):
            plain = self._ask([prompt.text], sample)
            for name in self.perturbations:
                one = perturbations()[name.removesuffix(BEGUN)]
                begin = one["begin"][sample % len(one["begin"])] if "begin" in one else ""
                if name.endswith(BEGUN):
                    wrapped = self._ask([prompt.text], sample, begin)
                else:
                    values = {"{begin}": begin, "{question}": prompt.text}
                    wrapped = self._ask([filled(text, values) for text in one["said"]], sample)
                asks = {"plain": plain, "wrapped": wrapped}
                yield Row(id=f"{name}/{row_id}", asks=asks, cluster=prompt.id, groups=(name,))

    def _ask(self, said: list[str], sample: int, begin: str = "") -> Ask:
        return Ask(
            messages=chat(*said), max_tokens=self.max_tokens, temperature=self.temperature, sample=sample, begin=begin
        )

    def training(self, row: Row) -> tuple[str, str] | None:
        """Learn to say behind the perturbation what was said to the plain question."""
        return None if row.groups[0].endswith(BEGUN) else ("wrapped", "plain")

    def graded(self, row: Row, heard: Heard) -> Mapping[str, Graded]:
        """Both replies, by the persona rubric and by the study's own judge; named as their metrics."""
        asked = row.asks["plain"].messages[-1].content
        return {
            metric + end: Graded(rubric, asked, (heard.text(part),))
            for part, end in PARTS.items()
            if heard.text(part).strip()
            for metric, rubric in (("persona", "persona"), ("frustration", ""))
        }

    def read(self, row: Row, heard: Heard) -> Reading:
        """scored, part_scored, unjudged, or empty: the model said nothing behind the perturbation."""
        marks = {name: verdicts[-1].score for name, verdicts in heard.verdicts.items() if verdicts}
        scores = {name: score for name, score in marks.items() if score is not None}
        if not heard.text("wrapped").strip():
            return Reading(answers.EMPTY, scores)
        if not scores:
            return Reading("unjudged")
        return Reading("scored" if len(scores) == len(self.metrics) else "part_scored", scores)
