"""A run beside published numbers: the difference, and in what the protocols differ.

Every number is compared with the run's arm whose protocol is nearest to its own. "same protocol" is said only where
condition, way out, turns, kind of prompts, judge, rubric, sampling, n, definition and, of a treatment, the recipe are
the same.
"""

import re
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from placid.records import BadInputError
from placid.report import config_of
from placid.report.broken import warnings
from placid.report.settings import treated
from placid.report.tables import Rows, aligned, write_csv
from placid.store import RunDir, read_json
from placid.store.sheets import decode

KNOWN = ("paper",)
"""Files of published numbers beside this one."""
FILES = {"bct": "train", "sft_control": "sft_control"}
"""Treatment of a published number → the file below pairs/ that ours was trained on."""
SAME = "same protocol"
ABSENT = "not in this run"
Cell = Mapping[str, Any]
"""One published number with everything that is known of its protocol."""
Interval = tuple[float | None, float | None]


def published(name: str) -> dict[str, Any]:
    """The file of this name.

    Raises:
        BadInputError: there is none.
    """
    if name not in KNOWN:
        raise BadInputError(f"--against {name!r} names no published numbers; valid: {', '.join(KNOWN)}")
    return tomllib.loads(Path(__file__).with_name(f"{name}.toml").read_text(encoding="utf-8"))


def cells(book: Mapping[str, Any]) -> Iterator[Cell]:
    """Every number of a file, its group's keys and the common protocol filled in."""
    for group in book["number"]:
        shared = {key: value for key, value in group.items() if key not in ("values", "by_turn")}
        for value in group.get("values", []):
            yield {"arm": "base", "set": "", **book["protocol"], **shared, **value}
        for turn, value in enumerate(group.get("by_turn", []), 1):
            yield {"arm": "base", **book["protocol"], **shared, "turn": turn, "value": value}


@dataclass(frozen=True)
class Reported:
    """What a report wrote. turns: rows of turns.csv; tables: further tables by name."""

    summary: Mapping[str, Any]
    turns: Rows
    config: Mapping[str, Any]
    tables: Mapping[str, Rows] = field(default_factory=dict)

    @property
    def baseline(self) -> str:
        """The arm that treatments are held like and compared with."""
        return (self.config.get("report") or {}).get("baseline", "base")

    def arms(self, role: str) -> dict[str, dict[str, Any]]:
        """Reported arm → its settings: the untrained ones, or those of a treatment."""
        own = self.config.get("arms") or {}
        treatments = self.treatments()
        if role != "base":
            names = {name: own.get(arm) for name, (file, arm) in treatments.items() if file == FILES[role]}
            names |= {} if self.config.get("train") else {role: own.get(role)}  # imported: what its arm is called
        else:
            others = treatments.keys() | (FILES.keys() - own.keys())
            further = {name for name in self.summary["arms"] if re.sub(r"_run\d+$", "", name) in others}
            names = {name: own.get(name) for name in self.summary["arms"] if name not in further}
            names = {n: e for n, e in names.items() if not (e or {}).get("adapter") and not (e or {}).get("branch")}
        return {n: self._settings(n, entry) for n, entry in names.items() if n in self.summary["arms"]}

    def treatments(self) -> dict[str, tuple[str, str]]:
        """Arm of a trained model → (file below pairs/, the arm that it is held like)."""
        training = self.config.get("train") or {}
        rows = training.get("rows") or {}
        held = treated(rows, training.get("arms") or (), self.baseline)
        return {name: (rows[treatment], arm) for name, (treatment, arm) in held.items()}

    def _settings(self, name: str, entry: Mapping[str, Any] | None) -> dict[str, Any]:
        """With what an imported run says of its conversations where the config knows no such arm."""
        shared = {key: self.config[key] for key in ("turns", "prompts") if key in self.config}
        if entry is None:
            spoken = self.summary["arms"][name].get("conditions") or ["unknown"]
            plain = {one.partition("+")[0] for one in spoken}
            entry = {"condition": " and ".join(sorted(plain)), "hatch": all("+hatch" in one for one in spoken)}
        return {"condition": "neutral", "hatch": True, "system": False, **shared, **entry}


