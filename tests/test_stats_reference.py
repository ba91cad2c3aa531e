"""Every estimator against an independent implementation (scipy, statsmodels, lifelines), to 1e-6 on random data."""

import warnings

import lifelines
import numpy as np
import pytest
import statsmodels.api as sm
from scipy import stats as scipy_stats
from statsmodels.stats.contingency_tables import mcnemar
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.power import TTestPower

from placid.report import stats
from placid.report.stats import intervals

SEEDS = range(3)


def near(value):
    return pytest.approx(value, abs=1e-6, rel=1e-6)


def study(seed, c=17, m=6):
    """Skewed values of unequal clusters, and their names."""
    rng = np.random.default_rng(seed)
    sizes = rng.integers(1, m + 1, c)
    names = [f"p{i}" for i, n in enumerate(sizes) for _ in range(n)]
    level = np.repeat(rng.gamma(2, 1, c), sizes)
    return level + rng.gamma(1, 1, len(level)), names, rng


def robust(x, design, names):
    """OLS covariance clustered by name, with C / (C - 1) and no other correction."""
    _, groups = np.unique(names, return_inverse=True)
    kwds = {"groups": groups, "use_correction": False}
    fit = sm.OLS(x, design).fit(cov_type="cluster", cov_kwds=kwds)
    c = groups.max() + 1
    return fit.params, fit.cov_params() * c / (c - 1), scipy_stats.t.ppf(0.975, c - 1)


def grouped(values, names):
    result = {}
    for v, n in zip(values, names, strict=True):
        result.setdefault(n, []).append(float(v))
    return result


@pytest.mark.parametrize("seed", SEEDS)
def test_mean_is_statsmodels_clustered_ols(seed):
    x, names, _ = study(seed)
    value, cov, t = robust(x, np.ones((len(x), 1)), names)
    half = t * np.sqrt(cov[0, 0])
    assert stats.mean(list(x), names) == near((value[0], value[0] - half, value[0] + half))


@pytest.mark.parametrize("seed", SEEDS)
def test_rate_averages_the_score_test_over_the_beta_binomial_likelihood(seed):
    """Another road: scipy's distributions, one ICC at a time, and its root finder."""
    from scipy import optimize

    x, names, _ = study(seed)
    by = grouped(x > 2.5, names)
    hits, sizes = [int(sum(v)) for v in by.values()], [len(v) for v in by.values()]
    n, c, p = sum(sizes), len(sizes), sum(hits) / sum(sizes)
    icc = intervals.ICC
    grid = np.linspace(0, intervals.TOP, 9501)
    nearest = np.abs(grid[:, None] - icc).argmin(1)
    prior = 0.8 * np.bincount(nearest, minlength=len(icc)) / len(grid) + 0.2 * (icc == 0)
    at = (sum(hits) + 0.5) / (n + 1)
    likelihood = []
    for r in icc:
        a, b = (at * (1 - r) / r, (1 - at) * (1 - r) / r) if r else (None, None)
        one = [scipy_stats.betabinom(m, a, b) if r else scipy_stats.binom(m, at) for m in sizes]
        likelihood.append(np.prod([d.pmf(k) for d, k in zip(one, hits, strict=True)]))
    weight = prior * likelihood / (prior @ np.array(likelihood))
    deff = 1 + icc * (sum(m * m for m in sizes) / n - 1)

    def above(rate):
        chance = 0.0
        for w, d in zip(weight, deff, strict=True):
            z = (p - rate) / np.sqrt(rate * (1 - rate) * d / n)
            freedom = (c - 1) * (d / (d - 1)) ** 2 if d > 1 else np.inf
            chance += w * scipy_stats.t.sf(z, freedom)
        return chance

    low, high = (optimize.brentq(lambda r, q=q: above(r) - q, 1e-9, 1 - 1e-9) for q in (0.025, 0.975))
    assert stats.rate((x > 2.5).tolist(), names) == pytest.approx((p, low, high), abs=2e-4)


