"""Who holds which conversation: leases in small batches, dead workers replaced, the tail shared out. Knows no Ray.

Each slot serves one worker at a time: it hands over what the worker asks for and hears what became of it. A worker that
dies or hangs is replaced, and its conversations go on from what its segment holds: only turns in flight are lost. A
worker that has nothing left while others do gets their waiting conversations, or active ones after their current turn.
"""

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

import msgspec

from placid.engine import EngineDiedError
from placid.records import Conversation, Key, Turn
from placid.rollout.worker import Report, Totals
from placid.store import read_lines

log = logging.getLogger(__name__)

LOSSES = 3
"""A slot whose workers die so often without one turn between gives up."""
TRIES = 3
"""A conversation that an engine failed so often is left to the next launch."""
CALL_S = 10.0
"""An idle worker is called so often: one that hears nothing takes itself for cut off, and what can move changes."""


class WorkerLostError(Exception):
    """The worker's process is gone or does not answer."""


class Handle(Protocol):
    """One worker, wherever it runs."""

    segment: Path

    async def start(self) -> tuple[str, str]:
        """Load; the engine's name and version."""
        ...

    async def work(self, batch: list[Conversation], more: bool, give_back: int, drain: bool) -> Report:
        """See Worker.work. Raises WorkerLostError too."""
        ...

    async def close(self) -> None:
        """End it in order."""
        ...

    async def kill(self) -> None:
        """End it in any case: when this returns, it writes no more."""
        ...


class Slot:
    """What is known of one worker."""

    def __init__(self) -> None:
        self.leased: dict[Key, Conversation] = {}
        self.totals = Totals()
        self.before: list[Totals] = []
        """Of the workers that this one replaces."""
        self.speed = 0.0
        """Turns per second, of the last few seconds."""
        self.starting: asyncio.Future[tuple[str, str]] | None = None
        """The start of its worker, for as long as that takes."""
        self.asked = 0
        """Conversations that it is to give back."""
        self.moved = time.monotonic()
        """When its turn counter last moved."""


