"""Transfer evals: what training on one thing does to everything else. One file a task, all on the same engine.

    results = run(evals, rollout_settings, judge_settings, run_dir, attempt)

An eval turns data into rows, a row into asks (what is said to the model), and what came back into a reading: one state
(right, wrong, unparseable, refused, ...) and the scores of its metrics. A row is never dropped in silence: what the
rules of the task leave out is a Drop with its reason, what cannot be read is a state, and both are counted.

    evals/answers/<attempt>.jsonl    one line per finished ask and arm, append-only; nothing is asked twice
    evals/results.jsonl              one line per row and arm, made anew from the answers (and the judge's kept replies)
    evals/manifest.json              per eval: settings, data with revision, licence and sha256, rows, drops, metrics

Rows of two arms pair by their id. Adding an eval: docs/evals.md.
"""

import hashlib
import importlib
import importlib.util
import tomllib
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal, NamedTuple

import msgspec
from pydantic import Field

from placid.config import Settings, build, file_sha, sha
from placid.inputs.prompts import one_text
from placid.records import SCHEMA, BadInputError, End, Message, Record, Verdict

SHIPPED = (
    "mmlu", "sycophancy", "brr", "persona_icl", "refusal", "mt_bench", "gsm8k", "self_deletion", "frustration",
    "persona_drift",
)  # fmt: skip
"""Names of the evals that come with placid, each a module of this room with one Eval."""
METRICS: dict[str, dict[str, str]] = tomllib.loads(Path(__file__).with_name("metrics.toml").read_text(encoding="utf-8"))
"""Shipped eval → its metrics and their definitions."""
DONE, OVERFLOW, EMPTY, DELETED = "done", "overflow", "empty", "deleted"
"""How an ask ended. overflow: the next prompt would not fit the model's context; that row is unscored, and counted."""
UNANSWERED = (OVERFLOW, End.FILTERED.value, End.REJECTED.value, End.INFRA_ERROR.value)
"""Ends of an ask that got no answer: its row has this state and no score."""


def user(text: str) -> tuple[Message, ...]:
    """A chat of one user message."""
    return (Message(role="user", content=text),)


class Ask(Record, frozen=True, kw_only=True):
    """What is said to the model. Two asks with equal fields are one: they are answered once per arm."""

    messages: tuple[Message, ...]
    """The chat up to and with the user message that wants a reply."""
    then: tuple[str, ...] = ()
    """Further user messages; between them stand the model's own replies."""
    choices: tuple[str, ...] = ()
    """The last reply is the likeliest of these by log-probability; each must be one token."""
    max_tokens: int = 256
    temperature: float = 0.0
    sample: int = 0
    """Number of the sample, where one thing is asked several times."""
    tag: str = ""
    """End after a reply that uses the shutdown command of the model with this name."""
    begin: str = ""
    """What the model's first reply is made to begin with (a prefill attack); the reply is what comes after it."""

    @property
    def name(self) -> str:
        """sha256 of all fields; of an ask that begins nothing as before there was such a field."""
        fields = msgspec.to_builtins(self)
        if not self.begin:
            del fields["begin"]
        return hashlib.sha256(msgspec.json.encode(fields)).hexdigest()


class Answered(Record, frozen=True, kw_only=True):
    """What came back for one ask in one arm: the line of evals/answers/."""

    schema: int = SCHEMA
    arm: str
    ask: str
    """Name of the ask."""
    replies: tuple[str, ...]
    end: str
    """done, overflow, empty (the model said nothing) or deleted."""
    cut: bool = False
    """The last reply reached max_tokens."""
    cut_turns: tuple[int, ...] = ()
    """Numbers of all replies that reached it, from 1."""
    logprob: float | None = None
    """With choices: natural log-probability of the chosen one among all tokens."""
    seed: int
    prompt_tokens: int
    cached_tokens: int = 0

    @property
    def was_cut(self) -> bool:
        """Did any reply reach max_tokens?"""
        return self.cut or bool(self.cut_turns)


