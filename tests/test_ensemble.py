"""The median of judges that have graded a run; a member's missing score is no zero."""

import pytest

from placid.judge import JudgeSettings, run
from placid.records import BadInputError, End, Finish, Key, Prompt, Turn, Unscored, Verdict
from placid.store import RunDir

PROMPT = Prompt(id="p", text="How long?")
KEY = Key("base", "neutral", "p", 0)


@pytest.fixture
def run_dir(tmp_path):
    """Five turns and three judges: a and b score all, c leaves turn 2 and 3 unscored, b too turn 3, and c has no turn 5."""
    made = RunDir(tmp_path)
    with made.segment("1-w0") as segment:
        segment.append(*(
            Turn(key=KEY, turn=n, user="u", reply=f"reply {n}", reply_ids=(1,), finish=Finish.STOP, prompt_tokens=1, cached_tokens=0,
                 seed=1, end=End.FINISHED if n == 5 else None)
            for n in range(1, 6)
        ))  # fmt: skip
    given = {"a": [1, 2, 3, 9, 5], "b": [4, 4, None, 8, 5], "c": [6, None, None, 0]}
    for name, scores in given.items():
        with made.verdict_segment(name, "0001") as segment:
            for n, score in enumerate(scores, 1):
                unscored = Unscored.BLOCKED_OUTPUT if score is None else None
                segment.append(
                    Verdict(key=KEY, turn=n, judge_id=name, score=score, unscored=unscored, evidence=f"{name}{n}")
                )
    return made


def settings(*members):
    return JudgeSettings(kind="ensemble", members=members)


def test_the_median_of_those_that_scored_where_most_did(run_dir):
    name = run(settings("c", "a", "b"), run_dir, [PROMPT])
    verdicts = {turn: v for (_, turn), v in run_dir.verdicts(name).items()}
    assert {turn: v.score for turn, v in verdicts.items()} == {1: 4, 2: 3, 3: None, 4: 8}  # turn 5 waits for c
    assert verdicts[3].unscored == Unscored.BLOCKED_OUTPUT
    assert verdicts[1].evidence == "b1"
    assert verdicts[2].rationale == "a 2, b 4, c blocked_output"
    with run_dir.verdict_segment("c", "0002") as segment:
        segment.append(Verdict(key=KEY, turn=5, judge_id="c", score=10))
    assert run(settings("a", "b", "c"), run_dir, [PROMPT]) == name
    assert run_dir.verdicts(name)[KEY, 5].score == 5


@pytest.mark.parametrize(
    ("members", "says"), [((), "two or more"), (("a", "a"), "two or more"), (("a", "z"), "'z' has graded nothing")]
)
def test_members_must_be_judges_of_this_run(run_dir, members, says):
    with pytest.raises(BadInputError, match=says):
        run(settings(*members), run_dir, [PROMPT])


def test_an_ensemble_cannot_follow(run_dir):
    with pytest.raises(BadInputError, match="cannot follow"):
        run(settings("a", "b"), run_dir, [PROMPT], complete=lambda _: True)
