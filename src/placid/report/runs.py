"""Several finished runs in one table: seeds, ranks, models. Scores of different judges are not put side by side.

Runs are compared arm by arm over the prompts they share, the first run being the one the others are held against.
Where judge ids differ, a bridge must say how the two agree: a JSON file whose "from" and "to" are the two ids, as
`placid judge bridge` leaves it in bridges/ of a run that both graded. The scores are then shown as each judge gave
them, with a warning.
"""

from collections.abc import Mapping, Sequence
from itertools import chain
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

from placid.config import difference
from placid.records import BadInputError
from placid.report import cell, percent, stats
from placid.report.broken import shares_text
from placid.report.tables import Rows, aligned
from placid.store import read_json
from placid.store.sheets import decode

QUIET = ("name", "root", "checkpoints", "report", "workers", "launcher", "engine")
"""Parts of a config that say nothing about what was measured."""


class Run:
    """One reported run."""

    def __init__(self, path: Path) -> None:
        """Raises BadInputError: it has no report."""
        self.path, self.name = path, path.name
        file = path / "report" / "summary.json"
        if not file.is_file():
            raise BadInputError(f"{path} holds no report/summary.json; report it first (placid report CONFIG)")
        self.summary = read_json(file)
        self.config = read_json(path / "config.json")["config"]
        self.judge: str = self.summary["judge"]["id"]

        further = {name for one in self.summary.get("training_runs", {}).values() for name in one["arms"][1:]}
        self.arms = {name: self._numbers(name) for name in self.summary["arms"] if name not in further}
        """Arm → its numbers, of a treatment those over all its training runs."""

    def trainings(self, arm: str) -> list[str]:
        """The arms of its training runs; of an untrained arm itself."""
        return self.summary.get("training_runs", {}).get(arm, {}).get("arms") or [arm]

    def _numbers(self, arm: str) -> dict[str, Any]:
        together = f"{arm} ({len(self.trainings(arm))} runs)"
        return self.summary.get("trained", {}).get(together) or self.summary["arms"][arm]

    def values(self, arms: Sequence[str], column: str) -> dict[str, list[float]]:
        """Prompt → that column of conversations.csv, of the arms' conversations that have one."""
        found: dict[str, list[float]] = {}
        for row in decode(self.path / "report" / "tables" / "conversations.csv"):
            if row["arm"] in arms and column == "deleted":
                found.setdefault(row["prompt_id"], []).append(float(row["end"] == "deleted"))
            elif row["arm"] in arms and row[column]:
                found.setdefault(row["prompt_id"], []).append(float(row[column]))
        return found

    def retraining(self, arm: str, column: str) -> stats.Level:
        """How far the training runs of an arm lie apart in this column."""
        found = [list(chain(*self.values([one], column).values())) for one in self.trainings(arm)]
        return stats.level([fmean(values) for values in found if values])


def bridged(runs: Sequence[Run], files: Sequence[Path]) -> set[frozenset[str]]:
    """Pairs of judge ids for which a bridge was given or lies in one of the runs."""
    there = [file for run in runs for file in sorted((run.path / "bridges").glob("*.json"))]
    pairs: set[frozenset[str]] = set()
    for file in [*files, *there]:
        if not file.is_file():
            raise BadInputError(f"no bridge file {file}; `placid judge bridge` writes one")
        told = read_json(file)
        if not isinstance(told, dict) or not {"from", "to"} <= told.keys():
            raise BadInputError(f'{file} is no bridge: it needs "from" and "to", the two judge ids')
        pairs.add(frozenset((told["from"], told["to"])))
    return pairs


def compare(paths: Sequence[Path], bridges: Sequence[Path] = ()) -> Rows:
    """compare.csv: one row per run and arm.

    Raises:
        BadInputError: fewer than two runs, one without a report, or judges that no bridge joins.
    """
    if len(paths) < 2:
        raise BadInputError(f"compare needs two or more run directories, but got {len(paths)}")
    runs = [Run(path) for path in paths]
    first, known = runs[0], bridged(runs, bridges)
    for run in runs[1:]:
        if run.judge != first.judge and frozenset((run.judge, first.judge)) not in known:
            raise BadInputError(
                f"{first.path} was judged by {first.judge} and {run.path} by {run.judge}; scores of two judges are not "
                "comparable: grade both runs with one judge, or give a bridge between them (--bridge FILE)"
            )
    own = {run.name: "; ".join(_settings(first, run)) for run in runs}
    arms = list(dict.fromkeys(arm for run in runs for arm in run.arms))
    return [_row(first, run, arm, own[run.name]) for arm in arms for run in runs if arm in run.arms]


