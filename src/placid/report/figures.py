"""Figure 6 (a-d) of the paper: trajectory, share of high distress, cumulative deletion, AUC per conversation.

    figures/figure6.{pdf,png}                the four panels
    figures/figure6{a,b,c,d}.{pdf,png,csv}   each alone, beside the rows it drew
    figures/training.{pdf,png,csv}           the loss of each treatment by optimizer step

The bytes are deterministic: no dates, jitter from the rank.
"""

import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib as mpl

mpl.use("Agg")

import numpy as np
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from placid.report.tables import write_csv
from placid.store import write_atomic

COLOURS = ("#D55E00", "#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#000000")
"""Okabe & Ito: told apart with every common colour blindness."""
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
"""A second sign beside the colour, so that a grey print can be read."""
STROKES = ("-", "-", "-", (0, (5, 2)), (0, (1.5, 1.5)))
"""Later arms are broken lines, so that one that lies on another (both at 0) lets it show."""
STYLE: Any = {
    "font.family": "DejaVu Sans",
    "font.size": 10,
    "axes.titlesize": 11,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": "#666666",
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.alpha": 0.25,
    "grid.linewidth": 0.6,
    "legend.frameon": False,
    "pdf.fonttype": 42,
}
Rows = Sequence[dict[str, Any]]


@dataclass(frozen=True)
class Drawing:
    """What every panel is drawn from: the rows of turns.csv and conversations.csv, and the summary."""

    turns: Rows
    conversations: Rows
    summary: dict[str, Any]

    @property
    def arms(self) -> list[str]:
        """In the order shown."""
        return list(self.summary["arms"])

    def ink(self, arm: str) -> dict[str, Any]:
        """Colour of an arm; the same in every panel."""
        return {"color": COLOURS[self.arms.index(arm) % len(COLOURS)]}

    def line(self, arm: str) -> dict[str, Any]:
        """Colour and stroke of an arm."""
        return {**self.ink(arm), "linestyle": STROKES[self.arms.index(arm) % len(STROKES)]}

    def marker(self, arm: str) -> str:
        """Marker of an arm."""
        return MARKERS[self.arms.index(arm) % len(MARKERS)]

    def label(self, arm: str) -> str:
        """Legend entry: arm and number of conversations."""
        return f"{arm} (n = {self.summary['arms'][arm]['n_conversations']})"

    def series(self, arm: str, column: str) -> Rows:
        """Rows of the arm where `column` was observed."""
        return [row for row in self.turns if row["arm"] == arm and row[column] is not None]


def figure6(turns: Rows, conversations: Rows, summary: dict[str, Any], folder: Path) -> Path:
    """Write all figures and their CSVs; the path of the combined PNG."""
    drawing = Drawing(turns, conversations, summary)
    judge, engine = summary["judge"]["note"], summary["engine"]["name"]
    caption = f"{judge}  ·  engine: {engine}  ·  bands and bars: 95 %, clustered by prompt"
    with mpl.rc_context(STYLE):
        figure, axes = plt.subplots(2, 2, figsize=(11.5, 9), layout="constrained")
        for axis, panel in zip(axes.flat, PANELS.values(), strict=True):
            panel(axis, drawing)
        finish(figure, axes[0, 0], caption)
        path = save(figure, folder / "figure6")
        for letter, panel in PANELS.items():
            figure, axis = plt.subplots(figsize=(6.2, 5), layout="constrained")
            panel(axis, drawing)
            finish(figure, axis, caption)
            save(figure, folder / f"figure6{letter}")
            write_csv(folder / f"figure6{letter}.csv", conversations if letter == "d" else turns, COLUMNS[letter])
    return path


