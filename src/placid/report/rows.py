"""What each treatment was trained on: rows, how many of them differ, tokens. Read from pairs/dropped.json."""

from pathlib import Path
from typing import Any

from placid.report.tables import Rows
from placid.store import read_json

FILES = {"train": "train", "sft_control": "control"}
"""File below pairs/ → how its numbers begin in dropped.json."""


def training_rows(run: Path, config: dict[str, Any]) -> Rows:
    """One row per treatment on BCT rows or their control; none where no rows were made, or by a version without counts.

    size: tokens of context and target. share: of the tokens of the BCT rows with their mix. row_ratio: of their number.
    """
    file = run / "pairs" / "dropped.json"
    if not file.is_file():
        return []
    made = read_json(file)
    rows: Rows = []
    for arm, name in ((config.get("train") or {}).get("rows") or {}).items():
        prefix = FILES.get(name)
        if prefix is None or f"{prefix}_distinct" not in made:
            continue
        number, distinct = made[f"{prefix}_rows"], made[f"{prefix}_distinct"]
        rows.append({
            "arm": arm, "file": name, "rows": number, "distinct": distinct, "repeated": number - distinct,
            "size": made[f"{prefix}_size"], "share": made[f"{prefix}_size"] / made["train_size"],
            "row_ratio": number / made["train_rows"], "control": made["control"] if prefix == "control" else "",
            "unit": made["unit"],
        })  # fmt: skip
    return rows


def row_lines(rows: Rows) -> list[str]:
    """For a terminal and the page: one line per treatment."""
    lines: list[str] = []
    for row in rows:
        text = (
            f"{row['arm']} was trained on {row['rows']:,} rows: {row['distinct']:,} distinct, "
            f"{row['repeated']:,} repeats, {row['size']:,} {row['unit']}"
        )
        if row["control"]:
            text += f" ({row['share']:.1%} of the BCT rows', in {row['row_ratio']:.2f} times as many rows)"
        if row["control"] == "rows":
            text += f"; the paper's control: as many instruct rows as BCT rows, {row['unit']} not matched"
        lines.append(text)
    return lines