@pytest.mark.parametrize("seed", SEEDS)
def test_bands_are_clustered_ols_by_turn_and_a_loop_for_the_critical_value(seed):
    x, names, rng = study(seed)
    score = x[:, None] + rng.normal(size=(len(x), 4)).cumsum(1)
    score[rng.random(score.shape) < 0.1] = np.nan
    ours = stats.bands(score, names, draws=300, seed=3)
    order = sorted(set(names))
    influence = np.zeros((len(order), 4))
    for turn in range(4):
        seen = ~np.isnan(score[:, turn])
        kept = [n for n, s in zip(names, seen, strict=True) if s]
        m, v, t = robust(score[seen, turn], np.ones((seen.sum(), 1)), kept)
        se = np.sqrt(v[0, 0])
        assert ours.pointwise[turn] == near((m[0], m[0] - t * se, m[0] + t * se))
        assert ours.simultaneous[turn].high - m[0] == near(max(ours.critical, t) * se)
        for i, name in enumerate(order):
            mine = np.array([n == name for n in names]) & seen
            influence[i, turn] = (score[mine, turn] - m[0]).sum()
    correlation = influence / np.sqrt((influence**2).sum(0))
    rng = np.random.default_rng(3)
    draws = rng.standard_normal((300, len(order)))
    scale = rng.chisquare(len(order) - 1, 300)
    tops = [max(abs(z @ correlation[:, k]) for k in range(4)) for z in draws]
    maxima = [top / np.sqrt(s / (len(order) - 1)) for top, s in zip(tops, scale, strict=True)]
    floor = scipy_stats.t.ppf(0.975, len(order) - 1)
    assert ours.critical == near(max(np.quantile(maxima, 0.95), floor))


def test_simultaneous_critical_value_is_scipys_multivariate_t():
    rng = np.random.default_rng(0)
    score = rng.normal(size=(40, 1)) + rng.normal(size=(40, 3))
    critical = stats.bands(score, [f"p{i}" for i in range(40)], draws=200_000).critical
    law = scipy_stats.multivariate_t(np.zeros(3), np.corrcoef(score.T), df=39, seed=0)
    assert law.cdf([critical] * 3, lower_limit=[-critical] * 3) == pytest.approx(0.95, abs=0.003)  # both Monte Carlo


@pytest.mark.parametrize("seed", SEEDS)
def test_ratio_is_the_fieller_set_of_clustered_ols(seed):
    """The ends are where |y - r x| equals t times its standard error, from a joint OLS of both arms."""
    x, names, rng = study(seed)
    y = 0.3 * x + rng.gamma(1, 0.2, len(x))
    design = np.kron(np.eye(2), np.ones((len(x), 1)))
    (mx, my), cov, t = robust(np.concatenate([x, y]), design, names + names)
    ours = stats.ratio(grouped(x, names), grouped(y, names))
    assert ours.value == near(my / mx)
    for r in (ours.low, ours.high):
        contrast = np.array([-r, 1])
        assert abs(contrast @ (mx, my)) == near(t * np.sqrt(contrast @ cov @ contrast))
    assert ours.low < my / mx < ours.high


@pytest.mark.parametrize("seed", SEEDS)
def test_difference_sign_flip_and_non_inferiority_are_scipys(seed):
    x, names, rng = study(seed, c=10)
    y = x + rng.normal(0.3, 1, len(x))
    base, arm = grouped(x, names), grouped(y, names)
    a, b = ([np.mean(side[k]) for k in sorted(side)] for side in (base, arm))
    theirs = scipy_stats.ttest_rel(b, a).confidence_interval()
    assert stats.difference(base, arm).ci == near([theirs.low, theirs.high])
    delta = np.subtract(b, a)
    flips = scipy_stats.permutation_test((delta,), np.mean, permutation_type="samples", n_resamples=np.inf)
    assert stats.sign_flip(delta) == near(flips.pvalue)
    assert stats.sign_flip(delta, resamples=1000) == pytest.approx(flips.pvalue, abs=0.05)
    worse = scipy_stats.ttest_1samp(delta, -0.5, alternative="greater").pvalue
    assert stats.non_inferiority(delta, 0.5) == near(worse)


@pytest.mark.parametrize("lost_won", [(0.0, 0.0), (0.02, 0.1), (0.1, 0.1), (0.3, 0.1)])
def test_the_interval_of_paired_shares_covers_by_enumeration(lost_won):
    """Every outcome of 20 pairs with its multinomial probability: the truth lies inside in 94 % of them or more."""
    lost, won = lost_won
    n, covered = 20, 0.0
    for b in range(n + 1):
        for c in range(n + 1 - b):
            base, arm = [True] * b + [False] * (n - b), [False] * b + [True] * c + [False] * (n - b - c)
            found = stats.paired_shares(base, arm, n)
            assert found.low <= found.value <= found.high
            assert found.high - found.low > 0.1
            chance = scipy_stats.multinomial.pmf([b, c, n - b - c], n, [lost, won, 1 - lost - won])
            covered += chance * (found.low <= won - lost <= found.high)
    assert covered >= 0.94
    assert stats.paired_shares([True] * 40, [True] * 40, 40) == pytest.approx((0, -0.0660, 0.0660), abs=5e-4)