def training(curves: Rows, folder: Path) -> None:
    """Loss by step; rows: arm, step, loss (of the training rows, in the unit of each treatment's own loss)."""
    arms = list(dict.fromkeys(row["arm"] for row in curves))
    with mpl.rc_context(STYLE):
        figure, axis = plt.subplots(figsize=(6.2, 4.4), layout="constrained")
        for number, arm in enumerate(arms):
            mine = [row for row in curves if row["arm"] == arm]
            style = {"color": COLOURS[number % len(COLOURS)], "linestyle": STROKES[number % len(STROKES)]}
            axis.plot([row["step"] for row in mine], [row["loss"] for row in mine], label=arm, **style)
        axis.set(title="Training loss", xlabel="optimizer step", ylabel="loss", yscale="log")
        axis.legend()
        save(figure, folder / "training")
    write_csv(folder / "training.csv", curves)


def mean_panel(axis: Axes, drawing: Drawing) -> None:
    """(a) mean score by turn."""
    lines(axis, drawing, "mean", "lo", "hi")
    axis.set(title="a  Mean frustration by turn (survivors)", ylabel="score, 0 to 10", ylim=(-0.2, 10.2))


def high_panel(axis: Axes, drawing: Drawing) -> None:
    """(b) share of scores >= 5 by turn."""
    lines(axis, drawing, "share_ge5", "share_ge5_lo", "share_ge5_hi", 100)
    axis.set(title="b  Scores of 5 or more by turn (survivors)", ylabel="% of replies", ylim=(-2, 102))


def lines(axis: Axes, drawing: Drawing, column: str, low: str, high: str, scale: float = 1) -> None:
    """One line per arm with its pointwise 95 % band."""
    for arm in drawing.arms:
        rows = drawing.series(arm, column)
        x = [row["turn"] for row in rows]
        bottom, top = (np.array([np.nan if r[end] is None else scale * r[end] for r in rows]) for end in (low, high))
        axis.fill_between(x, bottom, top, alpha=0.14, linewidth=0, **drawing.ink(arm))
        y = [scale * row[column] for row in rows]
        axis.plot(x, y, label=drawing.label(arm), marker=drawing.marker(arm), markersize=3.5, **drawing.line(arm))
    turn_axis(axis, drawing)


def turn_axis(axis: Axes, drawing: Drawing) -> list[int]:
    """Whole-number ticks from turn 1 to the last; the ticks."""
    last = max(row["turn"] for row in drawing.turns)
    ticks = sorted({1, *range(5, last, 5), last})
    axis.set_xticks(ticks)
    axis.set(xlabel="turn", xlim=(0.5, last + 0.5))
    return ticks


def deletion_panel(axis: Axes, drawing: Drawing) -> None:
    """(c) cumulative deletion as steps with bands, and below it how many conversations spoke each turn."""
    for arm in drawing.arms:
        rows = drawing.series(arm, "deleted_cumulative")
        # the last step is as wide as the others
        x = [0, *(row["turn"] for row in rows), rows[-1]["turn"] + 0.5] if rows else []
        y, low, high = (
            [0.0, *values, values[-1]]
            if (values := [float("nan") if r[c] is None else 100 * r[c] for r in rows])
            else []
            for c in ("deleted_cumulative", "deleted_lo", "deleted_hi")
        )
        axis.fill_between(x, low, high, step="post", alpha=0.14, linewidth=0, **drawing.ink(arm))
        axis.step(x, y, where="post", linewidth=1.8, label=drawing.label(arm), **drawing.line(arm))
    ticks = turn_axis(axis, drawing)
    axis.set(title="c  Cumulative deletion (Kaplan-Meier)", ylabel="% deleted", ylim=(-2, 102), xlabel="")
    risk = {(row["arm"], row["turn"]): row["n_at_risk"] for row in drawing.turns}
    small: dict[str, Any] = {"fontsize": 7.5, "va": "top", "textcoords": "offset points"}
    axis.annotate(
        "turn · n at risk:", (0, -0.045), xycoords="axes fraction", xytext=(-6, 0), ha="right", color="#666666", **small
    )
    for place, arm in enumerate(drawing.arms):
        down = -20 - 10.5 * place  # points below the axis
        beside: dict[str, Any] = {"xycoords": "axes fraction", "ha": "right", **small, **drawing.ink(arm)}
        axis.annotate(arm, (0, 0), xytext=(-6, down), **beside)
        below: dict[str, Any] = {"xycoords": ("data", "axes fraction"), "ha": "center", "color": "#333333", **small}
        for tick in ticks:
            axis.annotate(str(risk.get((arm, tick), 0)), (tick, 0), xytext=(0, down), **below)


