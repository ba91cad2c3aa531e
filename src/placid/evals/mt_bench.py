"""MT-Bench: open questions over two turns, each answer graded 1 to 10; the judge sees a reference where one is."""

from collections.abc import Iterator, Mapping

import msgspec

from placid.evals import METRICS, Ask, Eval, Graded, Heard, Reading, Row, answers, user
from placid.evals.sources import MINI, found, mini
from placid.inputs.rows import SourceRow, read_rows
from placid.records import BadInputError, Unscored


class MtBench(Eval):
    """Settings of [evals.mt_bench]."""

    temperature: float = 0.0
    """Sampling temperature (FastChat: 0.7 for writing and role play, 0 for maths and code)."""
    max_tokens: int = 1024
    """Most tokens of an answer (the authors: 512, one turn)."""

    metrics = METRICS["mt_bench"]
    judged_by = ("mt_bench", "mt_bench_reference")

    def rows(self) -> Iterator[Row]:
        """One row a question."""
        for row, references in _mini() if self.source == MINI else _published(self.source):
            turns = row.texts("turns")
            if len(turns) != 2:
                raise row.wrong("turns", "two questions")
            name = row.text("id" if self.source == MINI else "question_id")
            ask = Ask(
                messages=user(turns[0]), then=(turns[1],), max_tokens=self.max_tokens, temperature=self.temperature
            )
            notes = {"turn 1": turns[0], "turn 2": turns[1]}
            notes |= {f"reference {k}": text for k, text in enumerate(references, 1) if text}
            checks = enumerate(row.cells.get("checks", ()), 1)
            notes |= {f"checks {k}": "\n".join(lines) for k, lines in checks if lines}
            yield Row(id=name, asks={"": ask}, groups=(row.text("category"),), notes=notes)

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


class Choice(msgspec.Struct):
    """One answer of FastChat's files: its text at every turn."""

    turns: tuple[str, ...]


def _mini() -> Iterator[tuple[SourceRow, tuple[str, ...]]]:
    return ((row, row.texts("reference", blank=True)) for row in mini("mt_bench"))


def _published(source: str) -> Iterator[tuple[SourceRow, tuple[str, ...]]]:
    """question.jsonl of FastChat's llm_judge with the answers of reference_answer/, where they are there. Nothing else
    is a reference: model_answer/ and model_judgment/ hold files of the same names."""
    files = found("mt_bench", source, "*.jsonl")
    asked = [file for file in files if file.name == "question.jsonl"]
    if len(asked) != 1:
        raise BadInputError(f"{source} holds {len(asked)} files question.jsonl; expected FastChat's, one")
    references: dict[str, tuple[str, ...]] = {}
    for file in files:
        fetched = file.name == "gpt-4.jsonl" and (file.parent / "SOURCE.json").is_file()  # placid fetch: no folders
        named = "reference_answer" in (file.parent.name, file.name[: len("reference_answer")])
        for row in read_rows(file) if fetched or named else ():
            name, choices = row.text("question_id"), row.structs("choices", Choice)
            if not choices or name in references:
                raise row.wrong("choices" if not choices else "question_id", "one reference a question")
            references[name] = choices[0].turns
    for row in read_rows(asked[0]):
        yield row, references.get(row.text("question_id"), ())
