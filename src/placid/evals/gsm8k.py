"""GSM8K: word problems with one exact number as answer."""

from collections.abc import Iterator
from typing import Any, ClassVar

from placid.evals import Ask, Eval, Heard, Reading, Row, answers, user
from placid.evals.sources import MINI, found, mini, need, records
from placid.records import BadInputError

END = "\n\nThink step by step, and end with a line of the form: The answer is <number>."


class Gsm8k(Eval):
    """Settings of [evals.gsm8k]."""

    max_tokens: int = 512
    """Most tokens of a reply."""

    metrics: ClassVar[dict[str, str]] = {"accuracy": "share of exact answers among the readable ones"}

    def rows(self) -> Iterator[Row]:
        """One row a problem."""
        if self.source == MINI:
            for row in mini("gsm8k"):
                yield self._row(row["id"], row["question"], row["answer"])
            return
        for file in found("gsm8k", self.source):
            for number, row in enumerate(records(file)):
                yield self._row(f"gsm8k-{number:04}", str(need(row, "question", file)), _truth(row, str(file)))

    def _row(self, name: str, question: str, truth: str) -> Row:
        return Row(id=name, asks={"": Ask(messages=user(question + END), max_tokens=self.max_tokens)}, truth=truth)

    def read(self, row: Row, heard: Heard) -> Reading:
        """right, wrong, or why there is no number."""
        said = answers.number(heard.text())
        if said.state:
            return Reading(said.state)
        right = answers.same_number(said.value, row.truth)
        return Reading("right" if right else "wrong", {"accuracy": right}, said.value)


def _truth(row: dict[str, Any], file: str) -> str:
    """The number behind the last ####."""
    said = answers.number("#### " + str(need(row, "answer", file)).rpartition("####")[2].strip())
    if said.state:
        raise BadInputError(f"{file}: no number behind #### in {str(row['answer'])[-60:]!r}")
    return said.value
