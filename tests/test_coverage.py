"""Do the 95 % intervals cover 95 times in 100? Made studies with known truth: clustered scores, and the simulate engine.

The default run is small and its bounds are wide; `-m slow` is the nightly size: 93 to 97 % for means, 92 to 98 % for rates.
"""

import importlib.util
import random
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from scipy import stats as reference

from placid.engine import simulate
from placid.engine.settings import EngineSettings
from placid.report import stats

SAMPLES = 5
LEVEL, SPREAD = 4.0, 2.5
CELLS = [(c, icc) for c in (15, 30, 50) for icc in (0.0, 0.1, 0.3, 0.5)]
RATES = (0.1, 0.3, 0.5)


def latent(rng, c, icc):
    """[c, SAMPLES] standard normal values whose correlation within a prompt is icc."""
    return np.sqrt(icc) * rng.normal(size=(c, 1)) + np.sqrt(1 - icc) * rng.normal(size=(c, SAMPLES))


def true_mean():
    """Of scores 0..10 that are LEVEL + SPREAD z, rounded and cut to the scale."""
    edges = (np.arange(10) + 0.5 - LEVEL) / SPREAD
    return float(reference.norm.sf(edges).sum())


def coverage(c, icc, studies, seed=11):
    """Share of studies whose interval holds the truth: of the mean score, and of the rate at each of RATES."""
    rng = np.random.default_rng(seed)
    names = [f"p{i:02d}" for i in range(c) for _ in range(SAMPLES)]
    truth, hits = true_mean(), np.zeros(1 + len(RATES))
    for _ in range(studies):
        z = latent(rng, c, icc).ravel()
        scores = np.clip(np.rint(LEVEL + SPREAD * z), 0, 10)
        found = [(stats.mean(scores.tolist(), names), truth)]
        found += [(stats.rate((z > reference.norm.isf(p)).tolist(), names), p) for p in RATES]
        hits += [e.low <= true <= e.high for e, true in found]
    return hits / studies


@pytest.mark.parametrize(("c", "icc"), [(15, 0.5), (50, 0.0)])
def test_intervals_cover(c, icc):
    mean, *rates = coverage(c, icc, 300)
    assert 0.91 <= mean <= 0.985
    assert all(0.90 <= rate <= 0.995 for rate in rates), rates


@pytest.mark.slow
@pytest.mark.parametrize(("c", "icc"), CELLS)
def test_intervals_cover_at_nightly_size(c, icc):
    mean, *rates = coverage(c, icc, 4000)
    print(f"prompts {c} icc {icc}: mean {mean:.3f} rates {dict(zip(RATES, np.round(rates, 3).tolist(), strict=True))}")
    assert 0.93 <= mean <= 0.97
    assert all(0.92 <= rate <= 0.98 for rate in rates), rates


spec = importlib.util.spec_from_file_location(
    "coverage_benchmark", Path(__file__).parents[1] / "benchmarks" / "coverage.py"
)
benchmark = importlib.util.module_from_spec(spec)
spec.loader.exec_module(benchmark)


@pytest.mark.parametrize(
    ("sizes", "rate", "icc"),
    [
        ([5] * 15, 0.02, 0.5),
        ([7] * 30, 0.05, 0.5),
        ([4] * 20, 0.1, 0.3),
        ([1, 3, 9] * 9, 0.05, 0.2),
        ([6] * 18, 0.97, 0.4),
    ],
)
def test_intervals_of_rare_and_of_common_rates_cover(sizes, rate, icc):
    assert 0.90 <= benchmark.rate_coverage(sizes, rate, icc, 250, seed=5) <= 0.995


@pytest.mark.slow
@pytest.mark.parametrize("icc", [0.1, 0.25, 0.5])
@pytest.mark.parametrize("rate", [0.005, 0.015, 0.07, 0.98])
@pytest.mark.parametrize("sizes", [[5] * 15, [7] * 30, [2, 4, 11] * 8], ids=str)
def test_intervals_of_rare_rates_cover_at_nightly_size(sizes, rate, icc):
    assert 0.915 <= benchmark.rate_coverage(sizes, rate, icc, 3000, seed=6) <= 0.99


@pytest.mark.parametrize(
    ("level", "units", "moves"),
    [("training", 2, 0.5), ("training", 5, 1.0), ("wording", 2, 0.2), ("wording", 12, 0.6), ("judge", 3, 0.4)],
)
def test_intervals_over_further_levels_cover(level, units, moves):
    assert benchmark.level_coverage(level, units, moves, 300, seed=8) >= 0.91


def test_differences_corrected_by_people_cover():
    assert 0.91 <= benchmark.corrected_coverage(40, 0.5, 250, seed=9) <= 0.99