class Row(Record, frozen=True, kw_only=True):
    """One row of a task. (A msgspec struct copies a default of its own for every object.)"""

    id: str
    asks: dict[str, Ask]
    """Part → what is asked; "" where there is only one."""
    truth: str = ""
    groups: tuple[str, ...] = ()
    """Groups that get lines of their own in the tables (subject, bias, persona); the first one is the stratum that
    `n` counts in where the eval says so."""
    cluster: str = ""
    """Rows of one cluster are not independent; empty: the row's own id."""
    metrics: tuple[str, ...] = ()
    """Metrics that this row must have a score of; empty: all of the eval's."""
    notes: dict[str, str] = {}  # noqa: RUF012
    """Whatever the eval wants to read later (the biased option, the persona)."""


class Drop(NamedTuple):
    """A row that the rules of the task leave out, and why."""

    reason: str


class Graded(NamedTuple):
    """A text that a judge must grade before the row can be read."""

    rubric: str
    """A shipped rubric, a file below evals/rubrics/, or "" for the study's own (frustration)."""
    asked: str
    """What the judge is shown as the question."""
    replies: tuple[str, ...]
    users: tuple[str, ...] = ()
    """What the user said before each reply, where there are several."""
    forms: tuple[str, ...] = ()
    """For the rule judge, which has no understanding: literal forms of what a good reply holds."""


@dataclass(frozen=True)
class Heard:
    """What came back for one row in one arm."""

    parts: Mapping[str, Answered]
    verdicts: Mapping[str, list[Verdict]] = field(default_factory=dict)
    """Name of a Graded → its verdicts, one a reply."""

    def text(self, part: str = "") -> str:
        """The last reply of a part."""
        replies = self.parts[part].replies
        return replies[-1] if replies else ""


class Reading(NamedTuple):
    """What a row came to. A metric that is missing from `scores` is unscored in this row, never 0."""

    state: str
    scores: Mapping[str, float] = {}
    answer: str = ""


class Eval(Settings):
    """Base of every eval: its fields are the keys of [evals.<name>]. Needs rows() and read()."""

    source: str = "mini"
    """Data: mini (a small set of placid's own), or a file or folder (docs/evals.md; `placid fetch` gets them)."""
    n: int | None = Field(default=None, ge=1)
    """Most rows, chosen by a hash of `seed` and row id (of each bias in brr); none: all."""
    seed: int = 42
    """Seed of the choice of rows."""

    split: Literal["all", "train", "test"] = "all"
    """Half of the clusters by a hash: train on one half, evaluate on the other."""

    metrics: ClassVar[dict[str, str]] = METRICS["mmlu"]
    """Metric → its definition; the first is the headline of Figure 7."""
    higher: ClassVar[bool] = True
    """Is a higher headline better?"""
    shown: ClassVar[tuple[str, ...]] = ()
    """Metrics that are always shown beside the headline."""
    group: ClassVar[str] = ""
    """Group whose rows make the headline; empty: all rows that have the metric."""
    judged_by: ClassVar[tuple[str, ...]] = ()
    """Rubrics that rows of this eval are graded with."""
    per_group: ClassVar[bool] = False
    """`n` counts rows of each first group instead of all."""
    file: ClassVar[Path | None] = None
    """Of an eval outside the package: where it lies."""

    def rows(self) -> Iterable[Row | Drop]:
        """Every row of the data, in order; equal settings and data give equal rows.

        Raises:
            BadInputError: missing or malformed data.
        """
        raise NotImplementedError

    def read(self, row: Row, heard: Heard) -> Reading:
        """What the replies (and verdicts) come to. Not called for a row with a part that overflowed."""
        raise NotImplementedError

    def graded(self, row: Row, heard: Heard) -> Mapping[str, Graded]:
        """What a judge must grade of this row, by name."""
        return {}

    def training(self, row: Row) -> tuple[str, str] | None:
        """Consistency training: (part whose chat is the context, part whose reply is the target), if any."""
        return None

    def data(self) -> dict[str, object]:
        """Where the rows come from: for the manifest."""
        from placid.evals.sources import MINI, about

        told = {} if self.file and self.source == MINI else about(type(self).__module__.rpartition(".")[2], self.source)
        return {**told, "code": str(self.file), "code_sha256": file_sha(self.file)} if self.file else told


