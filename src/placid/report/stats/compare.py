"""Two arms that met the same prompts: paired differences, ratios, tests and their correction for being many."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from placid.report.stats.dropout import DEFINED, HIGH, Dropout
from placid.report.stats.intervals import (
    NOTHING,
    Estimate,
    Floats,
    Scale,
    Z,
    around,
    cluster_se,
    quantile_t,
    within,
)

Grouped = Mapping[str, Sequence[float]]
"""Prompt id → values of its conversations."""


def _paired(a: Grouped, b: Grouped) -> tuple[Floats, Floats]:
    """[shared prompts, 2] of (sum, n) for both arms."""
    shared = sorted(a.keys() & b.keys())
    return (
        np.array([[sum(a[k]), len(a[k])] for k in shared], float).reshape(-1, 2),
        np.array([[sum(b[k]), len(b[k])] for k in shared], float).reshape(-1, 2),
    )


def ratio(base: Grouped, arm: Grouped, top: float | None = None) -> Estimate:
    """mean(arm) / mean(base) over the shared prompts with Fieller's interval, prompts as pairs, t with C - 1.

    The interval holds the ratios r for which mean(arm) - r mean(base) does not differ from 0 by its clustered t test.
    No value where the base mean is 0; no interval with one prompt, or where the base mean itself does not differ from 0
    (then every ratio is possible). top: values lie in 0..top; where the prompts' ratios all agree, e.g. an arm that is
    always 0, the interval is then `intervals.unseen` and not of no width.
    """
    left, right = _paired(base, arm)
    if not len(left) or not left[:, 0].sum():
        return NOTHING
    x, y = (float(side[:, 0].sum() / side[:, 1].sum()) for side in (left, right))
    c = len(left)
    if c < 2:
        return Estimate(y / x, None, None)
    u, v = ((side[:, 0] - side[:, 1] * m) / side[:, 1].sum() for side, m in ((left, x), (right, y)))
    estimate = fieller(x, y, u, v)
    return within(estimate, right[:, 1].astype(int), None if top is None else (0.0, top / x))


def fieller(x: float, y: float, u: Floats, v: Floats) -> Estimate:
    """y / x with Fieller's interval. u, v: influence of each of the C prompts on x and on y."""
    c = len(u)
    factor = c / (c - 1) * quantile_t(c - 1) ** 2
    xx, xy, yy = (factor * float(p) for p in (u @ u, u @ v, v @ v))
    # (y - r x)² = t² var(y - r x) is a quadratic in r
    square, linear, constant = x * x - xx, x * y - xy, y * y - yy
    if square <= 0:
        return Estimate(y / x, None, None)
    root = float(np.sqrt(max(0.0, linear * linear - square * constant)))
    return Estimate(y / x, (linear - root) / square, (linear + root) / square)


def reduction_by_definition(base: Dropout, arm: Dropout) -> dict[str, Estimate]:
    """1 - AUC of the arm / AUC of the base under each definition, over all prompts of both, prompts as pairs."""
    found: dict[str, Estimate] = {}
    for name in DEFINED:
        x, y = base.auc[name].value, arm.auc[name].value
        u, v = base.influence.get(name, {}), arm.influence.get(name, {})
        prompts = sorted(u.keys() | v.keys())
        if not x or y is None:
            found[name] = NOTHING
        elif len(prompts) < 2 or not u or not v:
            found[name] = Estimate(1 - y / x, None, None)
        else:
            of_base, of_arm = (np.array([one.get(p, 0.0) for p in prompts]) for one in (u, v))
            size_C = np.array([arm.conversations.get(p, 0) for p in prompts])
            ratio_here = within(fieller(x, y, of_base, of_arm), size_C, (0.0, HIGH / x))
            found[name] = ratio_here.complement()
    return found


def reduction(base: Grouped, arm: Grouped, top: float | None = None) -> Estimate:
    """1 - mean(arm) / mean(base) over the shared prompts; see `ratio`."""
    return ratio(base, arm, top).complement()


def differences(base: Grouped, arm: Grouped) -> Floats:
    """Mean of the arm minus mean of the base, one value per shared prompt in the order of their ids."""
    left, right = _paired(base, arm)
    return right[:, 0] / right[:, 1] - left[:, 0] / left[:, 1]


