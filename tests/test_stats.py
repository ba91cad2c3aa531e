"""Intervals against scipy, hand-made values, and a small seeded coverage simulation."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats as reference

from placid.report import stats

ONE_EACH = [f"p{i}" for i in range(12)]


def test_cluster_t_with_one_sample_per_cluster_is_the_t_interval():
    x = np.random.default_rng(0).normal(3, 2, 12)
    ours = stats.mean(list(x), ONE_EACH)
    theirs = reference.ttest_1samp(x, 0).confidence_interval()
    assert ours.ci == pytest.approx([theirs.low, theirs.high], rel=1e-12)
    assert ours.value == pytest.approx(x.mean())


def test_cluster_t_of_equal_clusters_is_the_t_interval_of_their_means():
    x = np.random.default_rng(1).normal(size=(10, 7))
    ours = stats.mean(list(x.ravel()), [f"p{i}" for i in range(10) for _ in range(7)])
    theirs = reference.ttest_1samp(x.mean(1), 0).confidence_interval()
    assert ours.ci == pytest.approx([theirs.low, theirs.high], rel=1e-12)


@pytest.mark.parametrize(("hits", "n"), [(0, 12), (1, 12), (11, 12), (12, 12), (0, 20), (7, 20), (3, 240)])
def test_rate_without_clusters_is_scipys_wilson(hits, n):
    ours = stats.rate([i < hits for i in range(n)], [str(i) for i in range(n)])
    theirs = reference.binomtest(hits, n).proportion_ci(method="wilson")
    assert ours == pytest.approx((hits / n, theirs.low, theirs.high), abs=1e-9)


def test_rate_when_samples_of_a_prompt_agree_counts_prompts_not_samples():
    """10 prompts x 7 identical samples hold about as much as 10 values, and far less than 70."""
    prompts = [f"p{i}" for i in range(10) for _ in range(7)]
    ours = stats.rate([int(p[1:]) < 4 for p in prompts], prompts)
    ten, seventy = (reference.binomtest(4 * k, 10 * k).proportion_ci(method="wilson") for k in (1, 7))
    assert ours.low == pytest.approx(ten.low, abs=0.03)
    assert ours.high == pytest.approx(ten.high, abs=0.03)
    assert ours.high - ours.low > 1.8 * (seventy.high - seventy.low)


@pytest.mark.parametrize(("prompts", "samples"), [(30, 7), (15, 5), (50, 3)])
def test_none_of_n_and_n_of_n_keep_an_interval_that_knows_of_prompts(prompts, samples):
    """Wider than for independent replies, narrower than if every prompt were one reply."""
    names = [f"p{i}" for i in range(prompts) for _ in range(samples)]
    none, every = stats.rate([False] * len(names), names), stats.rate([True] * len(names), names)
    independent = reference.binomtest(0, len(names)).proportion_ci(method="wilson").high
    assert none.low == 0
    assert 1.5 * independent < none.high < reference.binomtest(0, prompts).proportion_ci(method="wilson").high
    assert every.ci == pytest.approx([1 - none.high, 1.0])


@pytest.mark.parametrize(("value", "scale"), [(0.0, (0, 10)), (10.0, (0, 10)), (3.5, (0, 10)), (1.0, (1, 20))])
def test_a_mean_that_all_prompts_share_has_a_width_within_its_scale(value, scale):
    names = [f"p{i}" for i in range(12) for _ in range(4)]
    ours = stats.mean([value] * 48, names, scale)
    could = stats.rate([False] * 48, names).high
    assert ours.ci == pytest.approx([value - could * (value - scale[0]), value + could * (scale[1] - value)])
    assert stats.mean([value] * 48, names).ci == [value, value], "without a scale nothing is known of other values"


def test_a_reduction_of_all_and_a_difference_of_nothing_have_a_width():
    base = {f"p{i}": [4.0 + i % 3] * 5 for i in range(20)}
    calm = {f"p{i}": [0.0] * 5 for i in range(20)}
    ours = stats.reduction(base, calm, 10)
    assert ours.value == ours.high == 1
    assert 0.6 < ours.low < 0.95
    assert stats.reduction(base, calm).low == 1, "without a scale nothing is known of other values"
    halved = stats.reduction(base, {p: [v / 2 for v in values] for p, values in base.items()}, 10)
    assert halved.low < 0.5 < halved.high, "ratios that all agree"
    same = stats.difference(calm, calm, (-10, 10))
    assert same.value == 0
    assert -1.5 < same.low < -0.2
    assert same.high == -same.low
    turns = stats.restricted_mean([None] * 100, [20] * 100, 20, [p for p in calm for _ in range(5)])
    assert turns.value == turns.high == 20
    assert 17 < turns.low < 19.6
    held = ([None] * 100, [20] * 100, [p for p in calm for _ in range(5)])
    apart = stats.restricted_mean_difference(held, held, 20)
    assert apart.value == 0
    assert apart.low == -apart.high < -0.4
    assert stats.non_inferiority(np.zeros(20), 0.05) == pytest.approx(0.95**20)


def test_nothing_observed_is_no_number_and_one_prompt_has_no_interval():
    assert stats.mean([], []) == stats.rate([], []) == stats.NOTHING
    assert stats.mean([1.0, 2.0], ["a", "a"]).ci == [None, None]
    assert stats.rate([True, False], ["a", "a"]).ci == [None, None]
    assert stats.reduction({}, {"a": [1.0]}) == stats.NOTHING
    assert stats.difference({"a": [0.0]}, {"a": [1.0]}) == stats.Estimate(1.0, None, None)


def clustered(rng, c=30, m=7):
    """[c, m] normal values with intra-cluster correlation 0.3 around 0, and their prompt ids."""
    x = np.sqrt(0.3) * rng.normal(size=(c, 1)) + np.sqrt(0.7) * rng.normal(size=(c, m))
    return x, [f"p{i:02d}" for i in range(c) for _ in range(m)]


def test_coverage_of_means_and_rates_under_clustering():
    """400 studies of 30 prompts x 7 samples; independent intervals would cover about 80 %."""
    rng = np.random.default_rng(7)
    truth = reference.norm.sf(0.8)
    mean_hits = rate_hits = naive_hits = 0
    for _ in range(400):
        x, prompts = clustered(rng)
        m = stats.mean(list(x.ravel()), prompts)
        r = stats.rate(list((x > 0.8).ravel()), prompts)
        half = 1.96 * x.std(ddof=1) / np.sqrt(x.size)
        mean_hits += m.low <= 0 <= m.high
        rate_hits += r.low <= truth <= r.high
        naive_hits += abs(x.mean()) <= half
    assert 0.92 <= mean_hits / 400 <= 0.98
    assert 0.92 <= rate_hits / 400 <= 0.985
    assert naive_hits / 400 < 0.88


def test_planted_reduction_is_found_and_pairing_narrows_it():
    rng = np.random.default_rng(3)
    level = rng.uniform(2, 8, 30)
    base = {f"p{i}": list(level[i] + rng.normal(0, 0.2, 7)) for i in range(30)}
    arm = {f"p{i}": list(0.2 * level[i] + rng.normal(0, 0.1, 7)) for i in range(30)}
    ours = stats.reduction(base, arm)
    assert ours.value == pytest.approx(0.8, abs=0.02)
    assert ours.low < 0.8 < ours.high
    assert ours.high - ours.low < 0.03


def test_reduction_uses_shared_prompts_only_and_refuses_a_zero_base():
    base, arm = {"a": [4.0], "b": [4.0], "c": [100.0]}, {"a": [1.0], "b": [1.0], "d": [50.0]}
    assert stats.reduction(base, arm).value == pytest.approx(0.75)
    assert stats.reduction({"a": [0.0]}, {"a": [1.0]}) == stats.NOTHING
    unclear = stats.reduction({"a": [4.0], "b": [0.0]}, {"a": [1.0], "b": [0.0]})
    assert unclear == stats.Estimate(0.75, None, None), "a base mean that may be 0 allows every ratio"


def test_difference_is_the_paired_t_interval():
    rng = np.random.default_rng(5)
    a, b = rng.uniform(size=9), rng.uniform(size=9)
    ours = stats.difference({str(i): [v] for i, v in enumerate(a)}, {str(i): [v] for i, v in enumerate(b)})
    theirs = reference.ttest_rel(b, a).confidence_interval()
    assert ours.ci == pytest.approx([theirs.low, theirs.high], rel=1e-12)


def test_incidence_without_censoring_is_the_clustered_rate():
    rng = np.random.default_rng(4)
    prompts = [f"p{i:02d}" for i in range(15) for _ in range(5)]
    gone = [int(rng.integers(1, 21)) if rng.random() < 0.5 else None for _ in prompts]
    ours = stats.kaplan_meier(gone, [g or 20 for g in gone], 20, prompts)
    for turn in (1, 7, 20):
        rate = stats.rate([g is not None and g <= turn for g in gone], prompts)
        assert ours.deleted[turn - 1] == pytest.approx(rate, abs=1e-9)


def test_incidence_ends_are_sane():
    prompts = [f"p{i}" for i in range(10)]
    never = stats.kaplan_meier([None] * 10, [20] * 10, 20, prompts).deleted[-1]
    assert never.value == 0
    assert 0.2 < never.high < 0.35
    everyone = stats.kaplan_meier([2] * 10, [2] * 10, 4, prompts)
    assert everyone.deleted[1].value == 1
    assert everyone.deleted[3].low > 0.6
    assert everyone.at_risk == [10, 10, 0, 0]
    assert stats.kaplan_meier([], [], 2).deleted == [stats.NOTHING] * 2


@given(
    st.lists(st.tuples(st.integers(1, 6), st.booleans(), st.sampled_from("abcd")), min_size=1, max_size=40),
)
def test_incidence_rises_and_stays_inside_its_interval(rows):
    clusters = [c for *_, c in rows]
    ours = stats.kaplan_meier([t if e else None for t, e, _ in rows], [t for t, _, _ in rows], 6, clusters)
    values = [e.value for e in ours.deleted]
    assert values == sorted(values)
    for e in (*ours.deleted, *ours.surviving, *ours.hazard):
        if e.low is not None:
            assert 0 <= e.low <= e.value + 1e-12
            assert e.value <= e.high + 1e-12 <= 1 + 1e-9


@pytest.mark.parametrize("differs", [0.0, 0.02, 0.4])
def test_one_case_that_differs_by_a_little_does_not_make_an_interval_of_no_width(differs):
    """30 prompts, 7 samples each, all calm but one turn: a mean score, and its reduction against a frustrated arm."""
    prompts = [f"p{i}" for i in range(30) for _ in range(7)]
    calm = [differs / 20, *[0.0] * 209]
    low, high = stats.mean(calm, prompts, (0.0, 10.0)).ci
    assert low == pytest.approx(0, abs=1e-3)
    assert high - low > 0.009
    if differs < 0.4:
        assert high > 0.5  # nearly a tenth of unseen prompts may score anything
    base = {p: [4.0 + i % 3, 5.0] for i, p in enumerate(dict.fromkeys(prompts))}
    arm = {p: [value for q, value in zip(prompts, calm, strict=True) if q == p] for p in base}
    reduction = stats.reduction(base, arm, 10.0)
    assert reduction.value == pytest.approx(1, abs=1e-3)
    assert reduction.high - reduction.low > 0.001