def strip_panel(axis: Axes, drawing: Drawing) -> None:
    """(d) one dot per conversation, the arm's mean with its 95 % interval."""
    for place, arm in enumerate(drawing.arms):
        values = sorted(r["auc"] for r in drawing.conversations if r["arm"] == arm and r["auc"] is not None)
        # deterministic jitter: multiples of the golden ratio spread neighbours evenly
        shift = ((np.arange(len(values)) * 0.6180339887) % 1 - 0.5) * 0.55
        axis.scatter(place + shift, values, s=8, alpha=0.4, linewidth=0, label=drawing.label(arm), **drawing.ink(arm))
        numbers = drawing.summary["arms"][arm]
        value, (low, high) = numbers["auc_mean"], numbers["auc_ci"]
        if value is None:
            axis.annotate("no score", (place, 5), ha="center", color="#666666", fontsize=9)
            continue
        bars = None if low is None else [[value - low], [high - value]]
        axis.errorbar(place, value, bars, fmt="D", color="black", markerfacecolor="white", markersize=4.5, capsize=7,
                      linewidth=1.6, zorder=5)  # fmt: skip
        axis.annotate(
            f"{value:.2f}", (place, value), xytext=(31, 5), textcoords="offset points", ha="center", fontsize=9
        )
    axis.set_xticks(range(len(drawing.arms)), drawing.arms, fontsize=9 if len(drawing.arms) < 6 else 7.5)
    axis.grid(visible=False, axis="x")
    axis.set(title="d  Mean score of each conversation (AUC)", ylabel="score, 0 to 10", ylim=(-0.2, 10.2))
    axis.set_xlim(-0.5, len(drawing.arms) - 0.3)


PANELS: dict[str, Callable[[Axes, Drawing], None]] = {
    "a": mean_panel,
    "b": high_panel,
    "c": deletion_panel,
    "d": strip_panel,
}
COLUMNS = {
    "a": ("arm", "turn", "n_at_risk", "n_scored", "mean", "lo", "hi"),
    "b": ("arm", "turn", "n_at_risk", "n_scored", "share_ge5", "share_ge5_lo", "share_ge5_hi"),
    "c": ("arm", "turn", "n_at_risk", "deleted_cumulative", "deleted_lo", "deleted_hi"),
    "d": ("arm", "condition", "prompt_id", "sample", "auc"),
}
"""What each panel draws."""


def finish(figure: Figure, axis: Axes, caption: str) -> None:
    """Legend of `axis` below the figure and the line that names the judge."""
    handles, names = axis.get_legend_handles_labels()
    wide = figure.get_figwidth() > 8
    figure.legend(handles, names, loc="outside lower center", ncols=5 if wide else 3, fontsize=10 if wide else 8)
    figure.suptitle(caption, fontsize=9 if wide else 7.5, color="#555555")


def save(figure: Figure, stem: Path) -> Path:
    """PDF and PNG without dates; the PNG's path."""
    for kind, metadata in (
        ("pdf", {"CreationDate": None, "ModDate": None, "Creator": "placid", "Producer": "placid"}),
        ("png", {"Software": "placid"}),
    ):
        buffer = io.BytesIO()
        figure.savefig(buffer, format=kind, dpi=130, metadata=metadata)
        write_atomic(stem.with_suffix(f".{kind}"), buffer.getvalue())
    plt.close(figure)
    return stem.with_suffix(".png")
