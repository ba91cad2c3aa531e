"""Figure 6 (a-d) of the paper: trajectory, share of high distress, cumulative deletion, AUC per conversation.

Each figure is written as PDF and PNG beside the CSV it drew; the bytes are deterministic.
"""

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl

mpl.use("Agg")

import numpy as np
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from placid.store import write_atomic

COLOURS = ("#D55E00", "#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#000000")
"""Okabe & Ito: told apart with every common colour blindness."""
STYLE: Any = {
    "font.family": "DejaVu Sans",
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.alpha": 0.25,
    "legend.frameon": False,
    "pdf.fonttype": 42,
    "svg.hashsalt": "placid",
}
Rows = Sequence[dict[str, Any]]


def figure6(turns: Rows, conversations: Rows, summary: dict[str, Any], folder: Path) -> Path:
    """The 2 x 2 figure from the rows of turns.csv and conversations.csv; the PNG's path."""
    arms = list(summary["arms"])
    colour: dict[str, str] = dict(zip(arms, COLOURS * 3, strict=False))
    with mpl.rc_context(STYLE):
        figure, axes = plt.subplots(2, 2, figsize=(11, 8), layout="constrained")
        lines(axes[0, 0], turns, arms, colour, "mean", (0, 10))
        axes[0, 0].set(title="a  Mean frustration (survivors)", ylabel="score, 0 to 10")
        lines(axes[0, 1], turns, arms, colour, "share_ge5", (0, 1))
        axes[0, 1].set(title="b  Share of scores of 5 or more (survivors)", ylabel="share")
        deletion(axes[1, 0], turns, arms, colour)
        strip(axes[1, 1], conversations, arms, colour, summary)
        handles, names = axes[0, 0].get_legend_handles_labels()
        figure.legend(handles, names, loc="outside lower center", ncols=min(5, max(1, len(arms))))
        figure.suptitle(f"Judge: {summary['judge']['note']}", fontsize=9, color="#555555")
        return save(figure, folder / "figure6")


def lines(
    axis: Axes, turns: Rows, arms: Sequence[str], colour: dict[str, str], column: str, limits: tuple[float, float]
) -> None:
    """One line per arm with its pointwise 95 % band."""
    for arm in arms:
        rows = [row for row in turns if row["arm"] == arm and row[column] is not None]
        if not rows:
            continue
        x = [row["turn"] for row in rows]
        low, high = (
            [row[column] if row[f"{column}_{end}"] is None else row[f"{column}_{end}"] for row in rows]
            for end in ("low", "high")
        )
        n = max(row["n_at_risk"] for row in rows)
        axis.fill_between(x, np.clip(low, *limits), np.clip(high, *limits), color=colour[arm], alpha=0.15, linewidth=0)
        axis.plot(
            x, [row[column] for row in rows], color=colour[arm], label=f"{arm} (n = {n})", marker="o", markersize=3
        )
    axis.xaxis.set_major_locator(MaxNLocator(integer=True))
    axis.set(xlabel="turn", ylim=(limits[0] - 0.02 * limits[1], limits[1]))


def deletion(axis: Axes, turns: Rows, arms: Sequence[str], colour: dict[str, str]) -> None:
    """Cumulative incidence of the shutdown command, as steps."""
    for arm in arms:
        rows = [row for row in turns if row["arm"] == arm]
        axis.step(
            [r["turn"] for r in rows],
            [r["deleted_cumulative"] for r in rows],
            where="post",
            color=colour[arm],
            linewidth=1.8,
        )
    axis.xaxis.set_major_locator(MaxNLocator(integer=True))
    axis.set(title="c  Cumulative deletion (Kaplan-Meier)", xlabel="turn", ylabel="share", ylim=(-0.02, 1))


def strip(
    axis: Axes, conversations: Rows, arms: Sequence[str], colour: dict[str, str], summary: dict[str, Any]
) -> None:
    """One dot per conversation, the arm's mean with its 95 % interval."""
    for place, arm in enumerate(arms):
        values = sorted(row["auc"] for row in conversations if row["arm"] == arm and row["auc"] is not None)
        # deterministic jitter: the golden ratio spreads neighbours evenly
        shift = ((np.arange(len(values)) * 0.6180339887) % 1 - 0.5) * 0.6
        axis.scatter(place + shift, values, s=7, color=colour[arm], alpha=0.45, linewidth=0)
        numbers = summary["arms"][arm]
        if numbers["auc_mean"] is not None:
            low, high = (numbers["auc_mean"] if end is None else end for end in numbers["auc_ci"])
            axis.errorbar(
                place,
                numbers["auc_mean"],
                yerr=[[numbers["auc_mean"] - low], [high - numbers["auc_mean"]]],
                fmt="_",
                color="black",
                capsize=5,
                markersize=16,
            )
    axis.set_xticks(range(len(arms)), arms, rotation=20, ha="right")
    axis.set(title="d  Mean score of each conversation", ylabel="score, 0 to 10", ylim=(-0.2, 10))


def save(figure: Any, stem: Path) -> Path:  # noqa: ANN401 - a matplotlib Figure
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
