"""How far two sets of scores agree. Pure: arrays in, numbers out; every estimator takes sampling weights.

Notation: N rows; `x` and `y` the two scores of each row, `w` its weight (what one row stands for), all of shape (N,).
The weights add up to the number of rows that the degrees of freedom count.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

Array = np.ndarray
Measure = Callable[[Array, Array, Array], float]
DRAWS = 2000
"""Resamplings of the prompts for an interval."""
DUST = 1e-12
"""A variance below this is the rounding of a constant."""
LEAST_PROMPTS = 2
"""Fewer clusters give no interval."""


@dataclass(frozen=True)
class Rows:
    """Two scores a row, with what the row stands for."""

    x: Array
    """The reference (a human, or the first judge)."""
    y: Array
    """The judge that is looked at."""
    weight: Array
    prompts: Sequence[str]
    """The cluster of each row: rows of one prompt are not independent."""

    def part(self, keep: Array) -> "Rows":
        """The rows where `keep` (N,) is true."""
        return Rows(
            self.x[keep],
            self.y[keep],
            self.weight[keep],
            [p for p, kept in zip(self.prompts, keep, strict=True) if kept],
        )


def quadratic_kappa(x: Array, y: Array, w: Array) -> float:
    """Cohen's kappa with quadratic weights, 1 - E(x - y)^2 / E(x - y')^2 with y' independent of x.

    On whole numbers this is the kappa of the confusion table; in this form it needs no rounding of scores like 7.5 and
    is Lin's concordance coefficient (population moments).
    """
    (of_x, shared), (_, of_y) = np.cov(x, y, ddof=0, aweights=w)
    return _ratio(2 * shared, of_x + of_y + (_mean(x, w) - _mean(y, w)) ** 2)


def icc_a1(x: Array, y: Array, w: Array) -> float:
    """ICC(A,1): absolute agreement of single scores, two-way model (McGraw & Wong 1996), two raters."""
    n, row, columns = w.sum(), (x + y) / 2, (_mean(x, w), _mean(y, w))
    grand = sum(columns) / 2
    between_rows = 2 * (w @ (row - grand) ** 2) / (n - 1)
    between_raters = n * sum((column - grand) ** 2 for column in columns)
    errors = [score - row - column + grand for score, column in zip((x, y), columns, strict=True)]
    error = sum(w @ e**2 for e in errors) / (n - 1)
    return _ratio(between_rows - error, between_rows + error + 2 / n * (between_raters - error))


def spearman(x: Array, y: Array, w: Array) -> float:
    """Spearman's rank correlation; ties share their middle rank, a row of weight 2 counts as two rows."""
    (of_x, shared), (_, of_y) = np.cov(_ranks(x, w), _ranks(y, w), ddof=0, aweights=w)
    return _ratio(shared, np.sqrt(of_x * of_y))


def _ranks(values: Array, w: Array) -> Array:
    """Weighted middle ranks from 0 to 1."""
    _, place = np.unique(values, return_inverse=True)
    each = np.bincount(place, w)
    return (np.cumsum(each) - each / 2)[place] / w.sum()


def _mean(values: Array, w: Array) -> float:
    return _ratio(float(w @ values), w.sum())


def _ratio(above: float, below: float) -> float:
    return float(above / below) if below > DUST else float("nan")


def mean_error(x: Array, y: Array, w: Array) -> float:
    """Mean of |y - x|."""
    return _mean(np.abs(y - x), w)


def within(most: float) -> Measure:
    """Share of rows whose scores differ by at most `most`."""
    return lambda x, y, w: _mean(np.abs(y - x) <= most, w)


def limits(x: Array, y: Array, w: Array) -> tuple[float, float]:
    """Bland & Altman's limits of agreement: bias -/+ 1.96 standard deviations of y - x."""
    d = y - x
    bias = _mean(d, w)
    deviation = float(np.sqrt(w @ (d - bias) ** 2 / (w.sum() - 1)))
    return bias - 1.96 * deviation, bias + 1.96 * deviation


def confusion(x: Array, y: Array, w: Array, cut: float) -> dict[str, float]:
    """Weighted shares of all rows at `>= cut`; positive is what the reference calls so."""
    high_x, high_y = x >= cut, y >= cut
    cells = {"both": high_x & high_y, "missed": high_x & ~high_y, "false_alarm": ~high_x & high_y}
    cells["neither"] = ~high_x & ~high_y
    return {name: _mean(cell, w) for name, cell in cells.items()}


