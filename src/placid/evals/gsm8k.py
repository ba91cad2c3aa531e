"""GSM8K: word problems with one exact number as answer."""

from collections.abc import Iterator

from placid.evals import METRICS, Ask, Eval, Heard, Reading, Row, answers, user
from placid.evals.sources import MINI, found, mini
from placid.inputs.rows import SourceRow, read_rows

END = "\n\nThink step by step, and end with a line of the form: The answer is <number>."


class Gsm8k(Eval):
    """Settings of [evals.gsm8k]."""

    max_tokens: int = 512
    """Most tokens of a reply."""

    metrics = METRICS["gsm8k"]

    def rows(self) -> Iterator[Row]:
        """One row a problem."""
        if self.source == MINI:
            for row in mini("gsm8k"):
                yield self._row(row.text("id"), row.text("question"), row.text("answer"))
            return
        for file in found("gsm8k", self.source):
            for number, row in enumerate(read_rows(file)):
                yield self._row(f"gsm8k-{number:04}", row.text("question"), _truth(row))

    def _row(self, name: str, question: str, truth: str) -> Row:
        return Row(id=name, asks={"": Ask(messages=user(question + END), max_tokens=self.max_tokens)}, truth=truth)

    def read(self, row: Row, heard: Heard) -> Reading:
        """right, wrong, or why there is no number."""
        if heard.parts[""].cut:
            return Reading(answers.CUT)
        said = answers.number(heard.text())
        if said.state:
            return Reading(said.state)
        right = answers.same_number(said.value, row.truth)
        return Reading("right" if right else "wrong", {"accuracy": right}, said.value)


def _truth(row: SourceRow) -> str:
    """The number behind the last ####, or that is all of the answer."""
    truth = answers.numeral(row.text("answer").rpartition("####")[2].strip())
    if truth.state:
        raise row.wrong("answer", "a number behind ####, and nothing behind it")
    return truth.value
