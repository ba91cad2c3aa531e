"""Graders as Ray actors, on this machine or spread over a cluster, each with its share of the conversations.

A judge behind an API has one desk for all of them, an actor beside the driver: so quota, budget, cache and ledger are
one, and equal requests of two graders are paid once. Local weights are served by every grader. Graders read segments
and write their own; the driver watches, and looks whether the rollouts are over. A grader that dies (a node that is
lost, a memory monitor) is replaced; the new one goes on where its segment ends.
"""

import asyncio
import contextlib
import logging
import os
from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import msgspec

from placid.cluster.own_ray import seat
from placid.judge import asking, desk_of, opened
from placid.judge.grading import LOOK_EVERY_S, Judge, Progress, Work, grade
from placid.judge.provider import Answer, Ask, JudgeStopError
from placid.judge.settings import JudgeSettings
from placid.records import BadInputError, FailedError, Prompt
from placid.store import Index, RunDir, write_json

log = logging.getLogger(__name__)
PASSED_ON = ("GEMINI_API_KEY", "GOOGLE_API_KEY", "GOOGLE_GEMINI_BASE_URL")
"""Environment that the desk's process gets from the driver's, in memory: a node's Ray has another."""
ASKS = 256
"""Most requests of one grader that lie with the desk; how many are open is the limiter's business."""
NICE = 10
"""Beside a rollout, a grader takes the cores that the engines leave."""

LOSSES = 3
"""Graders of one share that may die; the next one's death ends the judge."""


class ActorLostError(FailedError):
    """A process of the pool died."""


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


class Share:
    """A part of the conversations in the driver's eyes: one grader after the other until it is graded."""

    def __init__(self, make: Callable[[], Any]) -> None:
        """make: a new grader of this share."""
        self._make, self._grader = make, make()
        self._before, self._counts = Counter[str](), Counter[str]()

    async def run(self, desk: Any, over: asyncio.Event) -> None:  # noqa: ANN401 - an actor handle or None
        """Until all is graded. Raises ActorLostError: LOSSES graders died, and then another."""
        for left in reversed(range(LOSSES + 1)):
            try:
                if over.is_set():
                    await _value(self._grader.finish.remote())
                await _value(self._grader.run.remote(desk))
                return
            except ActorLostError as error:
                if not left:
                    raise
                log.warning("judge: %s; a new grader goes on with its share", error)
            self._before, self._grader = self._before + self._counts, self._make()
            self._counts = Counter[str]()

    async def finish(self) -> None:
        """Nothing more will be spoken; run() says so to a grader that comes later."""
        with contextlib.suppress(ActorLostError):
            await _value(self._grader.finish.remote())

    async def counts(self) -> Counter[str]:
        """Graded so far, by unscored reason; the last that a dead grader said counts."""
        with contextlib.suppress(ActorLostError):
            self._counts = await _value(self._grader.counts.remote())
        return self._before + self._counts


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
    desk, shares = _actors(settings, run_dir, list(prompts.values()), complete is not None)
    index, over = Index([]), asyncio.Event()
    with progress.until_the_end():
        try:
            if desk is not None:
                await _value(desk.open.remote())
            runs = [asyncio.ensure_future(share.run(desk, over)) for share in shares]
            while not all(run.done() for run in runs):
                index.refresh(run_dir.segments())
                if not over.is_set() and (complete is None or complete(index)):
                    over.set()
                    await asyncio.gather(*(share.finish() for share in shares))
                await asyncio.wait(runs, timeout=LOOK_EVERY_S, return_when=asyncio.FIRST_EXCEPTION)
                for run in runs:
                    if run.done():
                        run.result()
                counts = await asyncio.gather(*(share.counts() for share in shares))
                progress.say(
                    sum(counts, Counter[str]()), await _value(desk.numbers.remote()) if desk is not None else None
                )
        finally:
            if desk is not None:
                await _value(desk.close.remote())
    return name


def _actors(
    settings: JudgeSettings, run_dir: RunDir, prompts: list[Prompt], following: bool
) -> tuple[Any, list[Share]]:
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
    count = settings.workers
    return desk, [Share(partial(make.remote, dump, folder, packed, (part, count), nice)) for part in range(count)]


async def _card(settings: JudgeSettings, run_dir: RunDir) -> dict[str, object]:
    """What judge.json says; nothing is asked."""
    if settings.kind in ("gemini", "local"):
        desk = desk_of(settings, run_dir)
        return asking(settings, desk.provider, desk).card()
    async with opened(settings, run_dir) as (judge, _):
        return judge.card()


async def _value(reference: Any) -> Any:  # noqa: ANN401 - an ObjectRef's value
    """Await one reference. Raises what the actor raised, without Ray's wrapping; ActorLostError: it is dead."""
    import ray.exceptions

    try:
        return await reference
    except ray.exceptions.RayTaskError as error:
        raise (error.cause if isinstance(error.cause, Exception) else error) from None
    except (
        ray.exceptions.RayActorError,
        ray.exceptions.OutOfMemoryError,  # by the memory monitor of a Ray that was joined
        ray.exceptions.WorkerCrashedError,
    ) as error:
        words = " ".join(str(error).split())[:200]
        raise ActorLostError(f"a process of the judge died ({type(error).__name__}: {words})") from None
