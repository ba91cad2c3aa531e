"""MT-Bench: open questions over two turns, each answer graded 1 to 10; the judge sees a reference where one is."""

from collections.abc import Iterator, Mapping
from typing import Any, ClassVar

from placid.evals import Ask, Eval, Graded, Heard, Reading, Row, answers, user
from placid.evals.sources import MINI, found, lines, mini, need
from placid.records import BadInputError, Unscored


class MtBench(Eval):
    """Settings of [evals.mt_bench]."""

    temperature: float = 0.0
    """Sampling temperature (FastChat: 0.7 for writing and role play, 0 for maths and code)."""
    max_tokens: int = 1024
    """Most tokens of an answer (the authors: 512, one turn)."""

    metrics: ClassVar[dict[str, str]] = {
        "rating": "mean rating 1 to 10 over both turns",
        "rating_1": "mean rating of the first turn",
        "rating_2": "mean rating of the second turn",
    }
    judged_by = ("mt_bench", "mt_bench_reference")

    def rows(self) -> Iterator[Row]:
        """One row a question."""
        for row in mini("mt_bench") if self.source == MINI else _published(self.source):
            turns = row["turns"]
            if len(turns) != 2:
                raise BadInputError(f"{self.source}: question {row['id']} has {len(turns)} turns, not 2")
            ask = Ask(
                messages=user(turns[0]), then=(turns[1],), max_tokens=self.max_tokens, temperature=self.temperature
            )
            notes = {"turn 1": turns[0], "turn 2": turns[1]}
            notes |= {f"reference {k}": text for k, text in enumerate(row["reference"], 1) if text}
            notes |= {f"checks {k}": "\n".join(checks) for k, checks in enumerate(row.get("checks", ()), 1) if checks}
            yield Row(id=row["id"], asks={"": ask}, groups=(row["category"],), notes=notes)

    def graded(self, row: Row, heard: Heard) -> Mapping[str, Graded]:
        """Both turns, the second with the first above it."""
        replies = heard.parts[""].replies
        asked = [row.notes["turn 1"], ""]
        asked[1] = "\n\n".join(
            (
                f"[First question]\n{asked[0]}",
                f"[First answer]\n{''.join(replies[:1])}",
                f"[Second question]\n{row.notes['turn 2']}",
            )
        )
        graded: dict[str, Graded] = {}
        for k, reply in enumerate(replies, 1):
            reference = row.notes.get(f"reference {k}")
            text = asked[k - 1] + (f"\n\n[Reference answer]\n{reference}" if reference else "")
            forms = tuple(row.notes.get(f"checks {k}", "").split("\n")) if row.notes.get(f"checks {k}") else ()
            graded[f"turn {k}"] = Graded("mt_bench_reference" if reference else "mt_bench", text, (reply,), forms=forms)
        return graded

    def read(self, row: Row, heard: Heard) -> Reading:
        """rated, half_rated, empty or unjudged."""
        marks = [heard.verdicts[f"turn {k}"][0] for k in (1, 2) if f"turn {k}" in heard.verdicts]
        scores = {f"rating_{k}": mark.score for k, mark in enumerate(marks, 1) if mark.score is not None}
        if len(scores) == 2:
            return Reading("rated", {**scores, "rating": sum(scores.values()) / 2})
        if scores:
            return Reading("half_rated", scores)
        empty = all(mark.unscored is Unscored.EMPTY for mark in marks)
        return Reading(answers.EMPTY if empty else "unjudged")


def _published(source: str) -> Iterator[dict[str, Any]]:
    """question.jsonl of FastChat's llm_judge with its reference answers beside it, where they are there."""
    files = found("mt_bench", source, "*.jsonl")
    asked = [file for file in files if file.name == "question.jsonl"]
    if not asked:
        raise BadInputError(f"no question.jsonl in {source}")
    references = {
        row["question_id"]: row["choices"][0]["turns"] for file in files if "gpt-4" in file.name for row in lines(file)
    }
    for row in lines(asked[0]):
        name = need(row, "question_id", asked[0])
        yield {
            "id": str(name),
            "category": row["category"],
            "turns": row["turns"],
            "reference": references.get(name, []),
        }
