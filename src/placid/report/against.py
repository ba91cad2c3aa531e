"""A run beside published numbers: the difference, and whether protocol, judge, model, prompts and n are the same."""

import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from placid.records import BadInputError
from placid.report import config_of
from placid.report.broken import warnings
from placid.report.tables import Rows, write_csv
from placid.store import RunDir, read_json
from placid.store.sheets import decode

KNOWN = ("paper",)
"""Files of published numbers beside this one."""


def published(name: str) -> dict[str, Any]:
    """The file of this name.

    Raises:
        BadInputError: there is none.
    """
    if name not in KNOWN:
        raise BadInputError(f"--against {name!r} names no published numbers; valid: {', '.join(KNOWN)}")
    return tomllib.loads(Path(__file__).with_name(f"{name}.toml").read_text(encoding="utf-8"))


def against(name: str, summary: Mapping[str, Any], turns: Rows, config: Mapping[str, Any]) -> Rows:
    """against_<name>.csv: one row per published number; ours is empty where the run has no such arm.

    turns: rows of turns.csv. difference: ours - published, lo and hi its ends from our interval alone (the published
    numbers have none). differs: what is not the same, by name; empty only where everything is.
    """
    book = published(name)
    rows: Rows = []
    for group in book["number"]:
        for number in group["values"]:
            value, (low, high), n = ours(group["outcome"], number["arm"], summary, turns)
            ends = {"lo": low, "hi": high} if value is not None and low is not None else {"lo": None, "hi": None}
            rows.append({
                "outcome": group["outcome"], "arm": number["arm"], "set": number["set"], "published": number["value"],
                "n_published": number["n"], "ours": value, "n_ours": n,
                "difference": None if value is None else value - number["value"],
                **{end: None if v is None else v - number["value"] for end, v in ends.items()},
                "differs": ", ".join(differing(book, number, summary, config, n)), "source": group["source"],
            })  # fmt: skip
    return rows


def ours(
    outcome: str, arm: str, summary: Mapping[str, Any], turns: Rows
) -> tuple[float | None, tuple[float | None, float | None], int]:
    """(value, interval, n) of one outcome; no interval for auc_by_turns, which this report does not use elsewhere."""
    numbers, nothing = summary["arms"].get(arm), (None, None)
    if numbers is None:
        return None, nothing, 0
    n = numbers["n_conversations"]
    if outcome == "auc_by_turns":
        means = [row["mean"] for row in turns if row["arm"] == arm and row["mean"] is not None]
        return sum(means) / len(means) if means else None, nothing, n
    if outcome == "auc_reduction":
        found = summary["auc_reduction"].get(arm)
        return (found["ratio"], tuple(found["ci"]), n) if found else (None, nothing, n)
    interval = {"deletion_rate": "deletion_ci", "share_ge5_t20": "share_ge5_ci"}[outcome]
    return numbers[outcome], tuple(numbers[interval]), n


def differing(
    book: Mapping[str, Any], number: Mapping[str, Any], summary: Mapping[str, Any], config: Mapping[str, Any], n: int
) -> list[str]:
    """Names of what is not as the published number was made; prompts are the same only if their file is named so."""
    found = [key for key, value in book["protocol"].items() if config.get(key) != value]
    if book["model"] not in str(config.get("model", "")):
        found.append("model")
    if book["judge"] not in summary["judge"]["id"]:
        found.append("judge")
    if number["set"] not in str(config.get("prompts", "")).lower():
        found.append("prompts")
    return found + (["n"] if n != number["n"] else [])


def write(name: str, run_dir: RunDir) -> str:
    """Write report/tables/against_<name>.csv of a reported run; the table for a terminal."""
    folder = run_dir.path / "report"
    summary = read_json(folder / "summary.json")
    rows = decode(folder / "tables" / "turns.csv")
    turns = [{**row, "mean": float(row["mean"]) if row["mean"] else None} for row in rows]
    rows = against(name, summary, turns, config_of(run_dir))
    write_csv(folder / "tables" / f"against_{name}.csv", rows)
    return "\n".join([table_text(rows, published(name)["about"]), *warnings(summary)])


def table_text(rows: Rows, about: str) -> str:
    """For a terminal."""
    head = ("outcome", "arm", "set", "published", "ours", "difference [95 %]", "n", "not the same")
    shown: list[tuple[str, ...]] = [head]
    for row in rows:
        scale = 1 if row["outcome"] == "auc_by_turns" else 100
        unit = "" if scale == 1 else " %"

        def text(value: float | None, scale: int = scale) -> str:
            return "–" if value is None else f"{scale * value:.2f}" if scale == 1 else f"{scale * value:.1f}"

        apart = text(row["difference"]) + ("" if row["lo"] is None else f" [{text(row['lo'])}, {text(row['hi'])}]")
        shown.append((row["outcome"] + unit, row["arm"], row["set"], text(row["published"]), text(row["ours"]), apart,
                      f"{row['n_ours']} / {row['n_published']}", row["differs"] or "nothing"))  # fmt: skip
    widths = [max(len(row[i]) for row in shown) for i in range(len(head))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in shown]
    return "\n".join([*lines, f"({about}; n: ours / published; the interval is that of our number alone)"])