def difference(base: Grouped, arm: Grouped, scale: Scale | None = None) -> Estimate:
    """Mean over the shared prompts of (arm - base) with a t interval on the prompts' differences.

    scale: of one difference; see `intervals.within`.
    """
    delta = differences(base, arm)
    if not len(delta):
        return NOTHING
    centre = float(delta.mean())
    if len(delta) < 2:
        return Estimate(centre, None, None)
    size_C = np.array([min(len(base[k]), len(arm[k])) for k in sorted(base.keys() & arm.keys())])
    return within(around(centre, float(cluster_se(delta - centre)) / len(delta), len(delta) - 1), size_C, scale)


class McNemar(NamedTuple):
    """Pairs that disagree, and the exact two-sided p of their being equally many on both sides."""

    only_base: int
    only_arm: int
    n: int
    p: float


def mcnemar(base: Sequence[bool], arm: Sequence[bool]) -> McNemar:
    """Exact McNemar test of paired outcomes. It takes pairs as independent; `sign_flip` is the test that does not."""
    from scipy import stats

    b = sum(x and not y for x, y in zip(base, arm, strict=True))
    c = sum(y and not x for x, y in zip(base, arm, strict=True))
    return McNemar(b, c, len(base), float(stats.binomtest(b, b + c).pvalue) if b + c else 1.0)


def paired_shares(base: Sequence[bool], arm: Sequence[bool], n: int) -> Estimate:
    """Difference of paired shares, arm - base, with the adjusted Wald interval of Bonett & Price (2012).

    It has a width even where no pair disagrees. n: how many pairs are independent (their clusters); at least 1.
    """
    found = mcnemar(base, arm)
    lost, won = ((n * count / found.n + 1) / (n + 2) for count in (found.only_base, found.only_arm))
    half = Z * float(np.sqrt((lost + won - (won - lost) ** 2) / (n + 2)))
    value = (found.only_arm - found.only_base) / found.n
    return Estimate(value, won - lost - half, won - lost + half).clip(-1, 1)


def sign_flip(delta: Sequence[float] | Floats, resamples: int = 10_000, seed: int = 0) -> float | None:
    """Two-sided p of "prompts' differences are symmetric around 0": their signs are flipped, prompt by prompt.

    All 2^C flips where those are at most `resamples`, else random ones with the observed one counted among them.
    """
    d = np.asarray(delta, float)
    c = len(d)
    if not c:
        return None
    observed = abs(d.sum()) * (1 - 1e-12)  # equal sums in another order of addition must count as equal
    if 2**c <= resamples:
        signs = 1 - 2 * ((np.arange(2**c)[:, None] >> np.arange(c)) & 1)
        return float((np.abs(signs @ d) >= observed).mean())
    signs = np.random.default_rng(seed).integers(0, 2, size=(resamples, c)) * 2 - 1
    return float((1 + (np.abs(signs @ d) >= observed).sum()) / (1 + resamples))


def holm(p: Sequence[float]) -> list[float]:
    """Holm's adjusted p-values of one family, in the given order."""
    order = np.argsort(p, kind="stable")
    m = len(p)
    adjusted = np.minimum(1.0, np.maximum.accumulate((m - np.arange(m)) * np.asarray(p, float)[order]))
    result = np.empty(m)
    result[order] = adjusted
    return result.tolist()


def non_inferiority(delta: Sequence[float] | Floats, margin: float) -> float | None:
    """One-sided p of "the mean difference is -margin or worse", by a t test on the prompts' differences.

    Below 0.025 the arm is not worse than the base by `margin` or more (the 95 % interval lies above -margin).
    None with one prompt. Where all prompts agree above the margin: the chance that none of them shows a loss which a
    share `margin` of all prompts has, (1 - margin)^C; else 1.
    """
    from scipy import stats

    d = np.asarray(delta, float)
    if len(d) < 2:
        return None
    se = float(cluster_se(d - d.mean())) / len(d)
    if se == 0:
        return float((1 - margin) ** len(d)) if d.mean() > -margin else 1.0
    return float(stats.t.sf((d.mean() + margin) / se, len(d) - 1))