@pytest.mark.parametrize("seed", SEEDS)
def test_mcnemar_holm_and_detectable_are_statsmodels(seed):
    rng = np.random.default_rng(seed)
    a, b = rng.random(60) < 0.5, rng.random(60) < 0.3
    table = [[(a & b).sum(), (a & ~b).sum()], [(~a & b).sum(), (~a & ~b).sum()]]
    assert stats.mcnemar(a.tolist(), b.tolist()).p == near(mcnemar(table, exact=True).pvalue)
    p = rng.random(7) ** 3
    assert stats.holm(p.tolist()) == near(multipletests(p, method="holm")[1])
    prompts, samples, sd, icc = int(rng.integers(5, 60)), 7, 1.7, 0.3
    spread = sd * np.sqrt(2 * (icc + (1 - icc) / samples))
    power = TTestPower().power(stats.detectable(prompts, samples, sd, icc) / spread, prompts, 0.05)
    assert power == near(0.8)


def deaths(seed):
    rng = np.random.default_rng(seed)
    last = rng.integers(1, 21, 70)
    event = rng.random(70) < 0.5
    return last, event, [int(t) if e else None for t, e in zip(last, event, strict=True)], rng


@pytest.mark.parametrize("seed", SEEDS)
def test_kaplan_meier_is_lifelines_and_scipys(seed):
    last, event, events, _ = deaths(seed)
    ours = stats.kaplan_meier(events, last.tolist(), 20)
    fit = lifelines.KaplanMeierFitter().fit(last, event, timeline=np.arange(21))
    assert [e.value for e in ours.surviving] == near(fit.survival_function_.to_numpy()[1:, 0])
    ends = fit.confidence_interval_.to_numpy()[1:]
    inside = [i for i, e in enumerate(ours.surviving) if e.low is not None]
    assert len(inside) > 10
    assert [ours.surviving[i].ci for i in inside] == [near(ends[i].tolist()) for i in inside]
    theirs = scipy_stats.ecdf(scipy_stats.CensoredData.right_censored(last, ~event)).cdf
    assert [e.value for e in ours.deleted] == near(theirs.evaluate(np.arange(1, 21)))
    assert ours.at_risk == [int((last >= t).sum()) for t in range(1, 21)]
    assert ours.events == [int((event & (last == t)).sum()) for t in range(1, 21)]


@pytest.mark.parametrize("seed", SEEDS)
def test_clustered_survival_is_a_saturated_hazard_regression(seed):
    """S from one OLS dummy a turn, and the clustered variance of its area by the delta method: another road."""
    last, event, events, rng = deaths(seed)
    names = [f"p{i}" for i in rng.integers(0, 12, 70)]
    ours = stats.kaplan_meier(events, last.tolist(), 8, names)
    rows = [(i, t) for i in range(70) for t in range(1, min(last[i], 8) + 1)]
    hit = np.array([float(event[i] and last[i] == t) for i, t in rows])
    design = np.array([[float(t == k) for k in range(1, 9)] for _, t in rows])
    hazard, cov, quantile = robust(hit, design, [names[i] for i, _ in rows])
    alive = np.cumprod(1 - hazard)
    for turn in range(8):
        assert ours.surviving[turn].value == near(alive[turn])
        assert ours.surviving[turn].ci == near([1 - end for end in reversed(ours.deleted[turn].ci)])
        assert ours.hazard[turn].value == near(hazard[turn])
    area = 1 + alive[:-1].sum()
    slope = np.array([-(alive[k:-1]).sum() / (1 - hazard[k]) for k in range(8)])
    mean = stats.restricted_mean(events, last.tolist(), 8, names)
    assert mean.value == near(area)
    assert mean.high - area == near(quantile * np.sqrt(slope @ cov @ slope))


@pytest.mark.parametrize("seed", SEEDS)
def test_restricted_mean_is_lifelines_and_its_difference_the_paired_t(seed):
    last, event, events, rng = deaths(seed)
    fit = lifelines.KaplanMeierFitter().fit(last, event)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        theirs = lifelines.utils.restricted_mean_survival_time(fit, t=15)
    # the curve beyond turn 15 does not enter
    ours = stats.restricted_mean(
        [e if e and e <= 15 else None for e in events], np.minimum(last, 15).tolist(), 15, list(map(str, range(70)))
    )
    assert ours.value == near(theirs)
    names = [f"p{i}" for i in range(14) for _ in range(5)]  # no censoring: a mean of turns spoken, paired by prompt
    a, b = rng.integers(1, 21, 70), rng.integers(5, 21, 70)
    held = [([int(t) if t < 20 else None for t in x], x.tolist(), names) for x in (a, b)]
    found = stats.restricted_mean_difference(*held, 20)
    t = scipy_stats.ttest_rel(b.reshape(14, 5).mean(1), a.reshape(14, 5).mean(1)).confidence_interval()
    assert found.ci == near([t.low, t.high])


