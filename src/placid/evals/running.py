"""Evals × arms → results: plan the rows, ask, grade, read, write."""

import asyncio
import logging
from collections.abc import Callable, Mapping
from contextlib import AsyncExitStack
from functools import partial
from pathlib import Path

from placid.config import canonical
from placid.engine import Engine
from placid.evals import UNANSWERED, Answered, Eval, Heard, Plan, Reading, Row, plan
from placid.evals.answers import CUT
from placid.evals.asking import ask_all
from placid.evals.marking import Grader, grader
from placid.judge import JudgeSettings
from placid.records import BadInputError, EvalResult, Key, Verdict
from placid.rollout.planned import make_engine
from placid.rollout.settings import RolloutSettings, by_model
from placid.store import RunDir, write_json, write_lines

log = logging.getLogger(__name__)
OPEN = 64
"""Rows that are graded at once; how many requests are open is the limiter's business."""


def check(evals: Mapping[str, Eval]) -> dict[str, Plan]:
    """The rows of every eval; nothing is asked and nothing written.

    Raises:
        BadInputError: missing or malformed data, named with its eval.
    """
    plans: dict[str, Plan] = {}
    for name, task in evals.items():
        try:
            plans[name] = plan(task)
        except BadInputError as error:
            raise BadInputError(f"evals.{name}: {error}") from None
    return plans


def run(
    evals: Mapping[str, Eval],
    settings: RolloutSettings,
    judge: JudgeSettings,
    run_dir: RunDir,
    attempt: Path,
    engine: Callable[[], Engine] | None = None,
) -> list[EvalResult]:
    """Ask every arm of `settings` every row that has no answer, grade and read; writes evals/{results,manifest}.

    settings: arms with their adapters, model, seed and engine; one engine serves all arms of a model. judge: who
    grades where parsing alone does not say. attempt: its status.json gets the key `evals`. engine: for tests.

    Raises:
        BadInputError: wrong data or settings, a spent budget. EvalError: the engine failed under some asks.
        PausedError: the judge is away or its day is used up.
    """
    plans = check(evals)
    asks = [ask for rows in plans.values() for row in rows.rows for ask in row.asks.values()]
    answers: dict[tuple[str, str], Answered] = {}
    for part in by_model(settings):
        arms = {name: str(arm.adapter) if arm.adapter else None for name, arm in part.arms.items()}
        answers |= ask_all(
            dict.fromkeys(arms, asks), arms, engine or partial(make_engine, part, run_dir=run_dir), part.model,
            settings.seed, settings.engine.max_concurrent, run_dir, attempt,
        )  # fmt: skip
    results, unpaid = asyncio.run(_read_all(evals, plans, list(settings.arms), answers, judge, run_dir))
    write_lines(run_dir.path / "evals" / "results.jsonl", results)
    write_json(run_dir.path / "evals" / "manifest.json", _manifest(evals, plans, results))
    if unpaid:
        raise BadInputError(
            f"judge.limits.budget_usd is spent: {unpaid} answers of the evals have no grade; what is graded is kept "
            "(evals/results.jsonl; its tables are made when all is): raise it and run the same command"
        )
    return results


async def _read_all(
    evals: Mapping[str, Eval],
    plans: Mapping[str, Plan],
    arms: list[str],
    answers: Mapping[tuple[str, str], Answered],
    judge: JudgeSettings,
    run_dir: RunDir,
) -> tuple[list[EvalResult], int]:
    """Every row of every eval in every arm, in this order; and how many replies the spent budget left ungraded."""
    rubrics = sorted({rubric for task in evals.values() for rubric in task.judged_by})
    async with AsyncExitStack() as stack:
        graders = {rubric: await stack.enter_async_context(grader(rubric, judge, run_dir)) for rubric in rubrics}
        limit = asyncio.Semaphore(OPEN)

        async def one(name: str, row: Row, arm: str) -> EvalResult:
            async with limit:
                heard = Heard({part: answers[arm, ask.name] for part, ask in row.asks.items()})
                return await _result(name, evals[name], row, arm, heard, graders)

        jobs = [one(name, row, arm) for name, rows in plans.items() for arm in arms for row in rows.rows]
        results = list(await asyncio.gather(*jobs))
        return results, sum(each.unpaid for each in graders.values())


async def _result(name: str, task: Eval, row: Row, arm: str, heard: Heard, graders: Mapping[str, Grader]) -> EvalResult:
    """One row of one arm."""
    metrics = row.metrics or tuple(task.metrics)
    judge = ""
    ends = [part.end for part in heard.parts.values() if part.end in UNANSWERED]
    if not ends and task.judged_by and any(part.was_cut for part in heard.parts.values()):
        ends = [CUT]  # no grade of half a reply
    if ends:
        reading = Reading(ends[0])
    else:
        graded = task.graded(row, heard)
        verdicts: dict[str, list[Verdict]] = {}
        for what, text in graded.items():
            verdicts[what] = await graders[text.rubric].grade(_key(arm, name, row.id, what), text)
        judge = " ".join(sorted({graders[text.rubric].id for text in graded.values()}))
        reading = task.read(row, Heard(heard.parts, verdicts))
    strange = reading.scores.keys() - set(metrics)
    if strange:
        raise BadInputError(f"evals.{name}: row {row.id} has a score {sorted(strange)}; declared: {', '.join(metrics)}")
    return EvalResult(
        eval=name,
        arm=arm,
        row=row.id,
        cluster=row.cluster or row.id,
        groups=row.groups,
        state=reading.state,
        scores={metric: _number(reading.scores.get(metric)) for metric in metrics},
        answer=reading.answer,
        truth=row.truth,
        judge=judge,
        asks={part: ask.name for part, ask in row.asks.items()},
    )


def _number(score: float | None) -> float | None:
    return None if score is None else float(score)


def _key(arm: str, name: str, row: str, what: str) -> Key:
    return Key(arm=arm, condition=f"eval:{name}", prompt_id=f"{row}/{what}" if what else row, sample=0)


def _manifest(evals: Mapping[str, Eval], plans: Mapping[str, Plan], results: list[EvalResult]) -> dict[str, object]:
    """What was asked of which data, and what the metrics mean."""
    judges: dict[str, set[str]] = {}
    for result in results:
        judges.setdefault(result.eval, set()).update(result.judge.split())
    return {
        name: {
            "settings": canonical(task),
            "data": task.data(),
            "rows_of_data": plans[name].total,
            "dropped": plans[name].dropped,
            "rows": len(plans[name].rows),
            "metrics": task.metrics,
            "headline": next(iter(task.metrics)),
            "headline_group": task.group,
            "shown": list(task.shown),
            "higher_is_better": task.higher,
            "judges": sorted(judges.get(name, ())),
        }
        for name, task in evals.items()
    }
