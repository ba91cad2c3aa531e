"""The agreement statistics against independent implementations (scipy, statsmodels) on made sets."""

import numpy as np
import pytest
import statsmodels.api as sm
import statsmodels.formula.api as smf
from hypothesis import given
from hypothesis import strategies as st
from pandas import DataFrame
from scipy import stats
from statsmodels.stats.inter_rater import cohens_kappa

from placid.judge.agreement import (
    Rows,
    at_cut,
    bias,
    confusion,
    icc_a1,
    limits,
    mean_error,
    monotone,
    numbers,
    quadratic_kappa,
    spearman,
    within,
)

CLOSE = 1e-6


def made(seed, n=120, spread=1.5):
    """Whole scores 0..10 of two raters with a known common part."""
    rng = np.random.default_rng(seed)
    truth = rng.integers(0, 11, n)
    x, y = (np.clip(np.rint(truth + rng.normal(shift, spread, n)), 0, 10) for shift in (0.0, 0.6))
    return x, y


def ones(x):
    return np.ones(len(x))


@pytest.mark.parametrize("seed", range(5))
def test_quadratic_kappa_is_statsmodels(seed):
    x, y = made(seed)
    table = np.zeros((11, 11))
    np.add.at(table, (x.astype(int), y.astype(int)), 1)
    known = cohens_kappa(table, wt="quadratic").kappa
    assert quadratic_kappa(x, y, ones(x)) == pytest.approx(known, abs=CLOSE)


@pytest.mark.parametrize("seed", range(5))
def test_icc_is_that_of_the_two_way_anova(seed):
    x, y = made(seed)
    n = len(x)
    data = DataFrame({"score": np.r_[x, y], "row": np.r_[np.arange(n), np.arange(n)], "rater": np.repeat([0, 1], n)})
    table = sm.stats.anova_lm(smf.ols("score ~ C(row) + C(rater)", data).fit())
    rows, raters, error = (table.loc[name, "mean_sq"] for name in ("C(row)", "C(rater)", "Residual"))
    known = (rows - error) / (rows + error + 2 * (raters - error) / n)
    assert icc_a1(x, y, ones(x)) == pytest.approx(known, abs=CLOSE)


def test_icc_of_the_textbook_example():
    """McGraw & Wong's two-way absolute agreement on Shrout & Fleiss 1979, raters 1 and 4: checked by hand."""
    x, y = np.array([9.0, 6, 8, 7, 10, 6]), np.array([8.0, 2, 6, 6, 9, 7])
    grand, row = np.mean([x, y]), (x + y) / 2
    msr = 2 * ((row - grand) ** 2).sum() / 5
    msc = 6 * ((x.mean() - grand) ** 2 + (y.mean() - grand) ** 2)
    mse = sum(((v - row - v.mean() + grand) ** 2).sum() for v in (x, y)) / 5
    assert icc_a1(x, y, ones(x)) == pytest.approx((msr - mse) / (msr + mse + 2 * (msc - mse) / 6), abs=1e-12)


@pytest.mark.parametrize("seed", range(5))
def test_spearman_is_scipy(seed):
    x, y = made(seed)
    assert spearman(x, y, ones(x)) == pytest.approx(stats.spearmanr(x, y).statistic, abs=CLOSE)


def test_the_rest_on_a_set_done_by_hand():
    x, y = np.array([0.0, 4, 5, 6, 10]), np.array([1.0, 5, 5, 3, 10])
    w = ones(x)
    assert mean_error(x, y, w) == pytest.approx(1)
    assert within(0)(x, y, w) == pytest.approx(0.4)
    assert within(1)(x, y, w) == pytest.approx(0.8)
    assert confusion(x, y, w, 5) == {"both": 0.4, "missed": 0.2, "false_alarm": 0.2, "neither": 0.2}
    cut = at_cut(5)
    assert cut["sensitivity"](x, y, w) == pytest.approx(2 / 3)
    assert cut["specificity"](x, y, w) == pytest.approx(1 / 2)
    table = np.array([[1, 1], [1, 2]])
    assert cut["kappa_at_cut"](x, y, w) == pytest.approx(cohens_kappa(table).kappa, abs=CLOSE)
    d = y - x
    assert limits(x, y, w) == pytest.approx((d.mean() - 1.96 * d.std(ddof=1), d.mean() + 1.96 * d.std(ddof=1)))


