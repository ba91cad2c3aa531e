"""Workers as Ray actors on this machine, one engine each. The driver only watches; it writes no data."""

import asyncio
import atexit
import contextlib
import logging
import os
import secrets
import shutil
import tempfile
from functools import cache
from pathlib import Path
from typing import Any

import msgspec

from placid.records import Conversation
from placid.rollout import make_worker, writer_names
from placid.rollout.attempts import Status
from placid.rollout.settings import RolloutSettings
from placid.rollout.worker import Totals
from placid.store import RunDir

log = logging.getLogger(__name__)


class Actor:
    """One worker in its own process."""

    def __init__(self, settings: dict[str, Any], run_dir: str, writer: str, core: int | None) -> None:
        logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
        self._settings = RolloutSettings.model_validate(settings)
        self._run_dir, self._writer, self._core = RunDir(Path(run_dir)), writer, core
        self._worker: Any = None

    async def pid(self) -> int:
        """Of this actor's process; the engine's are its children."""
        return os.getpid()

    async def progress(self) -> tuple[Totals, str, str]:
        """Totals so far, engine name, engine version ("" while it starts)."""
        if self._worker is None:
            return Totals(), "", ""
        return self._worker.totals, self._worker.engine.name, self._worker.engine.version

    async def run(self, conversations: bytes) -> Totals:
        """Hold these conversations (JSON) to their ends; the engine is closed afterwards."""
        todo = msgspec.json.decode(conversations, type=list[Conversation])
        self._worker = make_worker(self._settings, self._run_dir, self._writer, self._core)
        return await self._worker.run(todo)


def hold(
    settings: RolloutSettings, run_dir: RunDir, attempt: Path, todo: list[Conversation], status: Status
) -> list[Totals]:
    """Start Ray, spread the conversations over the workers, watch until all are done, stop Ray.

    Raises what a worker raised (bad input, a refused adapter, a dead actor) after the others have finished.
    """
    count = min(settings.workers, len(todo))
    scratch = Path(tempfile.mkdtemp(prefix="placid-ray-"))  # node-local, ours alone (0700), short: it holds sockets
    status.scratch(scratch)
    _lock_down()
    import ray

    try:
        ray.init(
            num_cpus=count,
            include_dashboard=False,
            log_to_driver=True,
            logging_level=logging.WARNING,
            _temp_dir=str(scratch),
        )
        return asyncio.run(_watch(settings, run_dir, attempt, split(settings, todo, count), status))
    finally:
        ray.shutdown()
        shutil.rmtree(scratch, ignore_errors=True)  # Ray's last processes may still be writing their logs


def split(settings: RolloutSettings, todo: list[Conversation], count: int) -> list[list[Conversation]]:
    """Round robin, longest remaining first, so that all workers end at about the same time."""
    ordered = sorted(todo, key=lambda c: len(c.turns) - settings.arms[c.key.arm].turns)
    return [ordered[k::count] for k in range(count)]


def cores_for(count: int) -> list[int | None]:
    """One core per engine where there are enough; a single engine is left to the operating system."""
    cores = sorted(os.sched_getaffinity(0))
    return [None] * count if count == 1 or count > len(cores) else list(cores[:count])


@cache
def _lock_down() -> None:
    """Token authentication: without it every user of this machine could run code through Ray's open ports.

    Before `import ray`, which reads the mode once; one token for the life of this process, because Ray keeps it.
    """
    folder = Path(tempfile.mkdtemp(prefix="placid-token-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    token = folder / "token"
    token.touch(mode=0o600)
    token.write_text(secrets.token_hex(32))
    os.environ.update(RAY_AUTH_MODE="token", RAY_AUTH_TOKEN_PATH=str(token), RAY_USAGE_STATS_ENABLED="0")


async def _watch(
    settings: RolloutSettings, run_dir: RunDir, attempt: Path, parts: list[list[Conversation]], status: Status
) -> list[Totals]:
    """Start the actors and poll them."""
    import ray
    import ray.exceptions

    # several methods at a time: progress() must answer while run() is under way
    decorate: Any = ray.remote  # its overloads know no keyword form
    make = decorate(num_cpus=1, max_concurrency=8, max_restarts=0)(Actor)
    dump = settings.model_dump(mode="json")
    writers, cores = writer_names(run_dir, attempt, len(parts)), cores_for(len(parts))
    actors = [make.remote(dump, str(run_dir.path.absolute()), w, c) for w, c in zip(writers, cores, strict=True)]
    pids = list(await asyncio.gather(*(_value(actor.pid.remote()) for actor in actors)))
    latest: list[tuple[Totals, str, str]] = [(Totals(), "", "")] * len(actors)
    status.update([t for t, _, _ in latest], "", "", pids)  # pids are on disk before the first turn can be
    runs = [
        asyncio.ensure_future(_value(actor.run.remote(msgspec.json.encode(part))))
        for actor, part in zip(actors, parts, strict=True)
    ]
    while True:
        await asyncio.wait(runs, timeout=status.INTERVAL_S)
        for k, actor in enumerate(actors):
            if not runs[k].done():
                # a busy actor (importing, loading) does not answer in time: its last numbers stand
                with contextlib.suppress(TimeoutError):
                    latest[k] = await asyncio.wait_for(_value(actor.progress.remote()), timeout=status.INTERVAL_S)
        status.update([t for t, _, _ in latest], latest[0][1], latest[0][2], pids)
        if all(run.done() for run in runs):
            break
    results = await asyncio.gather(*runs, return_exceptions=True)
    for result in results:
        if isinstance(result, ray.exceptions.RayTaskError) and isinstance(result.cause, Exception):
            raise result.cause from None
        if isinstance(result, BaseException):
            raise result
    return [result for result in results if isinstance(result, Totals)]


async def _value(reference: Any) -> Any:  # noqa: ANN401 - an ObjectRef's value
    """Await one object reference."""
    return await reference