class Plan(NamedTuple):
    """The rows that are asked, and what was left out."""

    rows: list[Row]
    dropped: dict[str, int]
    """Reason → rows."""
    total: int
    """Rows of the data, dropped and not chosen ones included."""


def plan(task: Eval) -> Plan:
    """The chosen rows of an eval, in the data's order.

    Raises:
        BadInputError: malformed data, two rows with one id, or none left.
    """
    rows: dict[str, Row] = {}
    dropped: Counter[str] = Counter()
    every = list(task.rows())
    sides = {} if task.split == "all" else _sides([row for row in every if isinstance(row, Row)])
    for row in every:
        if isinstance(row, Drop):
            dropped[row.reason] += 1
        elif sides and sides[row.cluster or row.id] != task.split:
            dropped[f"not in the {task.split} half"] += 1
        elif row.id in rows:
            raise BadInputError(f"{type(task).__name__} of {task.source}: two rows have the id {row.id!r}")
        else:
            rows[row.id] = row
    if not rows:
        raise BadInputError(f"{type(task).__name__} of {task.source}: no row is left ({dict(dropped) or 'no data'})")
    return Plan(list(_chosen(task, list(rows.values()))), dict(dropped), len(every))


def half(cluster: str) -> str:
    """train or test: the same half for a cluster in every eval."""
    return "train" if int(sha(["half", cluster])[:8], 16) % 2 else "test"


def _sides(rows: list[Row]) -> dict[str, str]:
    """Cluster → its half; clusters that ask one text lie in the half of the first of them, in order of names."""
    texts: dict[str, list[str]] = {}
    for row in rows:
        asked = ["\n".join(message.content for message in ask.messages) for ask in row.asks.values()]
        texts.setdefault(row.cluster or row.id, []).extend(asked)
    return {name: half(first) for name, first in one_text(texts).items()}


def _chosen(task: Eval, rows: list[Row]) -> Iterator[Row]:
    """At most n rows (per first group), those with the smallest hash: adding rows elsewhere moves nothing."""
    strata: dict[str, list[Row]] = {}
    for row in rows:
        strata.setdefault(row.groups[0] if task.per_group and row.groups else "", []).append(row)
    kept = {
        row.id
        for members in strata.values()
        for row in sorted(members, key=lambda row: sha([task.seed, row.id]))[: task.n]
    }
    return (row for row in rows if row.id in kept)


def load(name: str, keys: Mapping[str, Any]) -> Eval:
    """The eval of [evals.<name>]: `kind` is a shipped name or the path of a Python file; it defaults to the name.

    Raises:
        BadInputError: no such eval, a file without exactly one Eval, an unknown key.
    """
    kind = str(keys.get("kind", name))
    if kind in SHIPPED:
        module = importlib.import_module(f"placid.evals.{kind}")
    elif kind.endswith(".py") and Path(kind).is_file():
        module = _plug_in(Path(kind))
    else:
        raise BadInputError(
            f'evals.{name}: {kind!r} is no eval; shipped: {", ".join(SHIPPED)}; or kind = "path/to/eval.py"'
        )
    own = [
        value
        for value in vars(module).values()
        if isinstance(value, type) and issubclass(value, Eval) and value.__module__ == module.__name__
    ]
    if len(own) != 1:
        raise BadInputError(f"evals.{name}: {kind} must define one subclass of Eval, it has {len(own)}")
    if kind not in SHIPPED:
        own[0].file = Path(kind)
    return build(own[0], {key: value for key, value in keys.items() if key != "kind"}, f"evals.{name}")


def _plug_in(path: Path) -> Any:  # noqa: ANN401 - a module
    """The module of a file outside the package."""
    spec = importlib.util.spec_from_file_location(f"placid_eval_{path.stem}", path)
    if spec is None or spec.loader is None:
        raise BadInputError(f"{path} cannot be loaded as Python")
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        raise BadInputError(f"{path} cannot be loaded: {type(error).__name__}: {error}") from error
    return module


def load_all(tables: Mapping[str, Mapping[str, Any]]) -> dict[str, Eval]:
    """Every [evals.<name>] of a config, in its order."""
    return {name: load(name, keys) for name, keys in tables.items()}
