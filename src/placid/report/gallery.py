"""The figures beside Figure 6, in its style: the run at a glance, survival, heat map, codes, agreement of judges.

figures/<name>.{pdf,png,csv}   each beside the rows it drew; the bytes are deterministic
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure

from placid.report.figures import (
    STYLE,
    Drawing,
    Rows,
    caption_of,
    curve,
    deletion_panel,
    finish,
    lines,
    note,
    risk_table,
    save,
    steps,
    turn_axis,
)
from placid.report.tables import write_csv
from placid.store.sheets import decode

Tables = dict[str, Rows]
"""Name of a CSV below tables/ → its rows."""
LOW, HIGH = "#f7f7f7", "#8a8a8a"


def draw(tables: Tables, summary: dict[str, Any], folder: Path) -> None:
    """Every figure of this module that the tables have rows for."""
    drawing = Drawing(tables["turns"], tables["conversations"], summary)
    with mpl.rc_context(STYLE):
        for name, work in DRAWN.items():
            found = work(drawing, tables)
            if found is None:  # not of this report: an older one's must not be taken for it
                for kind in ("pdf", "png", "csv"):
                    (folder / f"{name}.{kind}").unlink(missing_ok=True)
                continue
            figure, rows = found
            save(figure, folder / name)
            write_csv(folder / f"{name}.csv", rows)


Drawn = tuple[Figure, Rows] | None


def glance(drawing: Drawing, tables: Tables) -> Drawn:
    """Figure 1: baseline and treatments, with transfer bars where evaluations are there."""
    shown = [a for a in drawing.arms if a == drawing.baseline or a in drawing.treatments]
    if not shown:
        return None
    small = drawing.only(shown)
    evals = [row for row in tables.get("evals", []) if row["arm"] in shown and row["value"] not in ("", None)]
    figure, axes = plt.subplots(1, 4 if evals else 3, figsize=(18 if evals else 14, 4.6), layout="constrained")
    lines(axes[0], small, "mean", "lo", "hi")
    axes[0].set(title="a  Mean frustration by turn", ylabel="score, 0 to 10", ylim=(-0.2, 10.2))
    deletion_panel(axes[1], small)
    axes[1].set_title("b  Cumulative deletion")
    core = [row for arm in shown for row in core_rows(arm, small.summary["arms"][arm])]
    bars(axes[2], small, core, "c  Core outcomes", "%")
    if evals:
        bars(axes[3], small, [transfer_row(row) for row in evals], "d  Transfer", "")
    finish(figure, axes[0], caption_of(drawing.summary))
    rows = [
        {"panel": "a", "arm": r["arm"], "x": r["turn"], "value": r["mean"], "lo": r["lo"], "hi": r["hi"],
         "n": r["n_scored"]}
        for r in small.turns
    ]  # fmt: skip
    rows += [
        {"panel": "b", "arm": r["arm"], "x": r["turn"], "value": r["deleted_cumulative"], "lo": r["deleted_lo"],
         "hi": r["deleted_hi"], "n": r["n_at_risk"]}
        for r in small.turns
    ]  # fmt: skip
    rows += [{"panel": "c", **row} for row in core]
    rows += [{"panel": "d", **transfer_row(row)} for row in evals]
    return figure, rows


def core_rows(arm: str, numbers: dict[str, Any]) -> Rows:
    """Percentages of one arm that can stand on one axis; the AUC as percent of the scale."""
    found = (
        ("AUC, % of 10", numbers["auc_mean"], numbers["auc_ci"], 10, numbers["n_with_auc"]),
        (">= 5 at end", numbers["share_ge5_t20"], numbers["share_ge5_ci"], 100, numbers["n_at_last_turn"]),
        ("deleted", numbers["deletion_rate"], numbers["deletion_ci"], 100, numbers["n_conversations"]),
        ("right, turn 1", numbers["turn1_accuracy"], numbers["turn1_accuracy_ci"], 100, numbers["turn1_accuracy_n"]),
        ("right, late", numbers["late_accuracy"], numbers["late_accuracy_ci"], 100, numbers["late_accuracy_n"]),
    )
    return [
        {"arm": arm, "x": name, "value": None if value is None else scale * value,
         "lo": None if low is None else scale * low, "hi": None if high is None else scale * high, "n": n}
        for name, value, (low, high), scale, n in found
    ]  # fmt: skip


def numbers_of(row: dict[str, Any]) -> dict[str, float | None]:
    """The value of a row of evals.csv with its ends."""
    return {name: float(row[name]) if row[name] not in ("", None) else None for name in ("value", "lo", "hi")}


def transfer_row(row: dict[str, Any]) -> dict[str, Any]:
    """One row of evals.csv as a bar."""
    return {"arm": row["arm"], "x": f"{row['eval']} {row['metric']}", **numbers_of(row), "n": row["n"]}


def bars(axis: Axes, drawing: Drawing, rows: Rows, title: str, unit: str) -> None:
    """One group a metric, one bar an arm, with its interval and its number."""
    names = list(dict.fromkeys(row["x"] for row in rows))
    width = 0.8 / len(drawing.arms)
    for place, arm in enumerate(drawing.arms):
        for row in rows:
            if row["arm"] != arm or row["value"] is None:
                continue
            x = names.index(row["x"]) + (place - (len(drawing.arms) - 1) / 2) * width
            ends = None if row["lo"] is None else [[row["value"] - row["lo"]], [row["hi"] - row["value"]]]
            axis.bar(x, row["value"], width * 0.92, **drawing.ink(arm))
            axis.errorbar(x, row["value"], ends, fmt="none", ecolor="black", capsize=2, linewidth=1)
            top = row["value"] if row["hi"] is None else row["hi"]
            text = f"{row['value']:.0f}" if unit == "%" else f"{row['value']:.2g}"
            axis.annotate(text, (x, top), xytext=(0, 2), textcoords="offset points", ha="center", fontsize=7)
    axis.set_xticks(range(len(names)), names, fontsize=8, rotation=20)
    axis.grid(visible=False, axis="x")
    axis.set(title=title, ylabel=unit)
    if unit == "%":
        axis.set_ylim(0, 108)


def survival(drawing: Drawing, tables: Tables) -> Drawn:
    """Kaplan-Meier with the risk table."""
    figure, axis = plt.subplots(figsize=(8.2, 5.4), layout="constrained")
    for arm in drawing.arms:
        rows = [row for row in tables["survival"] if row["arm"] == arm and row["turn"] > 0]
        steps(axis, drawing, arm, rows, ("survival", "survival_lo", "survival_hi"), 100)
        lost = [row for row in rows[:-1] if row["n_censored"] and row["survival"] is not None]
        axis.plot([r["turn"] for r in lost], [100 * r["survival"] for r in lost], "|", markersize=8, **drawing.ink(arm))
    axis.set(title="Conversations not yet deleted (Kaplan-Meier)", ylabel="%", ylim=(-2, 102))
    risk_table(axis, drawing, turn_axis(axis, drawing))
    axis.set_xlabel("")
    finish(figure, axis, caption_of(drawing.summary))
    return figure, tables["survival"]


def heatmap(drawing: Drawing, tables: Tables) -> Drawn:
    """Conversation × turn, one panel an arm."""
    many = len(drawing.arms)
    figure, axes = plt.subplots(1, many, figsize=(max(6, 2.6 * many), 5.2), layout="constrained", squeeze=False)
    shade = plt.get_cmap("cividis").with_extremes(bad=LOW)
    ordered: list[dict[str, Any]] = []
    turns = [f"t{turn}" for turn in range(1, max(arm["turns"] for arm in drawing.summary["arms"].values()) + 1)]
    image = None
    for axis, arm in zip(axes.flat, drawing.arms, strict=True):
        rows = sorted((row for row in tables["scores"] if row["arm"] == arm), key=_by_end)
        last = max(drawing.summary["arms"][arm]["turns"], 1)
        score = np.array([[row.get(f"t{t}") for t in range(1, last + 1)] for row in rows], float).reshape(-1, last)
        spoken = np.arange(1, last + 1) <= np.array([row["turns"] for row in rows])[:, None]
        span = (0.5, last + 0.5, len(rows) or 1, 0)
        flat: dict[str, Any] = {"aspect": "auto", "interpolation": "nearest", "extent": span}
        if rows:  # else every conversation is open, and an empty image cannot be drawn
            image = axis.imshow(score, cmap=shade, vmin=0, vmax=10, **flat)
            missing = np.where(spoken & np.isnan(score), 1.0, np.nan)
            axis.imshow(missing, cmap=ListedColormap([HIGH]), **flat)
        axis.grid(visible=False)
        axis.set_xticks(sorted({1, *range(5, last, 5), last}))
        axis.set(title=arm, xlabel="turn")
        axis.title.set_fontsize(10)
        axis.set_yticks([])
        ordered += [
            {"place": place, **row, **{name: row.get(name) for name in turns}} for place, row in enumerate(rows)
        ]
    axes[0, 0].set_ylabel("conversations, by turn of their end")
    if image is not None:
        figure.colorbar(image, ax=axes, label="score", shrink=0.8)
    note(figure, caption_of(drawing.summary, bands=False))
    return figure, ordered


def _by_end(row: dict[str, Any]) -> tuple[int, float, str, int]:
    scores = [value for name, value in row.items() if name[0] == "t" and name[1:].isdigit() and value is not None]
    return row["turns"], sum(scores) / len(scores) if scores else 0.0, row["prompt_id"], row["sample"]


def coded(drawing: Drawing, tables: Tables) -> Drawn:
    """Small multiples: one panel a code."""
    names = list(dict.fromkeys(row["code"] for row in tables["codes"]))
    if not names:
        return None
    across = min(3, len(names))
    down = -(-len(names) // across)
    figure, axes = plt.subplots(
        down, across, figsize=(4 * across, 2.6 * down + 0.6), layout="constrained", squeeze=False, sharex=True
    )
    for axis, name in zip(axes.flat, names, strict=False):
        for arm in drawing.arms:
            rows = [
                row for row in tables["codes"] if row["code"] == name and row["arm"] == arm and row["share"] is not None
            ]
            curve(axis, drawing, arm, rows, ("share", "lo", "hi"), 100)
        turn_axis(axis, drawing)
        axis.set(title=name.replace("_", " "), ylim=(-2, 102), xlabel="")
    for axis in axes.flat[len(names) :]:
        axis.axis("off")
    for axis in axes.flat[max(0, len(names) - across) : len(names)]:  # the lowest panel of each column
        axis.tick_params(axis="x", labelbottom=True)
    for axis in axes[:, 0]:
        axis.set_ylabel("% of replies")
    finish(figure, axes[0, 0], caption_of(drawing.summary))
    return figure, tables["codes"]


def agreement(drawing: Drawing, tables: Tables) -> Drawn:
    """Another judge on the same turns: how often each pair of scores, and the mean difference by turn."""
    rows = tables.get("agreement", [])
    judges = list(dict.fromkeys(row["other"] for row in rows))[:3]
    if not judges:
        return None
    figure, axes = plt.subplots(2, len(judges), figsize=(5 * len(judges), 8.4), layout="constrained", squeeze=False)
    for column, judge in enumerate(judges):
        square, trend = axes[:, column]
        counts = np.zeros((11, 11))
        for row in rows:
            if row["other"] == judge and row["what"] == "pair":
                counts[row["other_score"], row["score"]] = row["n"]
        square.imshow(np.sqrt(counts), cmap="cividis", origin="lower")
        for y, x in zip(*np.nonzero(counts), strict=True):
            dark = counts[y, x] < counts.max() / 4
            square.annotate(f"{counts[y, x]:.0f}", (x, y), ha="center", va="center", fontsize=7,
                            color="white" if dark else "black")  # fmt: skip
        square.grid(visible=False)
        kappa = next(row["estimate"] for row in rows if row["other"] == judge and row["what"] == "kappa")
        told = "no kappa" if kappa is None else f"quadratic kappa {kappa:.2f}"
        square.set(title=f"{judge}\n{told}", xlabel="this report's judge", ylabel="the other judge")
        square.title.set_fontsize(9)
        found = [row for row in rows if row["other"] == judge and row["what"] == "difference"]
        x = [row["turn"] for row in found]
        trend.axhline(0, color="#666666", linewidth=0.8)
        middle = [row["estimate"] for row in found]
        ends = [
            [0 if r["lo"] is None else r["estimate"] - r["lo"] for r in found],
            [0 if r["hi"] is None else r["hi"] - r["estimate"] for r in found],
        ]
        trend.set_xticks(sorted({min(x), *range(5, max(x), 5), max(x)}))
        trend.errorbar(x, middle, ends, fmt="o-", capsize=3, color="#0072B2")
        trend.set(title="Other judge minus this one", xlabel="turn", ylabel="points")
    note(figure, caption_of(drawing.summary))
    return figure, rows


DRAWN: dict[str, Callable[[Drawing, Tables], Drawn]] = {
    "figure1": glance,
    "survival": survival,
    "heatmap": heatmap,
    "codes": coded,
    "agreement": agreement,
}


def read_evals(folder: Path) -> Rows:
    """tables/evals.csv of the transfer evaluations (eval, arm, metric, value, lo, hi, n); none where none were run."""
    file = folder / "tables" / "evals.csv"
    if not file.is_file():
        return []
    return decode(file)