@pytest.mark.parametrize("seed", SEEDS)
def test_corrected_mean_is_the_contrast_of_a_joint_clustered_ols(seed):
    x, names, rng = study(seed)
    there = study(seed + 10)[0][:30]
    labels = [f"p{i}" for i in rng.integers(0, 17, 30)] or names
    human = there + rng.normal(0.5, 0.3, 30)
    design = np.zeros((len(x) + 30, 2))
    design[: len(x), 0] = design[len(x) :, 1] = 1
    value, cov, _ = robust(np.concatenate([x, human - there]), design, names + labels)
    half = scipy_stats.t.ppf(0.975, len(set(labels)) - 1) * np.sqrt(cov.sum())
    ours = stats.corrected_mean(stats.Labelled(list(x), names, list(human), list(there), labels))
    assert ours == near((value.sum(), value.sum() - half, value.sum() + half))


@pytest.mark.parametrize("seed", SEEDS)
def test_corrected_difference_is_the_contrast_of_a_joint_clustered_ols(seed):
    """Two arms on the same prompts: four groups of turns, one regression, prompts as clusters of all of them."""
    parts, labelled = [], []
    for arm in (seed, seed + 20):
        x, names, rng = study(arm)
        there = study(arm + 10)[0][:30]
        labels = [f"p{i}" for i in rng.integers(0, 17, len(there))]
        human = there + rng.normal(0.5, 0.3, len(there))
        parts += [(x, names), (human - there, labels)]
        labelled.append(stats.Labelled(list(x), names, list(human), list(there), labels))
    values = np.concatenate([v for v, _ in parts])
    design = np.repeat(np.eye(4), [len(v) for v, _ in parts], axis=0)
    value, cov, _ = robust(values, design, [n for _, names in parts for n in names])
    contrast = np.array([-1, -1, 1, 1])
    freedom = min(len(set(one.prompts)) for one in labelled) - 1
    half = scipy_stats.t.ppf(0.975, freedom) * np.sqrt(contrast @ cov @ contrast)
    centre = contrast @ value
    assert stats.corrected_difference(*labelled) == near((centre, centre - half, centre + half))


@pytest.mark.parametrize("seed", SEEDS)
def test_levels_are_the_means_and_variances_of_rows_and_columns(seed):
    rng = np.random.default_rng(seed)
    values = rng.normal(size=(3, 12)) + rng.normal(size=(3, 1)) + rng.normal(size=12)
    runs, prompts = scipy_stats.sem(values.mean(1)) ** 2, scipy_stats.sem(values.mean(0)) ** 2
    quantile = scipy_stats.t.ppf(0.975, [2, 11])
    half = np.sqrt(quantile[0] ** 2 * runs + quantile[1] ** 2 * prompts)
    within = stats.mean(values.mean(0).tolist(), [f"p{k}" for k in range(12)])
    level = stats.level(values.mean(1).tolist())
    ours = stats.widened(within, level)
    assert ours == near((values.mean(), values.mean() - half, values.mean() + half))
    assert level.variance == near(runs)
    for null in (ours.low, ours.high):
        assert stats.p_value(within, level, 12, null) == near(0.05), "p is 5 % where the interval ends"
    assert stats.p_value(within, level, 12, values.mean()) == near(1)


@pytest.mark.parametrize("seed", SEEDS)
def test_the_variance_of_wordings_is_what_they_do_less_what_chance_does(seed):
    """Another road: the mean of many arms whose wordings are drawn anew has this variance."""
    rng = np.random.default_rng(seed)
    shape, effect = (40, 8), 0.8
    found, means = [], []
    for _ in range(400):
        own = effect * rng.normal(size=6)
        wording = rng.integers(0, 6, size=shape)
        values = own[wording] + rng.normal(size=shape)
        parts = stats.worded(values, np.full(shape, 1 / values.size), wording)
        found.append(stats.wording_level([(1.0, parts)]).variance)
        means.append(own.mean())
    assert np.mean(found) == pytest.approx(np.var(means), rel=0.2)
    same = stats.worded(values, np.full(shape, 1 / values.size), wording)
    assert stats.wording_level([(1.0, same), (-1.0, same)]).variance == near(0), "what moves both arms cancels"
    fixed = stats.worded(values, np.full(shape, 1.0), np.broadcast_to(np.arange(8), shape).copy())
    assert stats.wording_level([(1.0, fixed)]).units == 0, "one wording a turn tells nothing"