def at_cut(cut: float) -> dict[str, Measure]:
    """Sensitivity, specificity and Cohen's kappa of `>= cut`."""
    return {
        "sensitivity": lambda x, y, w: _mean(y >= cut, w * (x >= cut)),
        "specificity": lambda x, y, w: _mean(y < cut, w * (x < cut)),
        # of two classes the quadratic weights are those of the plain kappa
        "kappa_at_cut": lambda x, y, w: quadratic_kappa(1.0 * (x >= cut), 1.0 * (y >= cut), w),
    }


def bias(rows: Rows) -> tuple[float, tuple[float, float] | None]:
    """Mean of y - x with its 95 % interval: t over prompts (C - 1 degrees of freedom), linearised for the weights."""
    d, w = rows.y - rows.x, rows.weight
    mean = float(w @ d / w.sum())
    names, place = np.unique(list(rows.prompts), return_inverse=True)
    if len(names) < LEAST_PROMPTS:
        return mean, None
    sums = np.bincount(place, w * (d - mean))
    error = float(np.sqrt(len(names) / (len(names) - 1) * (sums**2).sum()) / w.sum())
    half = float(stats.t.ppf(0.975, len(names) - 1)) * error
    return mean, (mean - half, mean + half)


def numbers(rows: Rows, cut: float, draws: int = DRAWS, seed: int = 0) -> dict[str, object]:
    """Everything above with 95 % intervals; {} without rows. Values that the rows do not define (no spread) are None.

    Intervals: bias by t over prompts; the others by resampling prompts (percentiles of `draws`, seeded). A rate that is
    0 or 1 in the sample has an interval of no length: read its n.
    """
    if not len(rows.x):
        return {}
    measures = {
        "kappa": quadratic_kappa,
        "icc": icc_a1,
        "spearman": spearman,
        "mae": mean_error,
        "exact": within(0),
        "within_1": within(1),
        **at_cut(cut),
    }
    whole = len(rows.x)
    mean, interval = bias(rows)
    weight = rows.weight * (whole / rows.weight.sum())
    low, high = limits(rows.x, rows.y, weight) if whole > 1 else (None, None)
    return {
        "n": whole,
        "n_prompts": len(set(rows.prompts)),
        "bias": {"value": mean, "ci": interval},
        "limits": [low, high],
        **resampled(measures, rows, draws, seed),
        "cut": cut,
        "share": confusion(rows.x, rows.y, rows.weight, cut),
        "count": {name: round(share * whole) for name, share in confusion(rows.x, rows.y, np.ones(whole), cut).items()},
    }


def resampled(measures: dict[str, Measure], rows: Rows, draws: int, seed: int) -> dict[str, dict[str, object]]:
    """Each measure with the percentiles of its values over resampled prompts."""
    x, y, n = rows.x, rows.y, len(rows.x)
    w = rows.weight * (n / rows.weight.sum())
    names, place = np.unique(list(rows.prompts), return_inverse=True)
    values: dict[str, list[float]] = {name: [] for name in measures}
    random = np.random.default_rng(seed)
    with np.errstate(invalid="ignore", divide="ignore"):
        point = {name: measure(x, y, w) if n > 1 else float("nan") for name, measure in measures.items()}
        for _ in range(draws if len(names) >= LEAST_PROMPTS else 0):
            # a prompt drawn k times counts k times: its rows weigh k times as much
            times = np.bincount(random.integers(0, len(names), len(names)), minlength=len(names))[place]
            kept = times > 0
            rows_drawn = times.sum()
            if rows_drawn > 1:
                drawn_w = (w * times)[kept]
                drawn_w *= rows_drawn / drawn_w.sum()
                for name, measure in measures.items():
                    values[name].append(measure(x[kept], y[kept], drawn_w))
    found: dict[str, dict[str, object]] = {}
    for name, value in point.items():
        drawn = np.array([v for v in values[name] if np.isfinite(v)])
        enough = len(drawn) > draws / 2
        ends = [float(q) for q in np.quantile(drawn, (0.025, 0.975))] if enough else None
        found[name] = {"value": value if np.isfinite(value) else None, "ci": ends}
    return found


def monotone(x: Array, y: Array) -> list[tuple[float, float, int]]:
    """The non-decreasing step of y on x that fits best: (x, fitted y, rows) for every distinct x."""
    from scipy.optimize import isotonic_regression

    levels, place = np.unique(x, return_inverse=True)
    count = np.bincount(place)
    mean = np.bincount(place, y) / count
    fitted = isotonic_regression(mean, weights=count).x
    return [(float(a), float(b), int(n)) for a, b, n in zip(levels, fitted, count, strict=True)]
