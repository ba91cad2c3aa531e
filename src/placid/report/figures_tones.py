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

from placid.report.figures import STYLE, Drawing, caption_of, curve, one_panel, save
from placid.report.interventions import claimed_text, nobody
from placid.report.tables import write_csv

Rows = Sequence[dict[str, Any]]


def tones(turns: Rows, arms: Sequence[str], summary: dict[str, Any], folder: Path) -> list[Path]:
    """Figures 2 and 3 from the rows of turns.csv; none of `arms` in them: nothing is drawn."""
    shown = [arm for arm in arms if any(row["arm"] == arm for row in turns)]
    if not shown:
        return []
    drawing = Drawing(
        [row for row in turns if row["arm"] in shown], (), {"arms": {a: summary["arms"][a] for a in shown}}
    )
    return [
        one_panel(letter, drawing, caption_of(summary), folder / name, (7.2, 4.8), ", by tone of the user")
        for name, letter in (("figure2", "a"), ("figure3", "c"))
    ]


def interventions(rows: Rows, caption: str, folder: Path) -> Path | None:
    """Figure 4 from the rows of interventions.csv: a column of two panels for each intervention and cut-off."""
    places = list(dict.fromkeys((row["intervention"], row["at"]) for row in rows))
    if not places:
        return None
    histories = list(dict.fromkeys(row["history"] for row in rows))
    drawing = Drawing((), (), {"arms": {history: {} for history in histories}})
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
            for history in histories:
                drawn = [row for row in own if row["history"] == history and row["mean"] is not None]
                curve(above, drawing, history, drawn, ("mean", "mean_lo", "mean_hi"), 1, "offset")
                after = [row for row in own if row["history"] == history and row["rebound"] is not None]
                curve(below, drawing, history, after, ("rebound", "rebound_lo", "rebound_hi"), 100, "offset")
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
