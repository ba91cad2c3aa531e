"""Graders as Ray actors, on this machine or spread over a cluster, each with its share of the conversations.

A judge behind an API has one desk for all of them, an actor beside the driver: so quota, budget, cache and ledger are
one, and equal requests of two graders are paid once. Local weights are served by every grader. Graders read segments
and write their own; the driver watches, and looks whether the rollouts are over.
"""

import asyncio
import os
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec

from placid.cluster.own_ray import seat
from placid.judge import asking, desk_of, opened
from placid.judge.grading import LOOK_EVERY_S, Judge, Progress, Work, grade
from placid.judge.provider import Answer, Ask, JudgeStopError
from placid.judge.settings import JudgeSettings
from placid.records import BadInputError, Prompt
from placid.store import Index, RunDir, write_json

PASSED_ON = ("GEMINI_API_KEY", "GOOGLE_API_KEY", "GOOGLE_GEMINI_BASE_URL")
"""Environment that the desk's process gets from the driver's, in memory: a node's Ray has another."""
ASKS = 256
"""Most requests of one grader that lie with the desk; how many are open is the limiter's business."""
NICE = 10
"""Beside a rollout, a grader takes the cores that the engines leave."""


class DeskActor:
    """The one desk of all graders."""

    def __init__(self, settings: dict[str, Any], run_dir: str, environment: dict[str, str]) -> None:
        os.environ.update(environment)
        self._desk = desk_of(JudgeSettings.model_validate(settings), RunDir(Path(run_dir)))

    async def open(self) -> None:
        """Take a ledger file."""
        await self._desk.__aenter__()

    async def ask(self, request: Ask, attempt: int) -> tuple[str, Answer]:
        """As Desk.ask; what stops the run in a form that travels."""
        try:
            return await self._desk.ask(request, attempt)
        except BadInputError as error:
            raise JudgeStopError(str(error)) from None

    async def numbers(self) -> dict[str, Any]:
        """As Desk.numbers."""
        return self._desk.numbers()

    async def close(self) -> None:
        """Wait for what is under way."""
        await self._desk.__aexit__()


class RemoteDesk:
    """Asks the desk actor."""

    def __init__(self, actor: Any) -> None:  # noqa: ANN401 - an actor handle
        self._actor, self._room = actor, asyncio.Semaphore(ASKS)

    async def ask(self, request: Ask, attempt: int) -> tuple[str, Answer]:
        """As Desk.ask."""
        async with self._room:
            return await _value(self._actor.ask.remote(request, attempt))


class Grader:
    """One process that grades its share."""

    def __init__(
        self, settings: dict[str, Any], run_dir: str, prompts: bytes, share: tuple[int, int], nice: int
    ) -> None:
        os.nice(nice)
        self._settings, self._run_dir, self._share = (
            JudgeSettings.model_validate(settings),
            RunDir(Path(run_dir)),
            share,
        )
        self._prompts = {prompt.id: prompt for prompt in msgspec.json.decode(prompts, type=list[Prompt])}
        self._over, self._counts = False, Counter[str]()

    async def run(self, desk: Any) -> None:  # noqa: ANN401 - an actor handle or None
        """Grade until finish() was called and nothing is left. desk: where requests go; None: this process's own."""
        if desk is not None:
            provider = desk_of(self._settings, self._run_dir).provider
            await self._grade(asking(self._settings, provider, RemoteDesk(desk)))
            return
        async with opened(self._settings, self._run_dir) as (judge, _):
            await self._grade(judge)

    async def _grade(self, judge: Judge) -> None:
        work = Work(self._run_dir, judge.id, self._prompts, self._share)
        await grade(judge, work, self._tell, lambda _: self._over)

    def _tell(self, counts: Counter[str]) -> None:
        self._counts = counts.copy()

    async def counts(self) -> Counter[str]:
        """Graded so far, by unscored reason."""
        return self._counts

    async def finish(self) -> None:
        """Nothing more will be spoken."""
        self._over = True


