"""Runs from Python: `placid.Run("runs/demo")` as polars frames, and `placid.study(...)` from a notebook.

Frames are joined on KEY: arm, condition, prompt_id, sample, turn.
"""

import json
import tempfile
from collections.abc import Iterator, Mapping
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from placid.records import BadInputError
from placid.store import RunDir, read_json

if TYPE_CHECKING:
    import polars as pl

KEY = ["arm", "condition", "prompt_id", "sample", "turn"]
"""Columns that name one turn of a run, in `turns()`, `scores()` and `add_scores()` alike."""


class Run:
    """A run directory, read as it stands on disk. Nothing is written but tables/ and what add_scores() is given."""

    def __init__(self, path: str | Path) -> None:
        """Open a run. Raises BadInputError if `path` is no run directory."""
        self.path = Path(path)
        self._run_dir = RunDir(self.path)
        if not (self.path / "config.json").is_file():
            raise BadInputError(f"{self.path} is no run directory (no config.json); placid.study(...) makes one")

    def __repr__(self) -> str:
        return f"Run({str(self.path)!r})"

    @cached_property
    def config(self) -> dict[str, Any]:
        """Every setting of the run, as its latest launch was given them."""
        return read_json(self.path / "config.json")["config"]

    @property
    def summary(self) -> dict[str, Any]:
        """Every number of the report, with intervals. Raises BadInputError if there is no report yet."""
        file = self.path / "report" / "summary.json"
        if not file.is_file():
            raise BadInputError(f"{file} is not there; placid report {self.path} writes it")
        return read_json(file)

    @property
    def arms(self) -> list[str]:
        """Names of the arms that hold conversations, sorted."""
        return sorted({key.arm for key in self._run_dir.index()})

    @property
    def judges(self) -> list[str]:
        """Ids of the judges that graded this run, people included."""
        return sorted(folder.name for folder in (self.path / "verdicts").glob("*") if folder.is_dir())

    def turns(self) -> "pl.DataFrame":
        """One row a turn: KEY, `user`, `reply`, `end`, token counts (docs/tables.md lists the columns)."""
        return self._table("turns")

    def scores(self, judge: str | None = None) -> "pl.DataFrame":
        """One row a judged turn: KEY, `judge_id`, `score` (0 to 10, null where unscored), `unscored` and the rest.

        judge: an id of `judges`; by default the report's judge, or the only one that is no person.

        Raises:
            BadInputError: no such judge, or several and none was named.
        """
        from placid.judge.validate import Cards

        chosen = Cards.of(self._run_dir).judge(judge)
        return self._table("verdicts").filter(judge_id=chosen)

    def conversation(self, arm: str, prompt_id: str, sample: int = 0, condition: str | None = None) -> "pl.DataFrame":
        """The turns of one conversation in order, with a column of scores for every judge.

        condition: needed only where the arm has several.

        Raises:
            BadInputError: no such conversation, or several.
        """
        wanted = {"arm": arm, "prompt_id": prompt_id, "sample": sample}
        rows = self.turns().filter(**wanted)
        if condition is not None:
            rows = rows.filter(condition=condition)
        conditions = rows["condition"].unique().to_list()
        if len(conditions) != 1:
            ways = f"; name one of its conditions: {', '.join(sorted(conditions))}" if conditions else ""
            raise BadInputError(f"{self.path} holds {len(conditions)} conversations {wanted}{ways}")
        import polars as pl

        verdicts = pl.read_parquet(self.path / "tables" / "verdicts.parquet")
        for judge in self.judges:
            scored = verdicts.filter(judge_id=judge).select(*KEY, pl.col("score").alias(judge))
            rows = rows.join(scored, on=KEY, how="left", maintain_order="left")
        return rows

    def add_scores(self, frame: "pl.DataFrame", name: str) -> str:
        """Keep scores from elsewhere beside the run's own, as those of the judge human-NAME; that judge's id.

        frame: columns KEY and `score` (0 to 10; rows with null are left out). name: of a-z, 0-9 and _.

        Raises:
            BadInputError: a missing column, an unknown turn, a score outside 0 to 10; nothing is written.
        """
        from placid.judge.humans import judge_of, read_csv

        judge_id = judge_of(name)
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / "scores.csv"
            frame.write_csv(file)
            read_csv(self._run_dir, file, name)
        return judge_id

    def _table(self, name: str) -> "pl.DataFrame":
        """One table of tables/, made anew where turns or verdicts have come since."""
        import polars as pl

        from placid.store.tables import compact

        compact(self._run_dir)
        return pl.read_parquet(self.path / "tables" / f"{name}.parquet")


def study(config: str | Path, **overrides: object) -> Run:
    """Run a study, or go on with it, and open its run.

    config: a file of configs/study/ or one like it. overrides: keys of the config; sections as dicts
    (`train={"seeds": 3}`) or dotted (`**{"train.seeds": 3}`).

    Raises:
        BadInputError: wrong input; nothing is written.
    """
    from placid.study import stages
    from placid.study.settings import read

    words = [f"--{key}={literal(value)}" for key, value in flat(overrides)]
    settings = read(Path(config), words)
    stages.run(settings, print)
    return Run(settings.root / settings.name)


def flat(overrides: Mapping[str, object], above: str = "") -> Iterator[tuple[str, object]]:
    """(dotted key, value) of nested overrides."""
    for key, value in overrides.items():
        if isinstance(value, Mapping):
            yield from flat(value, f"{above}{key}.")
        else:
            yield f"{above}{key}", value


def literal(value: object) -> str:
    """A value as TOML. JSON's strings, numbers, booleans and lists are TOML's too; paths become strings."""
    return json.dumps(value, default=str, allow_nan=False)