class Coordinator:
    """Leases `todo` to `count` workers until everything is held."""

    def __init__(self, todo: list[Conversation], turns: Callable[[Key], int], count: int, hang_s: float) -> None:
        """turns: assistant turns that a conversation will have. hang_s: active conversations without a turn for so long
        mean that the engine hangs."""
        ordered = sorted(todo, key=lambda c: (not c.turns, len(c.turns) - turns(c.key)))
        self._queue = ordered[::-1]  # taken from the end
        self.slots = [Slot() for _ in range(count)]
        self.engine = ("", "")
        self.draining = False
        self.deaths = 0
        """Workers lost so far."""
        self.given_up = 0
        """Conversations that are left to the next launch."""
        self._hang_s = hang_s
        self._failures: dict[Key, int] = {}
        self._changed = asyncio.Event()  # a new one for every change, see _tell()

    @property
    def totals(self) -> list[Totals]:
        """Of all workers, dead ones too."""
        return [t for slot in self.slots for t in (*slot.before, slot.totals)]

    @property
    def open(self) -> int:
        """Conversations that are neither over nor given up."""
        return len(self._queue) + sum(len(slot.leased) for slot in self.slots)

    def drain(self) -> None:
        """Lease nothing more and take everything back; engines that are still loading are not waited for."""
        self.draining = True
        for slot in self.slots:
            if slot.starting is not None:
                slot.starting.cancel()
        self._tell()

    async def run(self, launch: Callable[[int], Handle]) -> None:
        """Serve all slots. launch: slot number → a new worker with a segment of its own.

        Raises what no other worker could do better: bad input, a refused adapter, a full disk, an engine that dies
        again and again.
        """
        try:
            async with asyncio.TaskGroup() as group:
                for k, slot in enumerate(self.slots):
                    group.create_task(self._serve(slot, lambda k=k: launch(k)))
        except* Exception as errors:  # noqa: BLE001 - only unpacked; the first one is raised
            first: BaseException = errors
            while isinstance(first, BaseExceptionGroup):
                first = first.exceptions[0]
            raise first from None

    async def _serve(self, slot: Slot, launch: Callable[[], Handle]) -> None:
        """One worker after the other until nothing is left."""
        losses = 0
        while self.open and not self.draining:
            worker = launch()
            try:
                slot.starting = asyncio.ensure_future(worker.start())
                self.engine = await slot.starting
                slot.starting, slot.moved = None, time.monotonic()
                await self._feed(slot, worker)
                await worker.close()
                return
            except (WorkerLostError, EngineDiedError) as error:
                losses = 0 if slot.totals.turns else losses + 1
                log.warning("a worker was lost and is replaced: %s", error)
                await worker.kill()
                self._recover(slot, worker.segment)
                if losses >= LOSSES:
                    raise
            except BaseException:
                await worker.kill()
                raise
            finally:
                slot.starting = None

    async def _feed(self, slot: Slot, worker: Handle) -> None:
        """Lease, hear, until nothing is open anywhere."""
        wants = 1
        while True:
            batch = self._take(slot, wants)
            ask, slot.asked = slot.asked, 0
            report = await worker.work(batch, self._share(slot) > 0, ask, self.draining)
            self._hear(slot, report)
            wants = 0 if report.returned else report.wants  # what it gave back is for others first
            if not report.idle:
                continue
            if not self.open or self.draining:
                return
            if not self._queue:
                self._ask_others(slot)
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._changed.wait(), CALL_S)

    def _tell(self) -> None:
        """Wake whoever waits for a change. A waiter holds the event of its moment, so no wake-up can pass it by."""
        self._changed.set()
        self._changed = asyncio.Event()

    def _share(self, slot: Slot) -> int:
        """Conversations that this slot may take now: the first engine to be up must not take all."""
        if self.draining:
            return 0
        return min(len(self._queue), -(-self.open // len(self.slots)) - len(slot.leased))

    def _take(self, slot: Slot, wants: int) -> list[Conversation]:
        """Up to `wants` conversations, now leased to this slot."""
        batch = [self._queue.pop() for _ in range(min(wants, self._share(slot)))]
        slot.leased |= {conversation.key: conversation for conversation in batch}
        return batch

    def _hear(self, slot: Slot, report: Report) -> None:
        """Book what became of the leases."""
        now, spoken = time.monotonic(), report.totals.turns - slot.totals.turns
        if spoken or not report.totals.active:
            slot.speed = 0.7 * slot.speed + 0.3 * spoken / max(now - slot.moved, 1e-3)
            slot.moved = now
        elif now - slot.moved > self._hang_s:
            raise WorkerLostError(
                f"the engine hangs: {report.totals.active} active conversations, no turn for {now - slot.moved:.0f} s"
            )
        slot.totals = report.totals
        for key in report.ended:
            del slot.leased[key]
        for conversation in report.failed:
            key = conversation.key
            del slot.leased[key]
            self._failures[key] = self._failures.get(key, 0) + 1
            if self._failures[key] < TRIES:
                self._queue.insert(0, conversation)  # last, so that the trouble may pass
            else:
                self.given_up += 1
        for conversation in report.returned:
            del slot.leased[conversation.key]
            self._queue.append(conversation)
        if report.ended or report.returned or report.failed:
            self._tell()

    def _ask_others(self, idle: Slot) -> None:
        """Let the slot with most left give a share, by speed, to this idle one."""
        victim = max(self.slots, key=lambda slot: len(slot.leased) / max(slot.speed, 1e-3))
        if victim is idle or victim.asked or len(victim.leased) < 2:
            return
        own = idle.speed or victim.speed
        share = own / max(own + victim.speed, 1e-9)
        victim.asked = int(len(victim.leased) * share)

    def _recover(self, slot: Slot, segment: Path) -> None:
        """Put the leases of a dead worker back, with the turns that its segment holds."""
        self.deaths += 1
        spoken: dict[Key, list[Turn]] = {}
        for turn in read_lines(segment, Turn) if segment.is_file() else ():
            spoken.setdefault(turn.key, []).append(turn)
        ended = 0
        for key, conversation in slot.leased.items():
            known = len(conversation.turns)
            new = [turn for turn in spoken.get(key, ()) if turn.turn > known]
            going_on = Conversation(key=key, prompt=conversation.prompt, turns=(*conversation.turns, *new))
            if going_on.end is None:
                self._queue.append(going_on)
            else:
                ended += 1
        slot.leased.clear()
        slot.before.append(msgspec.structs.replace(slot.totals, active=0, waiting=0, ended=slot.totals.ended + ended))
        slot.totals, slot.moved, slot.asked = Totals(), time.monotonic(), 0
        self._tell()
