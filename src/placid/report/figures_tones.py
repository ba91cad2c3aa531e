"""Figures 2, 3 and 4 of the study: the tones by turn, their deletions, and what rewriting the history does.

    figures/figure2.{pdf,png,csv}   mean score by turn, one line per tone
    figures/figure3.{pdf,png,csv}   cumulative deletion by turn, one line per tone (Kaplan-Meier)
    figures/figure4.{pdf,png,csv}   after the cut-off: mean score by turn, and the share that rebounded, per history

Drawn where the run has what they show: tones are the arms that report.tones names.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl

mpl.use("Agg")

from matplotlib import pyplot as plt
from matplotlib.axes import Axes

from placid.report.figures import COLOURS, MARKERS, STYLE, save
from placid.report.interventions import claimed_text, nobody
from placid.report.tables import write_csv

Rows = Sequence[dict[str, Any]]
BAND = {"alpha": 0.13, "linewidth": 0}
COLUMNS = {
    "figure2": ("arm", "turn", "n_at_risk", "n_scored", "mean", "lo", "hi"),
    "figure3": ("arm", "turn", "n_at_risk", "deleted_cumulative", "deleted_lo", "deleted_hi"),
}


def tones(turns: Rows, arms: Sequence[str], caption: str, folder: Path) -> list[Path]:
    """Figures 2 and 3 from the rows of turns.csv; none of `arms` in them: nothing is drawn."""
    shown = [arm for arm in arms if any(row["arm"] == arm for row in turns)]
    if not shown:
        return []
    rows = [row for row in turns if row["arm"] in shown]
    with mpl.rc_context(STYLE):
        _, axis = plt.subplots(figsize=(7.2, 4.8), layout="constrained")
        for place, arm in enumerate(shown):
            _line(axis, [r for r in rows if r["arm"] == arm], "turn", ("mean", "lo", "hi"), place, arm)
        axis.set(title="Mean frustration by turn and tone", ylabel="score, 0 to 10 (survivors)")
        axis.set_ylim(-0.2, 10.2)
        two = _finish(axis, rows, caption, folder, "figure2")
        _, axis = plt.subplots(figsize=(7.2, 4.8), layout="constrained")
        for place, arm in enumerate(shown):
            own = [{"turn": 0, "deleted_cumulative": 0.0, "deleted_lo": 0.0, "deleted_hi": 0.0},
                   *(r for r in rows if r["arm"] == arm)]  # fmt: skip
            own.append({**own[-1], "turn": own[-1]["turn"] + 0.5})  # the last step is seen too
            columns = ("deleted_cumulative", "deleted_lo", "deleted_hi")
            _line(axis, own, "turn", columns, place, arm, scale=100, steps=True)
        axis.set(title="Cumulative deletion by tone", ylabel="% of conversations (Kaplan-Meier)")
        axis.set_ylim(-2, 102)
        three = _finish(axis, rows, caption, folder, "figure3")
    return [two, three]


def interventions(rows: Rows, caption: str, folder: Path) -> Path | None:
    """Figure 4 from the rows of interventions.csv: a column of two panels for each intervention and cut-off."""
    places = list(dict.fromkeys((row["intervention"], row["at"]) for row in rows))
    if not places:
        return None
    histories = list(dict.fromkeys(row["history"] for row in rows))
    with mpl.rc_context(STYLE):
        figure, axes = plt.subplots(
            2,
            len(places),
            figsize=(max(7.2, 4.6 * len(places)), 7.6),
            layout="constrained",
            sharex="col",
            squeeze=False,
        )
        for (above, below), (name, at) in zip(axes.T, places, strict=True):
            own = [row for row in rows if (row["intervention"], row["at"]) == (name, at)]
            n = own[0]["n_selected"]
            for place, history in enumerate(histories):
                drawn = [row for row in own if row["history"] == history]
                _line(above, drawn, "offset", ("mean", "mean_lo", "mean_hi"), place, history)
                after = [row for row in drawn if row["offset"]]
                _line(below, after, "offset", ("rebound", "rebound_lo", "rebound_hi"), place, history, scale=100)
            above.set(title=f"{name.removesuffix(f'_t{at}')}, cut at turn {at} (n = {n})", ylim=(-0.2, 10.2))
            below.set(ylim=(-2, 102), xlabel="turns after the cut-off", xticks=sorted({row["offset"] for row in own}))
            if not n:
                for axis in (above, below):
                    axis.text(0.5, 0.5, nobody(own[0]), transform=axis.transAxes, ha="center", fontsize=8)
        axes[0, 0].set_ylabel("mean score (survivors)")
        axes[1, 0].set_ylabel("% that scored 5 or more since the cut-off")
        handles, names = axes[0, 0].get_legend_handles_labels()
        figure.legend(handles, names, loc="outside lower center", ncols=len(histories), fontsize=9)
        asked = [row for row in rows if not row["offset"] and row["claimed"] is not None]
        for row in asked:
            caption += f"\n{row['intervention']} {row['history']}: {claimed_text(row)}"
        figure.suptitle(f"{caption}  ·  0: the rewritten history's last turn", fontsize=8, color="#555555")
        write_csv(folder / "figure4.csv", list(rows))
        return save(figure, folder / "figure4")


def _line(
    axis: Axes, rows: Rows, x: str, columns: tuple[str, str, str], place: int, label: str, scale: float = 1,
    steps: bool = False,
) -> None:  # fmt: skip
    """One line with its band, where something was observed."""
    y, low, high = columns
    seen = [row for row in rows if row[y] is not None]
    at, colour = [row[x] for row in seen], COLOURS[place % len(COLOURS)]
    step = "post" if steps else None
    ends = [(row[low], row[high]) if row[low] is not None else (row[y], row[y]) for row in seen]
    axis.fill_between(at, [scale * e for e, _ in ends], [scale * e for _, e in ends], color=colour, step=step, **BAND)
    axis.plot(
        at, [scale * row[y] for row in seen], color=colour, label=label, linewidth=1.7, markersize=4,
        marker=None if steps else MARKERS[place % len(MARKERS)], drawstyle="steps-post" if steps else "default",
    )  # fmt: skip


def _finish(axis: Axes, rows: Rows, caption: str, folder: Path, name: str) -> Path:
    """Ticks, legend, caption; the figure beside the rows it drew."""
    last = max(row["turn"] for row in rows)
    axis.set_xticks(sorted({1, *range(5, last, 5), last}))
    axis.set_xlabel(f"turn (n: conversations at turn 1 → turn {last})")
    figure = axis.figure
    handles, names = axis.get_legend_handles_labels()
    first, final = ({row["arm"]: row["n_at_risk"] for row in rows if row["turn"] == turn} for turn in (1, last))
    figure.legend(  # pyright: ignore[reportAttributeAccessIssue] - a whole figure, never a part of one
        handles, [f"{arm} (n = {first.get(arm, 0)} → {final.get(arm, 0)})" for arm in names],
        loc="outside lower center", ncols=3, fontsize=9,
    )  # fmt: skip
    figure.suptitle(caption, fontsize=8, color="#555555")
    write_csv(folder / f"{name}.csv", rows, COLUMNS[name])
    return save(figure, folder / name)  # pyright: ignore[reportArgumentType]
