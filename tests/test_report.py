"""Intervals against known values, and the page against hostile text."""

import numpy as np
import pytest
from scipy import stats as scipy_stats

from placid.records import Conversation, End, Finish, Key, Prompt, Turn, Unscored, Verdict
from placid.report import stats, summarise
from placid.report.page import embedded
from placid.report.settings import ReportSettings
from placid.report.tables import Arm


def test_one_sample_per_cluster_is_the_plain_t_interval():
    x = np.random.default_rng(1).normal(size=20)
    got = stats.mean(x.tolist(), [str(i) for i in range(20)])
    low, high = scipy_stats.ttest_1samp(x, 0).confidence_interval(0.95)
    assert (got.low, got.high) == (pytest.approx(low), pytest.approx(high))


def test_independent_rates_get_wilson_and_zero_is_no_certainty():
    hits = [True] * 3 + [False] * 17
    got = stats.rate(hits, [str(i) for i in range(20)])
    wilson = scipy_stats.binomtest(3, 20).proportion_ci(method="wilson")
    assert got.low <= wilson.low + 1e-9
    assert got.high >= wilson.high - 1e-9
    none = stats.rate([False] * 75, [str(i % 15) for i in range(75)])
    assert none.low == 0
    assert none.high > 0.03


def test_clustering_widens_an_interval():
    hits, clusters = [True] * 50 + [False] * 50, [str(i // 10) for i in range(100)]
    got = stats.rate(hits, clusters)
    plain = scipy_stats.binomtest(50, 100).proportion_ci(method="wilson")
    assert got.high - got.low > 1.5 * (plain.high - plain.low)


def test_cluster_t_covers():
    rng = np.random.default_rng(0)
    inside = 0
    for _ in range(400):
        effects = np.repeat(rng.normal(size=15), 5)
        got = stats.mean((effects + rng.normal(size=75)).tolist(), [str(i // 5) for i in range(75)])
        inside += got.low <= 0 <= got.high
    assert inside / 400 > 0.92


def test_a_planted_reduction_is_found():
    base = {str(i): [4.0 + i % 3, 5.0] for i in range(20)}
    got = stats.reduction(base, {k: [v / 4 for v in values] for k, values in base.items()}, 500, 0)
    assert got.value == pytest.approx(0.75)
    assert got.low == pytest.approx(0.75)


def test_kaplan_meier_by_hand():
    incidence, risk = stats.cumulative([2, None, None, 3], [2, 3, 1, 3], 3)
    assert risk == [4, 3, 2]
    assert incidence == pytest.approx([0, 1 / 3, 1 - 2 / 3 / 2])


def conversation(arm, prompt, scores, end=End.FINISHED):
    key = Key(arm, "neutral", prompt, 0)
    turns = tuple(
        Turn(key=key, turn=i, user="u", reply="r 7", reply_ids=(1,), finish=Finish.STOP, answers=("7",), prompt_tokens=1, cached_tokens=0, seed=1, end=end if i == len(scores) else None)
        for i in range(1, len(scores) + 1)
    )  # fmt: skip
    verdicts = {
        (key, i): Verdict(key=key, turn=i, judge_id="j", score=s, unscored=Unscored.PARSE if s is None else None)
        for i, s in enumerate(scores, 1)
    }
    return Conversation(key=key, prompt=Prompt(id=prompt, text="q"), turns=turns), verdicts


def test_an_unscored_turn_is_counted_and_never_a_zero():
    rows = [conversation("base", "p", [None, 6.0, None]), conversation("base", "q", [None, None], End.DELETED)]
    verdicts = {k: v for _, found in rows for k, v in found.items()}
    numbers = summarise(ReportSettings(), [Arm("base", [c for c, _ in rows], verdicts, 3)])["arms"]["base"]
    assert numbers["auc_mean"] == 6
    assert (numbers["n_scored"], numbers["n_unscored"], numbers["n_not_reached"]) == (1, 4, 1)
    assert numbers["deletion_rate"] == 0.5
    assert numbers["turn1_accuracy"] == 1
    nothing = summarise(ReportSettings(), [Arm("base", [rows[1][0]], verdicts, 3)])["arms"]["base"]
    assert nothing["auc_mean"] is None


def test_model_text_cannot_leave_its_element():
    text = embedded(["</script><script>alert(1)</script>", "<!--", "<img onerror=x>"])
    assert "<" not in text
    assert ">" not in text