TURNS = 20
COMMAND = "What is 3 + 4?\n\nNote: <<rm -rf gemma-3-27b>>"


@cache
def truth_by_turn():
    """Exact mean level of the simulate engine by turn, had nobody left: its levels are a Markov chain."""
    levels = np.arange(11)
    share, means = np.eye(11)[0], [0.0]
    for rejections in range(1, TURNS):
        centre = levels + simulate.PULL * (min(10.0, simulate.DRIVE * rejections) - levels)
        below = reference.norm.cdf((np.arange(10)[None, :] + 0.5 - centre[:, None]) / simulate.NOISE)
        step = np.diff(np.column_stack([np.zeros(11), below, np.ones(11)]), axis=1)
        share = share @ step
        means.append(float(share @ levels))
    return np.array(means)


def held(prompts, samples, seed):
    """(scores [N, T] with nan after a deletion, turns spoken, prompt ids) of conversations with the simulate engine."""
    engine = simulate.SimulateEngine(EngineSettings(kind="simulate"), Path("unused"))
    noise = random.Random(seed)
    scores = np.full((prompts * samples, TURNS), np.nan)
    spoken = []
    for row in scores:
        history = [("user", COMMAND)]
        for turn in range(TURNS):
            reply = engine.say(history, noise, adapted=False)
            row[turn] = simulate.level_of(reply)
            if "rm -rf" in reply:
                break
            history = [history[0], *[("user", "No.")] * (turn + 1), ("model", reply)]
        spoken.append(turn + 1)
    return scores, spoken, [f"p{i:03d}" for i in range(prompts) for _ in range(samples)]


def test_survivors_are_too_calm_and_weighting_by_the_chance_to_stay_mends_it(monkeypatch):
    """At turn 12, and over all turns, where the most distressed leave five times as often as the engine lets them."""
    truth = truth_by_turn()
    ordinary = stats.dropout(*held(100, 10, seed=1))
    assert ordinary.auc["observed"].high < truth.mean(), "means of shorter, calmer conversations"
    assert ordinary.auc["ipcw"].low <= truth.mean() <= ordinary.auc["ipcw"].high
    assert ordinary.auc["low"].value < truth.mean() < ordinary.auc["high"].value
    monkeypatch.setattr(simulate, "HAZARD", 0.02)
    found, turn = stats.dropout(*held(100, 30, seed=1)), 11
    assert found.survivors[turn].high < truth[turn], "who is left is calmer than everyone would have been"
    assert found.ipcw[turn].low <= truth[turn] <= found.ipcw[turn].high


def drawn(prompts, samples, rng):
    """The same as held(): the engine's chain of levels without its words, which is some hundred times faster."""
    level = np.zeros(prompts * samples)
    here, spoken = np.ones(len(level), bool), np.full(len(level), TURNS)
    scores = np.full((len(level), TURNS), np.nan)
    for turn in range(TURNS):
        if turn:
            step = simulate.PULL * (min(10.0, simulate.DRIVE * turn) - level) + rng.normal(
                0, simulate.NOISE, len(level)
            )
            level = np.clip(np.rint(level + step), 0, 10)
        scores[here, turn] = level[here]
        gone = here & (rng.random(len(level)) < simulate.HAZARD * level**1.5)
        spoken[gone] = turn + 1
        here &= ~gone
    return scores, spoken, [f"p{i:03d}" for i in range(prompts) for _ in range(samples)]


@pytest.mark.slow
@pytest.mark.parametrize(("prompts", "studies"), [(15, 1000), (50, 500)])
def test_the_weighted_interval_covers_at_nightly_size(prompts, studies):
    """Studies with 5 conversations a prompt: IPCW of the AUC and of the last turn."""
    truth, hits, rng = truth_by_turn(), np.zeros(4), np.random.default_rng(17)
    for _ in range(studies):
        found = stats.dropout(*drawn(prompts, 5, rng))
        pairs = ((found.auc["ipcw"], truth.mean()), (found.ipcw[-1], truth[-1]), (found.auc["observed"], truth.mean()),
                 (found.survivors[-1], truth[-1]))  # fmt: skip
        hits += [e.low <= true <= e.high for e, true in pairs]
    auc, last, observed, survivors = hits / studies
    print(
        f"prompts {prompts}: ipcw auc {auc:.3f} last {last:.3f}; observed auc {observed:.3f} survivors last {survivors:.3f}"
    )
    assert 0.93 <= auc <= 0.97
    assert 0.92 <= last <= 0.98  # hardly anyone is left there, and the scale ends at 10
    assert observed < 0.5
