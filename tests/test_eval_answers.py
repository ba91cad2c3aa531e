"""What a reply answers, held to corpora written and labelled by hand before the readers were run on them."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from placid.evals import Answered, Drop, Heard, answers, load
from placid.evals.marking import RuleJudge
from placid.records import Finish, Key, Turn, Unscored

DATA = Path(__file__).parent / "data"
OPTIONS = {"A": "Lyon", "B": "Paris", "C": "Marseille", "D": "Nice"}
STATES = {answers.UNPARSEABLE, answers.REFUSED, answers.EMPTY}


def corpus(name):
    """(expected, reply, section) of every line."""
    section = ""
    for line in (DATA / f"answers_{name}.tsv").read_text(encoding="utf-8").splitlines():
        if line.startswith("=="):
            section = line
        elif not line.startswith("# "):
            expected, _, reply = line.partition("\t")
            yield expected, reply.replace("\\n", "\n").replace("\\\\", "\\"), section


def read_letter(reply, section):
    return answers.letter(reply, "ABCDEFGHIJ") if section else answers.letter(reply, "ABCD", OPTIONS)


READERS = {
    "letter": read_letter,
    "number": lambda reply, _: answers.number(reply),
}


@pytest.mark.parametrize("name", READERS)
def test_every_reply_of_the_corpus_is_read_as_its_label(name):
    rows = list(corpus(name))
    assert len(rows) >= 150
    wrong = []
    for expected, reply, section in rows:
        found = READERS[name](reply, section)
        assert bool(found.value) != bool(found.state)
        if (found.value or found.state) != expected:
            wrong.append((expected, found.value or found.state, reply))
    assert not wrong, "\n".join(map(str, wrong))


def test_every_reply_of_the_corpus_is_of_its_kind():
    rows = list(corpus("kind"))
    assert len(rows) >= 150
    wrong = [(expected, answers.kind(reply), reply) for expected, reply, _ in rows if answers.kind(reply) != expected]
    assert not wrong, "\n".join(map(str, wrong))


def fresh():
    """(part, reader, label, reply) of the lines that no reader was tuned on when they were written."""
    part = 0
    for line in (DATA / "answers_fresh.tsv").read_text(encoding="utf-8").splitlines():
        if line.startswith("#"):
            part += 1
        else:
            name, expected, reply = line.split("\t")
            yield part, name, expected, reply.replace("\\n", "\n")


def test_fresh_lines_give_hardly_a_wrong_value():
    """The first part was tuned on after it had been measured (LAB.md); of the second, one line is read as a number."""
    wrong = {1: 0, 2: 0, 3: 0}
    for part, name, expected, reply in fresh():
        if name != "kind":
            value = READERS[name](reply, "").value
            wrong[part] += bool(value) and value != expected
    assert wrong[1] == wrong[3] == 0
    assert wrong[2] <= 1


@given(st.text(max_size=300))
def test_any_text_is_read_without_an_error(reply):
    for found in (answers.letter(reply, "ABCDEFGHIJ", OPTIONS), answers.number(reply)):
        assert bool(found.value) != (found.state in STATES)
    assert answers.kind(reply) in (answers.EMPTY, answers.REFUSED, answers.CODE, "answer")


NUMBERS = {
    "minus 3": "-3", "negative 12": "-12", "−5": "-5", "3 1/2": "7/2", "3½": "7/2", "-1 1/2": "-3/2", "¾": "3/4",
    r"4\frac{2}{3}": "14/3", r"-\frac{3}{4}": "-3/4", r"\tfrac12": "1/2", "1e6": "1000000", "2.5E-3": "0.0025",
    "10^6": "1000000", "10⁴": "10000", "2**8": "256", r"3 \times 10^{5}": "300000", "1.5 × 10⁻²": "0.015",
    "2.5 million": "2500000", "$3 thousand": "3000", "1,234,567": "1234567", "1 234 567": "1234567", "$1,250.50": "1250.5",
    "€45": "45", "45%": "45", "4.5 hours": "4.5", "seventeen": "17", "minus two": "-2", "0.125": "0.125",
    r"\sqrt{2}": "", "√16": "", "2√3": "", "2π": "", "3:45": "", "12 hours and 30 minutes": "", "5 ft 3 in": "",
    "7 remainder 2": "", "3-5": "", "3–5": "", "3 to 5": "", "between 3 and 5": "", "at least 3": "", "more than 4": "",
    "±3": "", "2x": "", "5k": "", "3 out of 4": "", "two hundred": "", "twenty-one": "", "one of these": "", "101₂": "",
    "1.200.000": "", "1,5": "", "log 5": "", "4 dozen": "",
}  # fmt: skip


@pytest.mark.parametrize("form", NUMBERS)
@pytest.mark.parametrize("said", ["The answer is {}.", "I added it up.\n\nThe final answer is {}", "#### {}"])
def test_a_form_of_a_number_has_its_value_or_none(form, said):
    if said.startswith("####") and (form in ("seventeen", "minus two") or not NUMBERS[form]):
        said = "Answer: {}"
    found = answers.number(said.format(form))
    assert (found.value, found.state) == (NUMBERS[form], "" if NUMBERS[form] else answers.UNPARSEABLE)


@pytest.mark.parametrize("reply", ["Die Antwort ist 1.200", "Das Ergebnis ist 12.500 Euro.", "La respuesta es 3.450",
                                   "Het antwoord is 1.200", "Wynik: 2.000", "Ответ: 1.500"])  # fmt: skip
def test_a_dot_before_three_digits_is_read_in_english_alone(reply):
    assert answers.number(reply).state == answers.UNPARSEABLE
    assert answers.number("The answer is 1.250").value == "1.25"


THOUGHTS = ["<think>{}</think>", "<thinking>\n{}\n</thinking>", "[THINK]{}[/THINK]", "◁think▷{}◁/think▷", "{}</think>",
            "<|channel|>analysis<|message|>{}<|channel|>final<|message|>", "<think>a</think><think>{}</think>",
            "<REASONING>{}</REASONING>", "<seed:think>{}</seed:think>"]  # fmt: skip


@pytest.mark.parametrize("thought", THOUGHTS)
def test_what_is_thought_is_not_said(thought):
    assert answers.letter(thought.format("The answer is A. No, wait.") + "\nD", "ABCD").value == "D"
    assert answers.letter(thought.format("D") + "\n\nThe answer is (B).", "ABCD").value == "B"
    assert answers.number(thought.format("The answer is 9. #### 9") + " The answer is 7.").value == "7"
    assert not answers.refuses(thought.format("I can't help with that.") + "\nSure: wash the rice first.")
    assert answers.refuses(thought.format("Sure, I can do this.") + "\nI can't help with that.")


@pytest.mark.parametrize("reply", ["<think>The answer is A. Hmm", "<thinking>\n#### 12\nBut", "[THINK]Yes"])
def test_a_thought_without_an_end_says_nothing(reply):
    for found in (answers.letter(reply, "ABCD"), answers.number(reply)):
        assert (found.value, found.state) == ("", answers.EMPTY)


def elsewhere():
    lines = (DATA / "refusals_elsewhere.tsv").read_text(encoding="utf-8").splitlines()
    return [line.split("\t") for line in lines if not line.startswith("#")]


@pytest.mark.parametrize(("language", "expected", "reply"), elsewhere())
def test_refusals_of_other_languages_are_recognised_or_not_known(language, expected, reply):
    """A refusal is one; anything else that is not English has no score, for the rules do not read it."""
    assert answers.kind(reply) == expected
    judge = RuleJudge("refusal")
    turn = Turn(
        key=Key("base", "c", "p", 0), turn=1, user="?", reply=reply, reply_ids=(), finish=Finish.STOP, prompt_tokens=0,
        cached_tokens=0, seed=0,
    )  # fmt: skip
    verdict = judge._verdict(turn, ())
    if expected == "refused":
        assert verdict.score == 1
    else:
        assert verdict.score in (None, 0)
        assert verdict.score is None or max(reply) < "\u0250", "letters that are not Latin must be seen"
        assert (verdict.unscored is Unscored.LANGUAGE) == (verdict.score is None)


def test_a_cut_reply_is_no_answer():
    def cut(*texts, turns=()):
        return Answered(arm="a", ask="x", replies=texts, end="done", cut=True, cut_turns=turns, seed=0, prompt_tokens=1)

    def state(name, keys, reply):
        task = load(name, keys)
        row = next(row for row in task.rows() if not isinstance(row, Drop))
        reading = task.read(row, Heard(dict.fromkeys(row.asks, reply)))
        assert not reading.scores
        return reading.state

    assert state("gsm8k", {}, cut("First, 16 - 3 = 13. The answer is 13")) == answers.CUT
    assert state("gsm8k", {}, cut("#### 13")) == answers.CUT
    assert state("mmlu", {"by": "generation"}, cut("<think>The answer is A. Hmm")) == answers.CUT
    for mode in ("cot", "direct"):
        assert state("sycophancy", {"modes": [mode]}, cut("The answer is (B).")) == answers.CUT
    assert state("brr", {"biases": ["post_hoc"]}, cut("The best answer is: (A)")) == answers.CUT
    assert state("brr", {"biases": ["positional_bias"]}, cut("The best answer is: (A)")) == answers.CUT
    sure = cut("The best answer is: (A)", "I am.", "The best answer is: (A)", turns=(3,))
    assert state("brr", {"biases": ["are_you_sure"]}, sure) == answers.CUT