def against(
    name: str,
    summary: Mapping[str, Any],
    turns: Rows,
    config: Mapping[str, Any],
    tables: Mapping[str, Rows] | None = None,
) -> Rows:
    """against_<name>.csv: one row per published number; ours is empty where the run has no such arm.

    difference: ours - published, lo and hi its ends from our interval alone (the published numbers have none).
    differs: what is not the same and how; empty only where everything is.
    """
    book, run = published(name), Reported(summary, turns, config, tables or {})
    rows: Rows = []
    for cell in cells(book):
        arm, differs = nearest(book, cell, run)
        value, (low, high), n = ours(book, cell, run, arm) if arm else (None, (None, None), 0)
        if value is None:
            differs = [ABSENT]
        elif n != cell["n"]:
            differs = [*differs, f"n {n}, not {cell['n']}"]
        apart = [None if end is None or value is None else end - cell["value"] for end in (value, low, high)]
        rows.append({
            "figure": cell["figure"], "outcome": cell["outcome"], "of": subject(cell), "arm": cell["arm"],
            "set": cell["set"],
            "published": cell["value"], "n_published": cell["n"], "ours": value, "our_arm": arm, "n_ours": n,
            "difference": apart[0], "lo": apart[1], "hi": apart[2], "protocol": "; ".join(differs) or SAME,
            "differs": "; ".join(differs), "definition": cell["definition"], "source": cell["source"],
            "note": cell.get("note", ""),
        })  # fmt: skip
    return rows


def subject(cell: Cell) -> str:
    """What the number is of, beside its arm and prompts: tone and way out, turn, history, eval."""
    if cell["outcome"] == "eval":
        return cell["eval"]
    way = {True: "hatch", False: "no hatch"}.get(cell.get("hatch", ""), "")
    turn = f"turn {cell['turn']}" if "turn" in cell else ""
    after = f"{cell['offset']} turns after {cell['history']}" if "history" in cell else ""
    return ", ".join(part for part in (cell["condition"], way, turn, after) if part)


def nearest(book: Mapping[str, Any], cell: Cell, run: Reported) -> tuple[str, list[str]]:
    """The arm with the fewest differences from a number's protocol, and these; "" where the run has none such."""
    if cell["outcome"] == "eval":
        arms = {name: {} for name in run.arms(cell["arm"]) if cell["arm"] != "base" or name == run.baseline}
    elif cell["outcome"] == "mean_after_rewrite":
        chosen = run.config.get("interventions") or {}
        known = run.arms("base")
        arms = {name: {**known.get(one["source"], {}), **one} for name, one in chosen.items()}
    else:
        arms = run.arms(cell["arm"])
    told = {name: differing(book, cell, run, name, entry) for name, entry in arms.items()}
    if not told:
        return "", []

    def distance(name: str) -> tuple[int, bool, bool, str]:
        numbers = run.summary["arms"].get(name) or {}
        return len(told[name]), numbers.get("n_conversations") != cell["n"], name != cell["arm"], name

    arm = min(told, key=distance)
    return arm, told[arm]


def differing(book: Mapping[str, Any], cell: Cell, run: Reported, name: str, entry: Mapping[str, Any]) -> list[str]:
    """What is not as the published number was made, each with both values."""
    found = [said for key in ("temperature", "max_tokens") if (said := _apart(key, run.config.get(key), cell[key]))]
    if cell["model"] not in str(run.config.get("model", "")):
        found.append(f"model {Path(str(run.config.get('model', 'unknown'))).name}, not {cell['model']}")
    if cell["outcome"] != "eval":
        keys = [key for key in ("condition", "hatch", "turns", "system") if key in cell]
        if cell["outcome"] == "mean_after_rewrite":
            keys.remove("turns")  # the continuation's length is its offset
        found += [said for key in keys if (said := _apart(key, entry.get(key), cell[key]))]
        found += _prompts(book["kinds"], cell, run, name, entry)
        found += _judge(cell, run)
    if "our_definition" in cell:
        found.append(f"definition: ours {cell['our_definition']}")
    if cell["arm"] != "base":
        found += _recipe(book["recipe"], cell, run, name)
    return found


