"""Figure 6 (a-d) of the paper: trajectory, share of high distress, cumulative deletion, AUC per conversation.

    figures/figure6.{pdf,png}                the four panels
    figures/figure6{a,b,c,d}.{pdf,png,csv}   each alone, beside the rows it drew
    figures/training.{pdf,png,csv}           the loss of each treatment by optimizer step

The bytes are deterministic: no dates, jitter from the rank.
"""

import io
import textwrap
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

from placid.report import TEXTS
from placid.report.tables import write_csv
from placid.store import write_atomic

COLOURS = ("#D55E00", "#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#000000")
"""Okabe & Ito: told apart with every common colour blindness."""
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
"""A second sign beside the colour, so that a grey print can be read."""
STROKES = ("-", "-", "-", (0, (5, 2)), (0, (1.5, 1.5)))
"""Later arms are broken lines, so that one that lies on another (both at 0) lets it show."""
LOSSES = TEXTS["losses"]
"""train.recipe.loss → what the numbers of loss.csv are (train/losses/)."""
STYLE: Any = TEXTS["style"]
Rows = Sequence[dict[str, Any]]


@dataclass(frozen=True)
class Drawing:
    """What every panel is drawn from: the rows of turns.csv and conversations.csv, and the summary."""

    turns: Rows
    conversations: Rows
    summary: dict[str, Any]
    palette: tuple[str, ...] = ()
    """Arms in the order of the colours; empty: the summary's."""

    def place(self, arm: str) -> int:
        """Number of an arm, the same in every figure."""
        return (self.palette or self.arms).index(arm)

    @property
    def arms(self) -> list[str]:
        """In the order shown."""
        return list(self.summary["arms"])

    @property
    def baseline(self) -> str:
        """The arm the others are held against."""
        return self.summary["definitions"]["baseline"]

    @property
    def treatments(self) -> list[str]:
        """Arms compared with it."""
        return list(self.summary["auc_reduction"])

    def only(self, arms: Sequence[str]) -> "Drawing":
        """The same with these arms alone."""
        turns, conversations = (
            [row for row in rows if row["arm"] in arms] for rows in (self.turns, self.conversations)
        )
        kept = {arm: numbers for arm, numbers in self.summary["arms"].items() if arm in arms}
        return Drawing(turns, conversations, {**self.summary, "arms": kept}, tuple(self.palette or self.arms))

    def ink(self, arm: str) -> dict[str, Any]:
        """Colour of an arm; the same in every panel."""
        return {"color": COLOURS[self.place(arm) % len(COLOURS)]}

    def line(self, arm: str) -> dict[str, Any]:
        """Colour and stroke of an arm."""
        return {**self.ink(arm), "linestyle": STROKES[self.place(arm) % len(STROKES)]}

    def marker(self, arm: str) -> str:
        """Marker of an arm."""
        return MARKERS[self.place(arm) % len(MARKERS)]

    def label(self, arm: str) -> str:
        """Legend entry: arm and number of conversations."""
        n = self.summary["arms"][arm].get("n_conversations")
        return arm if n is None else f"{arm} (n = {n})"

    def series(self, arm: str, column: str) -> Rows:
        """Rows of the arm where `column` was observed."""
        return [row for row in self.turns if row["arm"] == arm and row[column] is not None]


def figure6(turns: Rows, conversations: Rows, summary: dict[str, Any], folder: Path) -> Path:
    """Write all figures and their CSVs; the path of the combined PNG."""
    drawing = Drawing(turns, conversations, summary)
    caption = caption_of(summary)
    with mpl.rc_context(STYLE):
        figure, axes = plt.subplots(2, 2, figsize=(11.5, 9), layout="constrained")
        for (letter, panel), axis in zip(PANELS.items(), axes.flat, strict=True):
            panel(axis, drawing)
            axis.set_title(f"{letter}  {axis.get_title(loc='left')}")
        finish(figure, axes[0, 0], caption)
        path = save(figure, folder / "figure6")
    for letter in PANELS:
        one_panel(letter, drawing, caption, folder / f"figure6{letter}", (6.2, 5))
    return path


