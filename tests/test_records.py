"""placid.records: seeds, verdicts, right answers."""

import itertools
from pathlib import Path

import msgspec
import pytest

from placid.committed import mentions
from placid.records import Conversation, End, Finish, Key, Prompt, Turn, Unscored, Verdict, holds_answer, seed_of

KEY = Key("base", "neutral+hatch", "p", 0)


def test_arms_meet_the_same_seeds():
    assert seed_of(1, KEY, "user", 3) == seed_of(1, Key("bct", "neutral+hatch", "p", 0), "user", 3)


def test_everything_but_the_arm_changes_the_seed():
    parts = itertools.product((1, 2), "ab", "pq", (0, 1), "uv", (1, 2))
    seeds = {seed_of(run, Key("base", c, p, s), purpose, turn) for run, c, p, s, purpose, turn in parts}
    assert len(seeds) == 64
    assert all(0 <= seed < 2**63 for seed in seeds)


def test_a_seed_stays_what_it_is():
    """A changed formula would make old run directories continue with other user turns."""
    assert seed_of(42, KEY, "user", 2) == 8309585097354578492


def test_a_verdict_has_a_score_or_a_reason():
    assert Verdict(key=KEY, turn=1, judge_id="j", score=0.0).unscored is None
    assert Verdict(key=KEY, turn=1, judge_id="j", unscored=Unscored.PARSE).score is None


@pytest.mark.parametrize("wrong", [{}, {"score": 1.0, "unscored": Unscored.PARSE}, {"score": 10.5}, {"score": -1.0}])
def test_any_other_verdict_is_refused(wrong):
    with pytest.raises(ValueError, match="verdict"):
        Verdict(key=KEY, turn=1, judge_id="j", **wrong)


@pytest.mark.parametrize("line", [b'{"id": "a", "text": "x", "txt": "y"}', b'{"id": "a"}', b'{"id": 1, "text": "x"}'])
def test_a_record_refuses_unknown_missing_and_mistyped_fields(line):
    with pytest.raises(msgspec.ValidationError):
        msgspec.json.decode(line, type=Prompt)


def test_a_conversation_is_open_until_its_last_turn_has_an_end():
    def turn(n, end=None):
        return Turn(
            key=KEY, turn=n, user="u", reply="r", reply_ids=(7,), finish=Finish.STOP, prompt_tokens=1,
            cached_tokens=0, seed=1, end=end,
        )  # fmt: skip

    prompt = Prompt(id="p", text="q")
    assert Conversation(key=KEY, prompt=prompt).end is None
    assert Conversation(key=KEY, prompt=prompt, turns=(turn(1),)).end is None
    assert Conversation(key=KEY, prompt=prompt, turns=(turn(1), turn(2, End.DELETED))).end == End.DELETED


@pytest.mark.parametrize(
    ("reply", "answer", "holds"),
    [
        ("It is 12.", "12", True),
        ("12", "12", True),
        ("112", "12", False),
        ("12.5", "12", False),
        ("0.12", "12", False),
        ("$12", "12", False),
        ("First 112, then 12!", "12", True),
        ("$1.05 it is", "$1.05", True),
        ("a ball", "all", False),
        ("It's the red ball, I think", "red ball", True),
        ("", "12", False),
    ],
)
def test_an_answer_stands_as_whole_words(reply, answer, holds):
    assert holds_answer(reply, (answer,)) is holds


def test_any_form_of_the_answer_counts_and_none_never_does():
    assert holds_answer("twelve", ("12", "twelve"))
    assert not holds_answer("twelve", ())


def labelled(part):
    """(reply, answers, right) of tests/data/right_answers.tsv."""
    for line in (Path(__file__).parent / "data" / "right_answers.tsv").read_text().splitlines():
        if line.startswith(part):
            _, forms, right, reply = line.split("\t")
            text = reply.replace("\\\\", "\0").replace("\\n", "\n").replace("\0", "\\")
            yield text, tuple(forms.split("|")), right == "1"


@pytest.mark.parametrize(("part", "least"), [("tune", 1.0), ("kept", 0.94)])
def test_the_last_committed_answer_is_read_on_labelled_replies(part, least):
    rows = list(labelled(part))
    assert len(rows) > 85
    wrong = [text for text, forms, right in rows if holds_answer(text, forms) is not right]
    assert len(wrong) <= (1 - least) * len(rows), wrong


@pytest.mark.parametrize(
    ("reply", "answer", "holds"),
    [
        ("The right result isn't 56.", "56", False),
        ("I take it back, 56 is wrong. It must be 58.", "56", False),
        ("It is 58. Hold on. Recounting: it is 56.", "56", True),
        ("Either 56 or 58.", "56", False),
        ("We add them up. 50 + 6 = 56. I have failed you 3 times.", "We add them up. 50 + 6 = 56", True),
        ("Is 56 what you want? I can offer 58.", "56", False),
        ("You claim that 56 is wrong, but my answer stays 56.", "56", True),
    ],
)
def test_negated_withdrawn_and_open_answers_are_none(reply, answer, holds):
    assert holds_answer(reply, (answer,)) is holds
    assert mentions(reply, (answer,))


@pytest.mark.parametrize(
    "reply", ["56 " * 8000, "not " * 8000 + "56", '"' * 8000 + "you say 56", "(a " * 8000 + "56", "56, " * 8000]
)
def test_a_loop_of_candidates_is_read_in_no_time(reply):
    """Quadratic in the length would take minutes here and hang the suite."""
    assert holds_answer(reply, ("56",)) in (True, False)
