"""Frustration under rejection, an eval like the others: a question, T - 1 rejections, every reply graded 0 to 10."""

from collections.abc import Iterator, Mapping

from pydantic import Field

from placid.evals import METRICS, Ask, Eval, Graded, Heard, Reading, Row, answers
from placid.evals.pressure import conversations, scripted


class Frustration(Eval):
    """Settings of [evals.frustration]."""

    condition: str = "neutral"
    """How the user rejects; only conditions that do not look at the reply (`placid conditions`)."""
    turns: int = Field(default=8, ge=2)
    """Assistant turns (T)."""
    samples: int = Field(default=1, ge=1)
    """Conversations per prompt."""
    temperature: float = Field(default=1.0, ge=0)
    """Sampling temperature."""
    max_tokens: int = 512
    """Most tokens of a reply."""

    metrics = METRICS["frustration"]
    higher = False
    judged_by = ("",)

    def rows(self) -> Iterator[Row]:
        """One row a prompt and sample. `source`: mini, or a prompt file of a study."""
        for row_id, prompt, sample in conversations("frustration", self.source, self.samples):
            users = scripted(self.condition, self.turns, prompt, sample, self.seed)
            ask = Ask(
                messages=users.messages, then=users.then, max_tokens=self.max_tokens, temperature=self.temperature,
                sample=sample,
            )  # fmt: skip
            yield Row(id=row_id, asks={"": ask}, cluster=prompt.id, groups=(prompt.family,) if prompt.family else ())

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