def _apart(key: str, mine: object, theirs: object) -> str:
    """`key mine, not theirs`; empty where they are the same."""
    words = {True: "yes", False: "no", None: "unknown"}
    same = mine == theirs or (isinstance(theirs, list) and isinstance(mine, Sequence) and list(mine) == theirs)
    shown = [words[one] if one is None or isinstance(one, bool) else str(one) for one in (mine, theirs)]
    return "" if same else f"{key} {shown[0]}, not {shown[1]}"


def _prompts(
    kinds: Mapping[str, list[str]], cell: Cell, run: Reported, name: str, entry: Mapping[str, Any]
) -> list[str]:
    """By the families of the arm's prompts; where they have none, by the name of their file."""
    wanted = list(kinds) if cell["set"] == "both" else [cell["set"]]
    families = (run.summary["arms"].get(entry.get("source", name)) or {}).get("families") or []
    file = Path(str(entry.get("prompts", ""))).stem
    if any(families):
        allowed = {family for kind in wanted for family in kinds[kind]}
        return [] if set(families) <= allowed else [f"prompts {'+'.join(families)}, not {cell['set']}"]
    return (
        [] if any(kind in file.lower() for kind in wanted) else [f"prompts of {file or 'unknown'}, not {cell['set']}"]
    )


def _judge(cell: Cell, run: Reported) -> list[str]:
    judge = run.summary["judge"]
    model = str(judge.get("model") or judge["id"])
    found = [] if cell["judge"] in model else [f"judge {model}, not {cell['judge']}"]
    rubric = judge.get("rubric")
    return found + ([f"rubric {rubric}, not {cell['rubric']}"] if rubric and rubric != cell["rubric"] else [])


def _recipe(wanted: Mapping[str, Any], cell: Cell, run: Reported, name: str) -> list[str]:
    """How a treatment was trained; the control also by how many rows."""
    training = run.config.get("train")
    if not training:
        return ["recipe unknown"]
    treatment = next(t for t in training["rows"] if name == t or name.startswith(f"{t}_"))
    recipe = (training.get("recipes") or {}).get(treatment) or training.get("recipe") or {}
    flat = {**recipe, **{f"lora.{key}": value for key, value in (recipe.get("lora") or {}).items()}}
    if "batch" in flat and "accumulate" in flat:
        flat["rows_per_step"] = flat["batch"] * flat["accumulate"]
    found = [said for key, value in wanted.items() if (said := _apart(f"recipe.{key}", flat.get(key), value))]
    control = (run.config.get("pairs") or {}).get("control")
    if cell["arm"] == "sft_control" and control != "rows":
        found.append(f"control by {control or 'tokens'}, not rows")
    return [*found, f"trained on frustration, not {cell['trained_on']}"] if "trained_on" in cell else found


def ours(book: Mapping[str, Any], cell: Cell, run: Reported, arm: str) -> tuple[float | None, Interval, int]:
    """(value, interval, n) of one number in the published definition; no interval where this report has none."""
    nothing: Interval = (None, None)
    outcome = cell["outcome"]
    if outcome == "eval":
        return _evaluated(cell, run, arm)
    if outcome == "mean_after_rewrite":
        row = next((r for r in run.summary.get("interventions", []) if r["intervention"].startswith(arm) and
                    (r["history"], r["offset"]) == (cell["history"], cell["offset"])), None)  # fmt: skip
        return (row["mean"], (row["mean_lo"], row["mean_hi"]), row["n_selected"]) if row else (None, nothing, 0)
    numbers = run.summary["arms"][arm]
    n = numbers["n_conversations"]
    if outcome == "deletion_rate":
        return numbers["deletion_rate"], tuple(numbers["deletion_ci"]), n
    if outcome == "auc_by_turns":
        return _auc(run, arm), nothing, n
    if outcome == "auc_reduction":
        return _reduction(book, cell, run)
    if outcome == "mean_deletion_turn":
        rows = [row for row in run.tables.get("conversations", []) if row["arm"] == arm]
        turns = [float(row["deleted_turn"]) for row in rows if row["deleted_turn"] not in (None, "")]
        return (sum(turns) / len(turns) if turns else None), nothing, n
    row = next((r for r in run.turns if r["arm"] == arm and r.get("turn") == cell["turn"]), None)
    column, ends = {
        "mean_at_turn": ("mean", ("lo", "hi")),
        "share_ge5_at_turn": ("share_ge5", ("share_ge5_lo", "share_ge5_hi")),
    }[outcome]
    return (row[column], (row[ends[0]], row[ends[1]]), n) if row else (None, nothing, n)