def one_panel(
    letter: str, drawing: "Drawing", caption: str, stem: Path, size: tuple[float, float], after: str = ""
) -> Path:
    """A panel of PANELS as a figure of its own beside the rows that it drew; the PNG's path. after: of its title."""
    with mpl.rc_context(STYLE):
        figure, axis = plt.subplots(figsize=size, layout="constrained")
        PANELS[letter](axis, drawing)
        axis.set_title(axis.get_title(loc="left") + after)
        finish(figure, axis, caption)
        rows = drawing.conversations if letter == "d" else drawing.turns
        write_csv(stem.with_suffix(".csv"), rows, COLUMNS[letter])
        return save(figure, stem)


def caption_of(summary: dict[str, Any], bands: bool = True) -> str:
    """The line below every figure: who judged, who answered, and where there are bands what they are."""
    judge, engine = summary["judge"]["note"], summary["engine"]["name"]
    broken = [name for name, arm in summary.get("arms", {}).items() if arm.get("no_calm")]
    judge += f"  ·  calm cannot be claimed: {', '.join(broken)}" if broken else ""
    return f"{judge}  ·  engine: {engine}" + "  ·  bands and bars: 95 %, clustered by prompt" * bands


def training(curves: Rows, shown: Sequence[str], folder: Path) -> None:
    """Loss by step, a panel for each unit; rows: arm, rows (train: a line; val: marks), step, loss, kind in LOSSES.

    shown: the arms of the other figures in their order, whose colours are kept.
    """
    arms = {row["arm"]: LOSSES.get(row["kind"], "loss, unit not known") for row in curves}
    order, units = [*shown, *(arm for arm in arms if arm not in shown)], list(dict.fromkeys(arms.values()))
    with mpl.rc_context(STYLE):
        figure, axes = plt.subplots(1, len(units), figsize=(6.2 * len(units), 4.4), layout="constrained", squeeze=False)
        drawing = Drawing((), (), {"arms": {}}, tuple(order))
        for arm, unit in arms.items():
            axis = axes[0, units.index(unit)]
            styles: dict[str, Any] = {
                "train": {"label": f"{arm}, its training rows", **drawing.line(arm)},
                "val": {
                    "label": f"{arm}, held-out BCT rows",
                    "marker": drawing.marker(arm),
                    "linestyle": "",
                    **drawing.ink(arm),
                },
            }
            for which, style in styles.items():
                mine = [row for row in curves if row["arm"] == arm and row["rows"] == which]
                if mine:
                    axis.plot([row["step"] for row in mine], [row["loss"] for row in mine], **style)
        for axis, unit in zip(axes[0], units, strict=True):
            axis.set(title="Loss by training step", xlabel="optimizer step", ylabel=unit, yscale="log")
            axis.legend()
        save(figure, folder / "training")
    write_csv(folder / "training.csv", curves)


def mean_panel(axis: Axes, drawing: Drawing) -> None:
    """(a) mean score by turn."""
    lines(axis, drawing, "mean", "lo", "hi")
    axis.set(title="Mean frustration by turn (survivors)", ylabel="score, 0 to 10", ylim=(-0.2, 10.2))


def high_panel(axis: Axes, drawing: Drawing) -> None:
    """(b) share of scores >= 5 by turn."""
    lines(axis, drawing, "share_ge5", "share_ge5_lo", "share_ge5_hi", 100)
    axis.set(title="Scores of 5 or more by turn (survivors)", ylabel="% of replies", ylim=(-2, 102))


def lines(axis: Axes, drawing: Drawing, column: str, low: str, high: str, scale: float = 1) -> None:
    """One line per arm with its pointwise 95 % band."""
    for arm in drawing.arms:
        curve(axis, drawing, arm, drawing.series(arm, column), (column, low, high), scale)
    turn_axis(axis, drawing)


