"""Graders as Ray actors, on this machine or spread over a cluster (RAY_ADDRESS), each with its share of conversations.

A judge behind an API has one desk for all of them, an actor of its own: so its quota, budget, cache and ledger are one,
and equal requests of two graders are paid once. A local judge is served once by every grader. Graders read segments and
write their own; the driver watches, and looks whether the rollouts are over.
"""

import asyncio
import atexit
import logging
import os
import secrets
import shutil
import tempfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec

from placid.judge import asking, desk_of, opened
from placid.judge.grading import LOOK_EVERY_S, Progress, Work, grade
from placid.judge.provider import Answer, Ask, JudgeStopError
from placid.judge.settings import JudgeSettings
from placid.records import BadInputError, Prompt
from placid.store import Index, RunDir, write_json

log = logging.getLogger(__name__)
PASSED_ON = ("GEMINI_API_KEY", "GOOGLE_API_KEY", "GOOGLE_GEMINI_BASE_URL")
"""Environment that the desk's process gets from the driver's, in memory: a cluster's nodes have their own."""


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
        self._actor = actor

    async def ask(self, request: Ask, attempt: int) -> tuple[str, Answer]:
        """As Desk.ask."""
        return await _value(self._actor.ask.remote(request, attempt))


class Grader:
    """One process that grades its share."""

    def __init__(self, settings: dict[str, Any], run_dir: str, prompts: bytes, part: int, desk: Any) -> None:  # noqa: ANN401 - an actor handle or None
        self._settings = JudgeSettings.model_validate(settings)
        self._run_dir, self._part, self._desk = RunDir(Path(run_dir)), part, desk
        self._prompts = {prompt.id: prompt for prompt in msgspec.json.decode(prompts, type=list[Prompt])}
        self._over, self._counts = False, Counter[str]()

    async def run(self) -> Counter[str]:
        """Grade until finish() was called and nothing is left; how many by unscored reason."""
        settings = self._settings
        if self._desk is not None:
            desk = desk_of(settings, self._run_dir)
            await self._grade(asking(settings, desk.provider, RemoteDesk(self._desk)))
        else:
            async with opened(settings, self._run_dir) as (judge, _):
                await self._grade(judge)
        return self._counts

    async def _grade(self, judge: Any) -> None:  # noqa: ANN401 - a Judge
        work = Work(self._run_dir, judge.id, self._prompts, self._part, self._settings.workers)
        await grade(judge, work, self._tell, lambda _: self._over)

    def _tell(self, counts: Counter[str]) -> None:
        self._counts = counts

    async def counts(self) -> Counter[str]:
        """So far."""
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
    """As placid.judge.run, with settings.workers graders."""
    scratch = Path(tempfile.mkdtemp(prefix="placid-ray-"))  # node-local, ours alone (0700), short: it holds sockets
    address = os.environ.get("RAY_ADDRESS")
    if not address:
        _lock_down()
    import ray

    try:
        if address:
            ray.init(address=address, logging_level=logging.WARNING)
        else:
            ray.init(
                num_cpus=settings.workers + 1,
                include_dashboard=False,
                logging_level=logging.WARNING,
                _temp_dir=str(scratch),
            )
        return asyncio.run(_watch(settings, run_dir, prompts, attempt, complete))
    finally:
        ray.shutdown()
        shutil.rmtree(scratch, ignore_errors=True)  # Ray's last processes may still be writing their logs


def _lock_down() -> None:
    """Token authentication: without it every user of this machine could run code through Ray's open ports.

    Before `import ray`, which reads it once; a token that this process already has stays, because Ray keeps it.
    """
    os.environ.update(RAY_AUTH_MODE="token", RAY_USAGE_STATS_ENABLED="0")
    if os.environ.get("RAY_AUTH_TOKEN_PATH"):
        return
    folder = Path(tempfile.mkdtemp(prefix="placid-token-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    token = folder / "token"
    token.touch(mode=0o600)
    token.write_text(secrets.token_hex(32))
    os.environ["RAY_AUTH_TOKEN_PATH"] = str(token)


async def _watch(
    settings: JudgeSettings,
    run_dir: RunDir,
    prompts: dict[str, Prompt],
    attempt: Path | None,
    complete: Callable[[Index], bool] | None,
) -> str:
    """Start the actors, poll them, tell them when the rollouts are over."""
    import ray

    decorate: Any = ray.remote  # its overloads know no keyword form
    dump, folder = settings.model_dump(mode="json"), str(run_dir.path.absolute())
    desk: Any = None
    card = await _card(settings, run_dir)
    name = str(card["id"])
    write_json(run_dir.path / "verdicts" / name / "judge.json", card)
    progress = Progress(name, attempt, Work(run_dir, name, prompts).graded)
    if settings.kind == "gemini":
        environment = {key: os.environ[key] for key in PASSED_ON if key in os.environ}
        desk = decorate(num_cpus=0, max_concurrency=4096)(DeskActor).remote(dump, folder, environment)
        await _value(desk.open.remote())
    make = decorate(num_cpus=1, max_concurrency=8, scheduling_strategy="SPREAD")(Grader)
    packed = msgspec.json.encode(list(prompts.values()))
    graders = [make.remote(dump, folder, packed, part, desk) for part in range(settings.workers)]
    runs = [asyncio.ensure_future(_value(grader.run.remote())) for grader in graders]
    index, over = Index([]), False
    with progress.until_the_end():
        try:
            while not all(run.done() for run in runs):
                index.refresh(run_dir.segments())
                if not over and (complete is None or complete(index)):
                    over = True
                    await asyncio.gather(*(_value(grader.finish.remote()) for grader in graders))
                await asyncio.wait(runs, timeout=LOOK_EVERY_S, return_when=asyncio.FIRST_EXCEPTION)
                await _tell(progress, graders, desk)
                for run in runs:
                    if run.done() and run.exception() is not None:
                        raise _cause(run.exception())
        finally:
            if desk is not None:
                await _value(desk.close.remote())
    return name


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


def _cause(error: BaseException | None) -> BaseException:
    """What the actor raised, without Ray's wrapping."""
    cause = getattr(error, "cause", None)
    return cause if isinstance(cause, Exception) else error or RuntimeError("a grader ended without a word")


async def _value(reference: Any) -> Any:  # noqa: ANN401 - an ObjectRef's value
    """Await one object reference."""
    return await reference
