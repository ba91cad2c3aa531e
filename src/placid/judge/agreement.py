"""How far two sets of scores agree. Pure: arrays in, numbers out; every estimator takes sampling weights.

Notation: N rows; `x` and `y` the two scores of each row, `w` its weight (what one row stands for), all of shape (N,).
`n` is the number of rows that the degrees of freedom count; weights are scaled to add up to it.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

Array = np.ndarray
DRAWS = 2000
"""Resamplings of the prompts for an interval."""
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


def scaled(w: Array, n: float) -> Array:
    """Weights that add up to n."""
    return w * (n / w.sum())


def quadratic_kappa(x: Array, y: Array, w: Array, n: float) -> float:
    """Cohen's kappa with quadratic weights, 1 - E(x - y)^2 / E(x - y')^2 with y' independent of x.

    On whole numbers this is the kappa of the confusion table; in this form it needs no rounding of scores like 7.5 and
    is Lin's concordance coefficient (population moments).
    """
    w = scaled(w, n) / n
    mean_x, mean_y = w @ x, w @ y
    apart = w @ (x - mean_x) ** 2 + w @ (y - mean_y) ** 2 + (mean_x - mean_y) ** 2
    return float(1 - w @ (x - y) ** 2 / apart) if apart > 0 else float("nan")


def icc_a1(x: Array, y: Array, w: Array, n: float) -> float:
    """ICC(A,1): absolute agreement of single scores, two-way model (McGraw & Wong 1996), two raters."""
    w = scaled(w, n)
    row, columns = (x + y) / 2, (w @ x / n, w @ y / n)
    grand = sum(columns) / 2
    between_rows = 2 * (w @ (row - grand) ** 2) / (n - 1)
    between_raters = n * sum((column - grand) ** 2 for column in columns)
    errors = [score - row - column + grand for score, column in zip((x, y), columns, strict=True)]
    error = sum(w @ e**2 for e in errors) / (n - 1)
    below = between_rows + error + 2 / n * (between_raters - error)
    return float((between_rows - error) / below) if below > 0 else float("nan")


def spearman(x: Array, y: Array, w: Array, n: float) -> float:
    """Spearman's rank correlation; ties share their middle rank, a row of weight 2 counts as two rows."""
    return _pearson(_ranks(x, w), _ranks(y, w), scaled(w, n))


def _ranks(values: Array, w: Array) -> Array:
    """Weighted middle ranks, up to a constant."""
    _, place = np.unique(values, return_inverse=True)
    each = np.bincount(place, w)
    return (np.cumsum(each) - each / 2)[place]


def _pearson(x: Array, y: Array, w: Array) -> float:
    w = w / w.sum()
    dx, dy = x - w @ x, y - w @ y
    below = np.sqrt((w @ dx**2) * (w @ dy**2))
    return float(w @ (dx * dy) / below) if below > 0 else float("nan")


def mean_error(x: Array, y: Array, w: Array, n: float) -> float:
    """Mean of |y - x|."""
    return float(scaled(w, n) @ np.abs(y - x) / n)


def within(most: float) -> Callable[[Array, Array, Array, float], float]:
    """Share of rows whose scores differ by at most `most`."""
    return lambda x, y, w, n: float(scaled(w, n) @ (np.abs(y - x) <= most) / n)


def limits(x: Array, y: Array, w: Array, n: float) -> tuple[float, float]:
    """Bland & Altman's limits of agreement: bias -/+ 1.96 standard deviations of y - x."""
    w, d = scaled(w, n), y - x
    bias = float(w @ d / n)
    deviation = float(np.sqrt(w @ (d - bias) ** 2 / (n - 1)))
    return bias - 1.96 * deviation, bias + 1.96 * deviation


def confusion(x: Array, y: Array, w: Array, cut: float) -> dict[str, float]:
    """Weighted shares of all rows at `>= cut`; positive is what the reference calls so."""
    w = w / w.sum()
    high_x, high_y = x >= cut, y >= cut
    cells = {"both": high_x & high_y, "missed": high_x & ~high_y, "false_alarm": ~high_x & high_y}
    cells["neither"] = ~high_x & ~high_y
    return {name: float(w @ cell) for name, cell in cells.items()}


def at_cut(cut: float) -> dict[str, Callable[[Array, Array, Array, float], float]]:
    """Sensitivity, specificity and Cohen's kappa of `>= cut`."""

    def sensitivity(x: Array, y: Array, w: Array, n: float) -> float:  # noqa: ARG001 - one signature for all
        cell = confusion(x, y, w, cut)
        return _ratio(cell["both"], cell["both"] + cell["missed"])

    def specificity(x: Array, y: Array, w: Array, n: float) -> float:  # noqa: ARG001
        cell = confusion(x, y, w, cut)
        return _ratio(cell["neither"], cell["neither"] + cell["false_alarm"])

    def kappa(x: Array, y: Array, w: Array, n: float) -> float:  # noqa: ARG001
        cell = confusion(x, y, w, cut)
        high_x, high_y = cell["both"] + cell["missed"], cell["both"] + cell["false_alarm"]
        chance = high_x * high_y + (1 - high_x) * (1 - high_y)
        return _ratio(cell["both"] + cell["neither"] - chance, 1 - chance)

    return {"sensitivity": sensitivity, "specificity": specificity, "kappa_at_cut": kappa}


def _ratio(above: float, below: float) -> float:
    return above / below if below > 0 else float("nan")


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
    low, high = limits(rows.x, rows.y, rows.weight, whole) if whole > 1 else (None, None)
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


def resampled(
    measures: dict[str, Callable[[Array, Array, Array, float], float]], rows: Rows, draws: int, seed: int
) -> dict[str, dict[str, object]]:
    """Each measure with the percentiles of its values over resampled prompts."""
    x, y, w, n = rows.x, rows.y, rows.weight, len(rows.x)
    names, place = np.unique(list(rows.prompts), return_inverse=True)
    values: dict[str, list[float]] = {name: [] for name in measures}
    random = np.random.default_rng(seed)
    with np.errstate(invalid="ignore", divide="ignore"):
        point = {name: measure(x, y, w, n) if n > 1 else float("nan") for name, measure in measures.items()}
        for _ in range(draws if len(names) >= LEAST_PROMPTS else 0):
            # a prompt drawn k times counts k times: its rows weigh k times as much
            times = np.bincount(random.integers(0, len(names), len(names)), minlength=len(names))[place]
            kept = times > 0
            rows_drawn = float(times.sum())
            if rows_drawn > 1:
                for name, measure in measures.items():
                    values[name].append(measure(x[kept], y[kept], (w * times)[kept], rows_drawn))
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