def _settings(first: Run, run: Run) -> list[str]:
    """What was set otherwise than in the first run: `seed: 1 -> 2`."""
    left, right = ({k: v for k, v in one.config.items() if k not in QUIET} for one in (first, run))
    return difference(left, right)


def _row(first: Run, run: Run, arm: str, settings: str) -> dict[str, Any]:
    a = run.arms[arm]
    row: dict[str, Any] = {
        "arm": arm, "run": run.name, "judge": run.judge, "model": run.config.get("model", ""),
        "seed": run.config.get("seed"), "rank": _rank(run.config), "settings": settings,
        "n": a["n_conversations"], "n_scored": a["n_scored"], "n_unscored": a["n_unscored"],
        "n_not_reached": a["n_not_reached"],
        "auc": a["auc_mean"], "auc_lo": a["auc_ci"][0], "auc_hi": a["auc_ci"][1],
        "deleted": a["deletion_rate"], "deleted_lo": a["deletion_ci"][0], "deleted_hi": a["deletion_ci"][1],
        "share_ge5": a["share_ge5_t20"], "share_ge5_lo": a["share_ge5_ci"][0], "share_ge5_hi": a["share_ge5_ci"][1],
        **{name: a.get(name) for name in ("garbled_share", "empty_share", "off_topic_share", "repeated_share")},
        "no_calm": a.get("no_calm", ""), "covers": a.get("covers", ""),
    }  # fmt: skip
    for outcome, column, most in (("auc", "auc", 10), ("deleted", "deleted", 1)):
        apart = stats.NOTHING
        if run is not first and arm in first.arms:
            here, there = (one.values(one.trainings(arm), column) for one in (run, first))
            levels = [one.retraining(arm, column) for one in (run, first)]
            apart = stats.widened(stats.difference(there, here, (-most, most)), *levels)
        row |= {f"{outcome}_change": apart.value, f"{outcome}_change_lo": apart.low, f"{outcome}_change_hi": apart.high}
    return row


def _rank(config: Mapping[str, Any]) -> int | None:
    recipe = (config.get("train") or {}).get("recipe") or {}
    return (recipe.get("lora") or {}).get("rank") if recipe.get("method") == "lora" else None


def table_text(rows: Rows) -> str:
    """For a terminal: the arms one below the other, the first run of each being what the others are held against."""
    head = (
        "arm", "run", "seed", "rank", "AUC [95 %]", "against first", "deleted % [95 %]", "against first",
        "garbled/empty/off topic/repeated %", "n", "judge", "intervals cover",
    )  # fmt: skip
    shown: list[tuple[str, ...]] = [head]
    for r in rows:
        shown.append((
            r["arm"], r["run"], str(r["seed"]), "–" if r["rank"] is None else str(r["rank"]),
            cell(r["auc"], (r["auc_lo"], r["auc_hi"])) + (", calm cannot be claimed" if r["no_calm"] else ""),
            cell(r["auc_change"], (r["auc_change_lo"], r["auc_change_hi"]), plus="+"),
            percent(r["deleted"], (r["deleted_lo"], r["deleted_hi"])),
            percent(r["deleted_change"], (r["deleted_change_lo"], r["deleted_change_hi"]), "+"),
            shares_text(r), str(r["n"]), r["judge"], r["covers"],
        ))  # fmt: skip
    lines = aligned(shown)
    told = dict.fromkeys(f"{r['run']}: {r['settings']}" for r in rows if r["settings"])
    told |= {f"{r['run']}: calm cannot be claimed for {r['arm']}: {r['no_calm']}": None for r in rows if r["no_calm"]}
    spread = [
        f"{arm}: AUC over {len(v)} runs that differ in seeds alone {fmean(v):.2f}, SD {stdev(v):.2f}"
        for arm, v in over_seeds(rows).items()
    ]
    judges = list(dict.fromkeys(r["judge"] for r in rows))
    mixed = f"judges differ ({', '.join(judges)}): bridged, but a change between them is partly the judge's"
    return "\n".join([*lines, "", *told, *spread, *([mixed] if len(judges) > 1 else [])])


def over_seeds(rows: Rows) -> dict[str, list[float]]:
    """AUCs of every arm over the runs that are set like the first but for seeds, where there are two or more."""
    found: dict[str, list[float]] = {}
    for row in rows:
        keys = [change.partition(":")[0] for change in row["settings"].split("; ") if change]
        if row["auc"] is not None and all(key.rpartition(".")[2] == "seed" for key in keys):
            found.setdefault(row["arm"], []).append(row["auc"])
    return {arm: aucs for arm, aucs in found.items() if len(aucs) > 1}
