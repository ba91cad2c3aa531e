"""Protocol × engine → conversations: who holds which conversation, resume, and what is known while it runs."""

import asyncio
import logging
import signal
import threading
from pathlib import Path

from placid.cluster.children import recorded
from placid.protocol.conditions import UserTurn
from placid.records import BadInputError, Conversation, End, FailedError, Finish, Turn, seed_of
from placid.rollout.attempts import Status, wait_for_former
from placid.rollout.branch import copy_histories
from placid.rollout.coordinator import Coordinator
from placid.rollout.planned import all_prompts, make_worker, scripts, unfinished, writer_names
from placid.rollout.ray_workers import hold
from placid.rollout.settings import RolloutSettings, by_model
from placid.store import RunDir

log = logging.getLogger(__name__)


class RolloutError(FailedError):
    """The engine failed under some conversations; the same command continues them."""


def run(settings: RolloutSettings, run_dir: RunDir, attempt: Path, copy: bool = True) -> None:
    """Hold every conversation of `settings` that is not finished in `run_dir`; blocks until all are done.

    Turns go to conversations/<attempt>-w<k>.jsonl as they finish; progress to <attempt>/status.json.

    copy: arms that branch get the histories that they lack; False: whoever calls has written all of them.

    Raises:
        BadInputError: wrong settings or files, or another live run in this directory.
        RolloutError: an engine failed; what was finished is on disk and the same call continues.
    """
    wait_for_former(run_dir.path)
    with recorded(attempt):
        for wave in waves(settings):
            if copy:
                copy_histories(wave, all_prompts(wave), run_dir, attempt)
            for part in by_model(wave):
                _hold(part, run_dir, attempt)


def waves(settings: RolloutSettings) -> list[RolloutSettings]:
    """The settings cut by arms: first those that begin with prompts, then those that continue them, and so on.

    Raises:
        BadInputError: arms branch from each other in a circle.
    """
    left, found = dict(settings.arms), list[RolloutSettings]()
    while left:
        ready = {name: arm for name, arm in left.items() if not arm.branch or arm.branch.arm not in left}
        if not ready:
            raise BadInputError(f"arms {', '.join(left)} branch from each other; one must begin with its prompts")
        found.append(settings.model_copy(update={"arms": ready}))
        left = {name: arm for name, arm in left.items() if name not in ready}
    return found


def _hold(settings: RolloutSettings, run_dir: RunDir, attempt: Path) -> None:
    """Every unfinished conversation of these arms, on one start of the engines."""
    todo, before = _found(settings, run_dir)
    if not todo:
        log.info("rollout: every conversation of %s is already finished", ", ".join(settings.arms))
        return
    count = min(settings.workers, len(todo)) if settings.launcher == "ray" else 1
    coordinator = Coordinator(todo, lambda key: settings.arms[key.arm].turns, count, settings.hang_s)
    endpoint = settings.engine.http.url if settings.engine.kind == "http" else ""
    with Status(run_dir.path, attempt, len(todo), before, endpoint) as status:
        asyncio.run(_coordinate(settings, run_dir, attempt, coordinator, status))
        _close(coordinator.lethal, settings, run_dir, attempt)
        status.finish(coordinator)
    if coordinator.draining and coordinator.open:
        raise KeyboardInterrupt  # the command line leaves with 75: requeue me
    if coordinator.given_up:
        first = next((t.first_failure for t in coordinator.totals if t.first_failure), "")
        raise RolloutError(
            f"{coordinator.given_up} of {len(todo)} conversations stopped on an engine failure (first: {first}); "
            "everything finished is on disk, run the same command again to continue"
        )


def _found(settings: RolloutSettings, run_dir: RunDir) -> tuple[list[Conversation], dict[str, int]]:
    """What is to be held, and how many conversations of all arms are over and turns said."""
    index = run_dir.index()
    before = {"conversations": len(index.ends), "turns": sum(len(index.numbers(key)) for key in index)}
    return unfinished(settings, index), before


def _close(lethal: list[Conversation], settings: RolloutSettings, run_dir: RunDir, attempt: Path) -> None:
    """End what no engine survives, with the turn that it dies of: kept as data, and never tried again."""
    if not lethal:
        return
    said, turns = scripts(settings), list[Turn]()
    for conversation in lethal:
        key, number = conversation.key, len(conversation.turns) + 1
        asked = said[key.arm].next(conversation)
        log.warning("%s: every engine died of turn %d; it ends there, as infra_error", key, number)
        turns.append(
            Turn(
                key=key, turn=number, reply="", reply_ids=(), finish=Finish.FAILED, end=End.INFRA_ERROR,
                # a simulated user's words are not known: the engine that says them may be what died
                user=asked.text if isinstance(asked, UserTurn) else "",
                system=asked.system if isinstance(asked, UserTurn) else "",
                prompt_tokens=0, cached_tokens=0, seed=seed_of(settings.seed, key, "sample", number),
            )
        )  # fmt: skip
    with run_dir.segment(next(writer_names(run_dir, attempt))) as segment:
        segment.append(*turns)


async def _coordinate(
    settings: RolloutSettings, run_dir: RunDir, attempt: Path, coordinator: Coordinator, status: Status
) -> None:
    """Hold, show, and on SIGTERM or SIGUSR1 drain: no new conversations, turns in flight end, all on disk."""
    coordinator.started = lambda: status.update(coordinator)  # a run never holds turns of an engine without a name
    if settings.launcher == "ray":
        work = hold(settings, run_dir, attempt, coordinator, status)
    else:
        names = writer_names(run_dir, attempt)
        work = coordinator.run(lambda _: Local(settings, run_dir, next(names)))
    held, loop = asyncio.create_task(work), asyncio.get_running_loop()
    main = threading.current_thread() is threading.main_thread()  # elsewhere signals cannot be caught
    for name in (signal.SIGTERM, signal.SIGUSR1) if main else ():
        loop.add_signal_handler(name, _drain, coordinator, held, settings.grace_s)
    while not held.done():
        status.update(coordinator)
        await asyncio.wait({held}, timeout=status.INTERVAL_S)
    status.update(coordinator)
    if coordinator.draining:
        fault = None if held.cancelled() else held.exception()
        if fault is None or not isinstance(fault, BadInputError | OSError):
            log.warning("rollout: drained%s", f"; the signal reached the engine too: {fault!r}" if fault else "")
            return
    held.result()


def _drain(coordinator: Coordinator, held: "asyncio.Task[None]", grace_s: float) -> None:
    """Give back everything; after the grace time turns in flight are dropped, as if they had not begun."""
    log.warning("rollout: draining; %d conversations are open, the same command goes on with them", coordinator.open)
    coordinator.drain()
    asyncio.get_running_loop().call_later(grace_s, held.cancel)


class Local:
    """A worker inside this process, as the coordinator sees it."""

    def __init__(self, settings: RolloutSettings, run_dir: RunDir, writer: str) -> None:
        self._worker = make_worker(settings, run_dir, writer)
        self.segment = run_dir.path / "conversations" / f"{writer}.jsonl"
        self.work = self._worker.work

    async def start(self) -> tuple[str, str]:
        """Raises what the engine raises."""
        await self._worker.start()
        return self._worker.engine.name, self._worker.engine.version

    async def close(self) -> None:
        """End it in order."""
        await self._worker.close()

    async def kill(self) -> None:
        """Inside one process there is no other way."""
        await self._worker.close()