def run_pool(
    settings: JudgeSettings,
    run_dir: RunDir,
    prompts: dict[str, Prompt],
    attempt: Path | None,
    complete: Callable[[Index], bool] | None,
) -> str:
    """As placid.judge.run, with settings.workers graders.

    Raises:
        BadInputError: also where the cluster has too few GPUs.
    """
    with seat(settings.ray_address):
        return asyncio.run(_watch(settings, run_dir, prompts, attempt, complete))


async def _watch(
    settings: JudgeSettings,
    run_dir: RunDir,
    prompts: dict[str, Prompt],
    attempt: Path | None,
    complete: Callable[[Index], bool] | None,
) -> str:
    """Start the actors, listen to them, tell them when the rollouts are over."""
    card = await _card(settings, run_dir)
    name = str(card["id"])
    write_json(run_dir.path / "verdicts" / name / "judge.json", card)
    progress = Progress(name, attempt, Work(run_dir, name, prompts).graded)
    desk, graders = _actors(settings, run_dir, list(prompts.values()), complete is not None)
    index, over = Index([]), False
    with progress.until_the_end():
        try:
            if desk is not None:
                await _value(desk.open.remote())
            runs = [asyncio.ensure_future(_value(grader.run.remote(desk))) for grader in graders]
            while not all(run.done() for run in runs):
                index.refresh(run_dir.segments())
                if not over and (complete is None or complete(index)):
                    over = True
                    await asyncio.gather(*(_value(grader.finish.remote()) for grader in graders))
                await asyncio.wait(runs, timeout=LOOK_EVERY_S, return_when=asyncio.FIRST_EXCEPTION)
                for run in runs:
                    if run.done():
                        run.result()
                await _tell(progress, graders, desk)
        finally:
            if desk is not None:
                await _value(desk.close.remote())
    return name


def _actors(settings: JudgeSettings, run_dir: RunDir, prompts: list[Prompt], following: bool) -> tuple[Any, list[Any]]:
    """The desk, if the judge is behind an API, and the graders. Raises BadInputError: too few GPUs."""
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    there = int(ray.cluster_resources().get("GPU", 0))
    gpus = settings.engine.tensor_parallel if settings.kind == "local" and there else 0
    if gpus * settings.workers > there:
        raise BadInputError(
            f"judge.workers = {settings.workers} need {gpus} GPU(s) each, and the cluster has {there}; lower it"
        )
    decorate: Any = ray.remote  # its overloads know no keyword form
    dump, folder = settings.model_dump(mode="json"), str(run_dir.path.absolute())
    desk: Any = None
    if settings.kind == "gemini":
        beside = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
        make = decorate(num_cpus=0, max_concurrency=ASKS * settings.workers + 8, scheduling_strategy=beside)(DeskActor)
        desk = make.remote(dump, folder, {key: os.environ[key] for key in PASSED_ON if key in os.environ})
    # no core is reserved: beside a rollout its engines have them
    make = decorate(num_cpus=0, num_gpus=gpus, max_concurrency=8, scheduling_strategy="SPREAD")(Grader)
    packed, nice = msgspec.json.encode(prompts), NICE if following else 0
    return desk, [make.remote(dump, folder, packed, (part, settings.workers), nice) for part in range(settings.workers)]


async def _tell(progress: Progress, graders: list[Any], desk: Any) -> None:  # noqa: ANN401 - actor handles
    """Add up what all of them say."""
    counts = await asyncio.gather(*(_value(grader.counts.remote()) for grader in graders))
    numbers = await _value(desk.numbers.remote()) if desk is not None else None
    progress.say(sum(counts, Counter[str]()), numbers)


async def _card(settings: JudgeSettings, run_dir: RunDir) -> dict[str, object]:
    """What judge.json says; nothing is asked."""
    if settings.kind in ("gemini", "local"):
        desk = desk_of(settings, run_dir)
        return asking(settings, desk.provider, desk).card()
    async with opened(settings, run_dir) as (judge, _):
        return judge.card()


async def _value(reference: Any) -> Any:  # noqa: ANN401 - an ObjectRef's value
    """Await one reference; raises what the actor raised, without Ray's wrapping."""
    import ray.exceptions

    try:
        return await reference
    except ray.exceptions.RayTaskError as error:
        raise (error.cause if isinstance(error.cause, Exception) else error) from None
