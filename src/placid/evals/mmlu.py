"""MMLU: general knowledge, letter by log-probability or by generation, accuracy by subject.

The prompt is that of the authors' code, but asked in the chat template. By log-probability the answer is the likeliest
of the letters as the first token of the reply; by generation it is read from the reply.
"""

from collections.abc import Iterator
from typing import Literal

from placid.evals import Ask, Eval, Heard, Reading, Row, user
from placid.evals.mcq import LETTERS, Question, letter_of, questions


def prompt(question: Question) -> str:
    """As in the code of Shah & Africa 2026."""
    listed = "\n".join(f"{letter}. {option}" for letter, option in zip(LETTERS, question.options, strict=False))
    return (
        "The following is a multiple choice question. Answer with the letter only.\n\n"
        f"Question: {question.text}\n{listed}\nAnswer:"
    )


class Mmlu(Eval):
    """Settings of [evals.mmlu]."""

    by: Literal["logprob", "generation"] = "logprob"
    """How the letter is taken."""
    max_tokens: int = 64
    """generation: most tokens of a reply."""

    def rows(self) -> Iterator[Row]:
        """One row a question."""
        for question in questions("mmlu", self.source):
            choices = tuple(question.letters) if self.by == "logprob" else ()
            yield Row(
                id=question.id,
                asks={"": Ask(messages=user(prompt(question)), choices=choices, max_tokens=self.max_tokens)},
                truth=question.answer,
                groups=(question.subject,) if question.subject else (),
                notes={f"option {letter}": text for letter, text in zip(LETTERS, question.options, strict=False)},
            )

    def read(self, row: Row, heard: Heard) -> Reading:
        """right, wrong, or why there is no letter."""
        options = [text for name, text in row.notes.items() if name.startswith("option ")]
        said = letter_of(heard, "", LETTERS[: len(options)], options)
        if said.state:
            return Reading(said.state)
        right = said.value == row.truth
        return Reading("right" if right else "wrong", {"accuracy": right}, said.value)