def _auc(run: Reported, arm: str) -> float | None:
    means = [row["mean"] for row in run.turns if row["arm"] == arm and row["mean"] is not None]
    return sum(means) / len(means) if means else None


def _reduction(book: Mapping[str, Any], cell: Cell, run: Reported) -> tuple[float | None, Interval, int]:
    """Of the means over both sets of prompts, each of the arm that is nearest to it; of one set where there is one."""
    total: dict[str, float] = {}
    held: dict[str, None] = {}
    for role in ("base", cell["arm"]):
        arms = {nearest(book, {**cell, "arm": role, "set": kind}, run)[0] for kind in book["kinds"]}
        found = [auc for arm in arms if arm and (auc := _auc(run, arm)) is not None]
        if not found:
            return None, (None, None), 0
        total[role] = sum(found) / len(found)
        held = dict.fromkeys(arms)
    n = sum(run.summary["arms"][arm]["n_conversations"] for arm in held)
    return 1 - total[cell["arm"]] / total["base"] if total["base"] else None, (None, None), n


def _evaluated(cell: Cell, run: Reported, arm: str) -> tuple[float | None, Interval, int]:
    kinds = {name: (keys or {}).get("kind", name) for name, keys in (run.config.get("evals") or {}).items()}
    for row in run.tables.get("evals_groups", []):
        if (kinds.get(row["eval"]), row["metric"], row["arm"]) == (cell["eval"], cell["metric"], arm) and row[
            "headline"
        ]:
            return row["value"], (row["lo"], row["hi"]), int(row["n"])
    return None, (None, None), 0


def write(name: str, run_dir: RunDir) -> str:
    """Write report/tables/against_<name>.csv of a reported run; the table for a terminal."""
    folder = run_dir.path / "report"
    summary = read_json(folder / "summary.json")
    tables = {table: _read(folder / "tables" / f"{table}.csv") for table in ("turns", "conversations", "evals_groups")}
    rows = against(name, summary, tables["turns"], config_of(run_dir), tables)
    write_csv(folder / "tables" / f"against_{name}.csv", rows)
    return "\n".join([table_text(rows, published(name)["about"]), *warnings(summary)])


def _read(file: Path) -> Rows:
    """Rows of a table with its numbers as numbers; none where there is no such file."""
    if not file.is_file():
        return []
    return [{key: _value(value) for key, value in row.items()} for row in decode(file)]


def _value(text: str) -> str | float | bool | None:
    if text in ("", "True", "False"):
        return {"": None, "True": True, "False": False}[text]
    try:
        return float(text)
    except ValueError:
        return text


def table_text(rows: Rows, about: str) -> str:
    """For a terminal: the numbers that this run has, and how many of the others there are."""
    head = ("figure", "outcome", "of", "arm", "set", "published", "ours", "difference [95 %]", "n", "protocol")
    shown: list[tuple[str, ...]] = [head]
    for row in rows:
        if row["ours"] is None:
            continue
        share = 0 <= row["published"] <= 1 and row["outcome"] not in ("mean_at_turn", "auc_by_turns")
        scale, digits = (100, 1) if share else (1, 2)
        number, mine, apart, low, high = (
            "–" if row[key] is None else f"{scale * row[key]:.{digits}f}"
            for key in ("published", "ours", "difference", "lo", "hi")
        )
        interval = "" if row["lo"] is None else f" [{low}, {high}]"
        outcome = row["outcome"] + (" %" if share else "")
        n = f"{row['n_ours']} / {row['n_published']}"
        shown.append((str(row["figure"]), outcome, row["of"], row["our_arm"], row["set"], number, mine,
                      apart + interval, n, row["protocol"]))  # fmt: skip
    lines = aligned(shown)
    missing = sum(row["ours"] is None for row in rows)
    same = sum(row["protocol"] == SAME for row in rows)
    return "\n".join([
        *lines,
        f"{len(rows)} published numbers: {same} of the same protocol, {len(rows) - same - missing} of another, "
        f"{missing} not in this run; sources and notes: against_*.csv",
        f"({about}; n: ours / published; the interval is that of our number alone)",
    ])  # fmt: skip