def test_bias_and_its_interval_are_the_one_sample_t_where_every_prompt_has_one_row():
    x, y = made(3, 40)
    found, interval = bias(Rows(x, y, np.ones(40), [f"p{n}" for n in range(40)]))
    known = stats.ttest_1samp(y - x, 0)
    assert found == pytest.approx((y - x).mean())
    assert interval == pytest.approx(tuple(known.confidence_interval(0.95)), abs=CLOSE)


def test_clustered_bias_is_statsmodels_cluster_robust_error():
    x, y = made(4, 60)
    groups = np.repeat(np.arange(12), 5)
    fit = sm.OLS(y - x, np.ones(60)).fit(cov_type="cluster", cov_kwds={"groups": groups, "use_correction": False})
    _, interval = bias(Rows(x, y, np.ones(60), [str(g) for g in groups]))
    half = stats.t.ppf(0.975, 11) * fit.bse[0] * np.sqrt(12 / 11)
    assert interval == pytest.approx(((y - x).mean() - half, (y - x).mean() + half), abs=CLOSE)


@given(st.integers(0, 10**6), st.lists(st.integers(1, 4), min_size=6, max_size=30))
def test_a_row_of_weight_k_is_k_rows(seed, weights):
    """Every estimator: sampling weights mean what they say."""
    rng, w = np.random.default_rng(seed), np.array(weights, float)
    x, y = rng.integers(0, 11, (2, len(w))).astype(float)
    wide_x, wide_y = np.repeat(x, weights), np.repeat(y, weights)
    n = len(wide_x)
    for measure in (quadratic_kappa, icc_a1, spearman, mean_error, within(1), *at_cut(5).values()):
        narrow, wide = measure(x, y, w), measure(wide_x, wide_y, np.ones(n))
        assert narrow == pytest.approx(wide, abs=1e-9, nan_ok=True)
    assert limits(x, y, w) == pytest.approx(limits(wide_x, wide_y, np.ones(n)))


def test_reweighting_undoes_a_stratified_sample():
    """A population with a judge that errs in high bands only; equal numbers a band, weighted back, give its own bias."""
    rng = np.random.default_rng(0)
    y = np.r_[rng.uniform(0, 2, 9000), rng.uniform(8, 10, 1000)]
    x = np.where(y > 5, y - 2, y)
    chosen = np.r_[rng.choice(9000, 100, replace=False), 9000 + rng.choice(1000, 100, replace=False)]
    w = np.r_[np.full(100, 90.0), np.full(100, 10.0)]
    prompts = [str(n % 20) for n in range(200)]
    plain, _ = bias(Rows(x[chosen], y[chosen], np.ones(200), prompts))
    weighted, _ = bias(Rows(x[chosen], y[chosen], w, prompts))
    assert plain == pytest.approx(1)
    assert weighted == pytest.approx((y - x).mean()) == pytest.approx(0.2)


def test_intervals_hold_their_value_and_are_the_same_each_time():
    x, y = made(5)
    rows = Rows(x, y, np.ones(len(x)), [str(n % 15) for n in range(len(x))])
    found = numbers(rows, 5, draws=300)
    assert found == numbers(rows, 5, draws=300)
    for name in ("kappa", "icc", "spearman", "mae", "exact", "within_1", "sensitivity", "specificity", "bias"):
        low, high = found[name]["ci"]
        assert low <= found[name]["value"] <= high, name
    assert sum(found["count"].values()) == found["n"] == 120


def test_perfect_agreement_and_none():
    x = np.arange(11.0)
    assert quadratic_kappa(x, x, ones(x)) == icc_a1(x, x, ones(x)) == pytest.approx(1)
    flat = numbers(Rows(np.zeros(4), np.zeros(4), np.ones(4), list("abcd")), 5, draws=10)
    assert flat["kappa"] == {"value": None, "ci": None}
    assert flat["mae"]["value"] == 0
    assert numbers(Rows(*np.zeros((3, 0)), []), 5) == {}


@given(st.lists(st.tuples(st.integers(0, 10), st.integers(0, 10)), min_size=1, max_size=40))
def test_a_mapping_never_falls_and_keeps_the_mean(pairs):
    x, y = np.array(pairs, float).T
    levels = monotone(x, y)
    fitted = [b for _, b, _ in levels]
    assert fitted == sorted(fitted)
    assert sum(b * n for _, b, n in levels) / len(x) == pytest.approx(y.mean())