def curve(
    axis: Axes, drawing: Drawing, arm: str, rows: Rows, columns: tuple[str, str, str], scale: float = 1,
    x_of: str = "turn",
) -> None:  # fmt: skip
    """One arm's line; its band has edges, so that bands that lie on each other can be told apart."""
    x = [row[x_of] for row in rows]
    y, bottom, top = (np.array([np.nan if r[c] is None else scale * r[c] for r in rows]) for c in columns)
    axis.fill_between(x, bottom, top, alpha=0.09, linewidth=0, **drawing.ink(arm))
    for edge in (bottom, top):
        axis.plot(x, edge, linewidth=0.6, alpha=0.55, **drawing.ink(arm))
    axis.plot(x, y, label=drawing.label(arm), marker=drawing.marker(arm), markersize=3.5, **drawing.line(arm))


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
        steps(axis, drawing, arm, rows, ("deleted_cumulative", "deleted_lo", "deleted_hi"), 0)
    ticks = turn_axis(axis, drawing)
    axis.set(title="Cumulative deletion (Kaplan-Meier)", ylabel="% deleted", ylim=(-2, 102), xlabel="")
    risk_table(axis, drawing, ticks)


def steps(axis: Axes, drawing: Drawing, arm: str, rows: Rows, columns: tuple[str, str, str], start: float) -> None:
    """One arm's step curve in percent with its band, from `start` at turn 0; the last step is as wide as the others."""
    if not rows:
        return
    x = [0, *(row["turn"] for row in rows), rows[-1]["turn"] + 0.5]
    y, low, high = (
        [start, *values, values[-1]]
        for values in ([float("nan") if r[c] is None else 100 * r[c] for r in rows] for c in columns)
    )
    axis.fill_between(x, low, high, step="post", alpha=0.12, linewidth=0, **drawing.ink(arm))
    axis.step(x, y, where="post", linewidth=1.8, label=drawing.label(arm), **drawing.line(arm))


def risk_table(axis: Axes, drawing: Drawing, ticks: Sequence[int]) -> None:
    """Below the axis: how many conversations of each arm spoke the turn."""
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
    name_arms(axis, drawing)
    axis.grid(visible=False, axis="x")
    axis.set(title="Mean score of each conversation (AUC)", ylabel="score, 0 to 10", ylim=(-0.2, 10.2))
    axis.set_xlim(-0.5, len(drawing.arms) - 0.3)


def name_arms(axis: Axes, drawing: Drawing) -> None:
    """One tick per arm; names that would run into each other are turned."""
    wide = sum(len(arm) for arm in drawing.arms) > 45
    axis.set_xticks(range(len(drawing.arms)), drawing.arms, fontsize=9)
    if wide:
        axis.tick_params(axis="x", rotation=30)
        for label in axis.get_xticklabels():
            label.set_horizontalalignment("right")


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
    """Below the figure: the line that names the judge, and under it the legend of `axis`, in as many columns as fit."""
    handles, names = axis.get_legend_handles_labels()
    wide = figure.get_figwidth() > 8
    size = 10 if wide else 8
    fit = int(figure.get_figwidth() * 72 / (size * (0.62 * max(map(len, names), default=1) + 4.5)))
    figure.legend(
        handles, names, loc="outside lower center", ncols=max(1, min(fit, len(names))), fontsize=size,
        title=wrapped(figure, caption), title_fontproperties={"size": size - 1},
    ).get_title().set_color("#555555")  # fmt: skip


def note(figure: Figure, caption: str) -> None:
    """The line that names the judge, below a figure without a legend."""
    figure.supxlabel(wrapped(figure, caption), fontsize=8, color="#555555")


def wrapped(figure: Figure, text: str) -> str:
    """In lines that the figure is wide enough for."""
    return textwrap.fill(text, int(figure.get_figwidth() * 15))


def save(figure: Figure, stem: Path) -> Path:
    """PDF and PNG without dates; the PNG's path."""
    for kind, metadata in (
        ("pdf", {"CreationDate": None, "ModDate": None, "Creator": "placid", "Producer": "placid"}),
        ("png", {"Software": "placid"}),
    ):
        buffer = io.BytesIO()
        figure.savefig(buffer, format=kind, dpi=130, metadata=metadata)
        write_atomic(stem.with_suffix(f".{kind}"), buffer.getvalue())
        figure.set_layout_engine("none")  # the layout is solved once, and is the same in both files
    plt.close(figure)
    return stem.with_suffix(".png")
