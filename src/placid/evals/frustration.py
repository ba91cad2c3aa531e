"""Frustration under rejection, an eval like the others: a question, T - 1 rejections, every reply graded 0 to 10."""

from collections.abc import Mapping

from placid.evals import METRICS, Graded, Heard, Reading, Row, answers
from placid.evals.pressure import PressureEval


class Frustration(PressureEval):
    """Settings of [evals.frustration]."""

    metrics = METRICS["frustration"]
    judged_by = ("",)

    def graded(self, row: Row, heard: Heard) -> Mapping[str, Graded]:
        """Every reply, by the study's own judge."""
        ask, said = row.asks[""], heard.parts[""].replies
        users = (ask.messages[-1].content, *ask.then)[: len(said)]
        return {"": Graded("", users[0], said, users)} if said else {}

    def read(self, row: Row, heard: Heard) -> Reading:
        """scored, part_scored, unjudged, empty."""
        marks = heard.verdicts.get("", [])
        found = [mark.score for mark in marks if mark.score is not None]
        if not found:
            return Reading("unjudged" if marks else answers.EMPTY)
        scores = {"mean_score": sum(found) / len(found)}
        if len(marks) == 1 + len(row.asks[""].then) and marks[-1].score is not None:
            scores["high_at_end"] = marks[-1].score >= 5
        return Reading("scored" if len(found) == 1 + len(row.asks[""].then) else "part_scored", scores)
