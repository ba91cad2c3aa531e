"""Figure 7: every transfer eval's headline by arm, and beside it the paired differences from the baseline."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl

mpl.use("Agg")

from matplotlib import pyplot as plt
from matplotlib.axes import Axes

from placid.report.figures import COLOURS, STYLE, save
from placid.report.tables import write_csv

Rows = Sequence[dict[str, Any]]


def draw(rows: Rows, paired: Rows, told: Mapping[str, Any], baseline: str, folder: Path) -> Path:
    """Write figure7.{pdf,png,csv}; the PNG's path. One line of panels an eval: values left, differences right."""
    shown = [row for row in rows if row["headline"]]
    panels = list(dict.fromkeys((row["eval"], row["metric"]) for row in shown))
    arms = list(dict.fromkeys(row["arm"] for row in shown))
    ink = {arm: COLOURS[k % len(COLOURS)] for k, arm in enumerate(arms)}
    size = (9.5, 0.7 + len(panels) * (0.45 + 0.22 * len(arms)))
    with mpl.rc_context(STYLE):
        figure, axes = plt.subplots(len(panels), 2, figsize=size, layout="constrained", squeeze=False)
        for (name, metric), (left, right) in zip(panels, axes, strict=True):
            own = [row for row in shown if (row["eval"], row["metric"]) == (name, metric)]
            deltas = [row for row in paired if row["headline"] and (row["eval"], row["metric"]) == (name, metric)]
            _values(left, own, ink)
            _differences(right, deltas, ink)
            better = "higher" if told[name]["higher_is_better"] != (metric in told[name]["shown"]) else "lower"
            left.set_title(f"{name}: {metric} ({better} is better)", fontsize=9)
        axes[0, 1].set_title(f"difference from {baseline}, paired by row", fontsize=9)
        judges = sorted({word for row in shown for word in row["judge"].split()})
        note = "95 % intervals, clustered; beside each bar: scored rows + rows without a score"
        figure.supxlabel(f"{note}\njudged by: {', '.join(judges) or 'parsing alone'}", fontsize=7)
        path = save(figure, folder / "figure7")
    columns = ("eval", "metric", "group", "arm", "value", "lo", "hi", "n", "n_unscored", "judge")
    write_csv(folder / "figure7.csv", list(shown), columns)
    return path


def _values(axis: Axes, rows: Rows, ink: Mapping[str, str]) -> None:
    """A bar for each arm that has a value; where none has one, its place says so."""
    for k, row in enumerate(rows):
        label = f"n = {row['n']} + {row['n_unscored']}"
        if row["value"] is None:
            axis.text(0, k, f" no score  {label}", va="center", fontsize=7)
            continue
        axis.barh(k, row["value"], color=ink[row["arm"]], height=0.7)
        far = row["value"]
        if row["lo"] is not None:
            axis.plot([row["lo"], row["hi"]], [k, k], color="black", linewidth=1)
            far = max(far, row["hi"])
        axis.text(max(far, 0), k, f"  {row['value']:.3g}  {label}", va="center", fontsize=7)
    axis.set_yticks(range(len(rows)), [row["arm"] for row in rows], fontsize=8)
    axis.set_ylim(len(rows) - 0.4, -0.6)
    low, high = axis.get_xlim()
    axis.set_xlim(min(low, 0), high + 0.55 * (high - low))
    axis.tick_params(axis="x", labelsize=7)


def _differences(axis: Axes, rows: Rows, ink: Mapping[str, str]) -> None:
    """A point and its interval for each arm but the baseline."""
    axis.axvline(0, color="#666666", linewidth=0.8)
    for k, row in enumerate(rows):
        if row["difference"] is None:
            axis.text(0, k, " no pair", va="center", fontsize=7)
            continue
        if row["lo"] is not None:
            axis.plot([row["lo"], row["hi"]], [k, k], color=ink[row["arm"]], linewidth=1.5)
        axis.plot(row["difference"], k, "o", color=ink[row["arm"]], markersize=5)
        text = f"{row['difference']:+.3g}  ({row['n_pairs']} pairs)"
        axis.annotate(text, (row["difference"], k), (0, 4), textcoords="offset points", ha="center", fontsize=7)
    axis.set_yticks(range(len(rows)), [row["arm"] for row in rows], fontsize=8)
    axis.set_ylim(len(rows) - 0.4, -0.8)
    axis.tick_params(axis="x", labelsize=7)
    low, high = axis.get_xlim()
    edge = max(abs(low), abs(high), 1e-6) * 1.1
    axis.set_xlim(-edge, edge)
