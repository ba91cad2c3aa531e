"""Consistency training beyond frustration: rows of an eval → training pairs. The model's own answer to the plain prompt
is the target, the biased or persona-laden prompt the context, as in BCT on frustration."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from placid.config import sha
from placid.engine import Engine
from placid.evals import DONE, Answered, Eval, Row
from placid.evals.asking import ask_all
from placid.evals.running import check
from placid.inputs.rows import read_rows
from placid.records import BadInputError, Pair, PairKind
from placid.rollout.planned import make_engine
from placid.rollout.settings import RolloutSettings
from placid.store import RunDir, write_json, write_lines


def build(
    sets: Mapping[str, Eval],
    settings: RolloutSettings,
    instruct: Path | None,
    run_dir: RunDir,
    attempt: Path,
    engine: Callable[[], Engine] | None = None,
) -> None:
    """Ask the base model the rows of every set and write pairs/<name>.jsonl and pairs/<name>.dropped.json.

    sets: name of the rows → eval that makes them. settings: of the one arm that answers, the base model. instruct:
    pairs that are mixed in one to one, as in the paper's recipe. attempt: its status.json gets the key `evals`.

    Raises:
        BadInputError: an eval that cannot be trained on, or no pair left.
    """
    plans = check(sets)
    (arm,) = settings.arms
    asks = [ask for plan in plans.values() for row in plan.rows for ask in row.asks.values()]
    answers = ask_all(
        {arm: asks}, {arm: None}, engine or (lambda: make_engine(settings, run_dir=run_dir)),
        settings.model, settings.seed, settings.engine.max_concurrent, run_dir, attempt,
    )  # fmt: skip
    extra = [row.as_struct(Pair) for row in read_rows(instruct)] if instruct else []
    for name, task in sets.items():
        pairs, dropped = pairs_of(task, plans[name].rows, arm, answers)
        if not pairs:
            raise BadInputError(f"consistency.{name}: no pair is left ({dict(dropped)})")
        mixed = sorted(extra, key=lambda pair: sha([settings.seed, name, pair.prompt_id, pair.target]))[: len(pairs)]
        write_lines(run_dir.path / "pairs" / f"{name}.jsonl", [*pairs, *mixed])
        told = {"rows": len(plans[name].rows), "pairs": len(pairs), "instruct": len(mixed), "dropped": dict(dropped)}
        write_json(run_dir.path / "pairs" / f"{name}.dropped.json", told)


def pairs_of(
    task: Eval, rows: Sequence[Row], arm: str, answers: Mapping[tuple[str, str], Answered]
) -> tuple[list[Pair], Counter[str]]:
    """Pairs, and why rows gave none: pairs + dropped = rows."""
    pairs, dropped = list[Pair](), Counter[str]()
    for row in rows:
        parts = task.training(row)
        if parts is None:
            raise BadInputError(f"{type(task).__name__} has no plain counterpart to train towards (persona_icl: clean)")
        context, clean = (row.asks[part] for part in parts)
        answer = answers[arm, clean.name]
        target = answer.replies[-1].strip() if answer.replies else ""
        why = "" if answer.end == DONE else answer.end
        why = why or ("cut" if answer.cut else "") or ("" if target else "empty")
        if why:
            dropped[why] += 1
            continue
        pairs.append(
            Pair(
                kind=PairKind.BCT,
                prompt_id=row.cluster or row.id,
                source=row.id,
                messages=context.messages,
                target=target,
            )
        )
    return pairs, dropped