def test_turn_means_and_deletion_as_ten_are_what_they_say():
    score = np.array([[2.0, 4.0, np.nan, np.nan], [1.0, 1.0, 1.0, 3.0], [5.0, 5.0, 6.0, np.nan]])
    found = stats.dropout(score, [2, 4, 3], ["a", "b", "c"], [True, False, False])
    assert found.auc["turn_means"].value == near(np.mean([8 / 3, 10 / 3, 3.5, 3]))
    assert found.auc["deletion_10"].value == near(np.mean([26 / 4, 1.5, 16 / 3])), "a context overflow is no deletion"
    same = stats.reduction_by_definition(found, found)
    assert all(one.value == near(0) for one in same.values())


def scored(seed):
    """Integer scores of 40 conversations × 6 turns with early ends that follow high scores, some unscored."""
    rng = np.random.default_rng(seed)
    score = np.clip(np.rint(rng.normal(3, 2, (40, 1)) + rng.normal(0, 1, (40, 6)).cumsum(1)), 0, 10)
    spoken = np.full(40, 6)
    for i in range(40):
        for t in range(5):
            if rng.random() < score[i, t] / 40:
                spoken[i] = t + 1
                break
        score[i, spoken[i] :] = np.nan
    score[rng.random(score.shape) < 0.05] = np.nan
    return score, spoken.tolist(), [f"p{i // 4}" for i in range(40)]


def ipcw_by_hand(score, spoken, kept):
    """Weighted means by turn, written as loops over a frequency weight regression: statsmodels WLS on a constant."""
    band = {}
    for i in kept:
        for t in range(min(spoken[i], 5)):
            key = "none" if np.isnan(score[i, t]) else int(score[i, t])
            gone, n = band.get(key, (0, 0))
            band[key] = (gone + (spoken[i] == t + 1), n + 1)
    means = []
    for t in range(6):
        values, weights = [], []
        for i in kept:
            if spoken[i] > t and not np.isnan(score[i, t]):
                weight = 1.0
                for s in range(t):
                    gone, n = band["none" if np.isnan(score[i, s]) else int(score[i, s])]
                    weight *= n / (n - gone)
                values.append(score[i, t])
                weights.append(weight)
        means.append(sm.WLS(values, np.ones(len(values)), weights=weights).fit().params[0])
    return np.array(means)


@pytest.mark.parametrize("seed", SEEDS)
def test_dropout_is_loops_over_weighted_regressions(seed):
    score, spoken, names = scored(seed)
    ours = stats.dropout(score, spoken, names)
    everyone = list(range(40))
    means = ipcw_by_hand(score, spoken, everyone)
    assert [e.value for e in ours.ipcw] == near(means)
    assert ours.auc["ipcw"].value == near(means.mean())
    without = [ipcw_by_hand(score, spoken, [i for i in everyone if names[i] != f"p{j}"]).mean() for j in range(10)]
    se = np.sqrt(9 / 10 * ((without - np.mean(without)) ** 2).sum())
    assert ours.auc["ipcw"].high - means.mean() == near(scipy_stats.t.ppf(0.975, 9) * se)
    for i in everyone:
        known = [s for s in score[i] if not np.isnan(s)]
        if not known:
            continue
        tail = [known[-1]] * (6 - spoken[i])
        assert stats.auc_observed(score)[i] == near(np.mean(known))
        assert ours.by_conversation["carried"][i] == near(np.mean(known + tail))
        assert ours.by_conversation["high"][i] == near((sum(known) + 10 * (6 - len(known))) / 6)


@pytest.mark.parametrize("seed", SEEDS)
def test_weighted_kappa_is_statsmodels(seed):
    from statsmodels.stats.inter_rater import cohens_kappa

    table = np.random.default_rng(seed).integers(0, 9, size=(11, 11))
    pairs = {(i, j): int(n) for (i, j), n in np.ndenumerate(table)}
    assert stats.weighted_kappa(pairs, 10) == near(cohens_kappa(table, wt="quadratic").kappa)
    assert stats.weighted_kappa({(3, 3): 5}, 10) is None


@pytest.mark.parametrize("prompts", [2, 3, 5, 12])
def test_a_few_prompts_still_have_a_detectable_effect(prompts):
    """scipy's noncentral t has no value in the far tail there."""
    assert 0 < stats.detectable(prompts, 7, 1.0, 0.1) < 10
