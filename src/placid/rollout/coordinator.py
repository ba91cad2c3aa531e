"""Who holds which conversation: leases in small batches, dead workers replaced, the tail shared out. Knows no Ray.

Each slot serves one worker at a time: it hands over what the worker asks for and hears what became of it. A worker that
dies or hangs is replaced, and its conversations go on from what its segment holds: only turns in flight are lost. When
the queue is empty, a worker that runs short gets waiting conversations of the one that would end last, so that both end
together; one with room and nothing to start also gets active ones, after their current turn, if it is faster.
"""

import asyncio
import contextlib
import logging
import math
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

import msgspec

from placid.engine import EngineDiedError
from placid.records import Conversation, Key, Turn
from placid.rollout.worker import WORTH_MOVING, Report, Totals
from placid.store import read_lines

log = logging.getLogger(__name__)

LOSSES = 3
"""A slot whose workers die so often without one turn between gives up."""
TRIES = 3
"""A conversation that an engine failed so often is left to the next launch."""
CALL_S = 10.0
"""An idle worker is called so often: one that hears nothing takes itself for cut off, and what can move changes."""
MEMORY_S = 10.0
"""A worker's speed is averaged over about so long."""
FASTER = 1.25
"""Active conversations move to a worker where each of them goes so much faster: their histories are prefilled again."""


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
        self._spoken = self._busy = self._held = 0.0
        """Turns, seconds with anything active, seconds times active conversations; old ones fade."""
        self.starting: asyncio.Future[tuple[str, str]] | None = None
        """The start of its worker, for as long as that takes."""
        self.gifts: list[Conversation] = []
        """Of `leased`: what another worker gave back for this one and it does not have yet."""
        self.room = 0
        """Conversations that it could start at once and does not have."""
        self.asked = 0
        """Conversations that it is to give back, to `thief`."""
        self.thief: Slot | None = None
        self.heard = self.moved = 0.0
        """When it reported last; when its turn counter last moved."""

    def hear(self, totals: Totals, now: float) -> None:
        """Book a report: the speed while it was busy, and when it last spoke."""
        spoken, seconds = totals.turns - self.totals.turns, max(now - self.heard, 1e-6)
        if spoken or totals.active:
            fade = math.exp(-seconds / MEMORY_S)
            self._spoken = fade * self._spoken + spoken
            self._busy = fade * self._busy + seconds
            self._held = fade * self._held + seconds * max(totals.active, 1)
        if spoken or not totals.active:
            self.moved = now
        self.totals, self.heard = totals, now

    @property
    def speed(self) -> float:
        """Turns per second, lately; 0: not known yet."""
        return self._spoken / self._busy if self._busy else 0.0

    @property
    def pace(self) -> float:
        """The same for each active conversation."""
        return self._spoken / self._held if self._held else 0.0


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
        self.moved = 0
        """Conversations that one worker gave back for another."""
        self.given_up = 0
        """Conversations that are left to the next launch."""
        self._hang_s, self._turns = hang_s, turns
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

    def limit(self, count: int) -> None:
        """Serve fewer workers than were asked for. Before run()."""
        del self.slots[count:]

    @property
    def queued(self) -> int:
        """Conversations that no worker has."""
        return len(self._queue)

    @property
    def queued_turns(self) -> int:
        """Their turns to come, if none ends early."""
        return sum(self._turns(c.key) - len(c.turns) for c in self._queue)

    def drain(self) -> None:
        """Lease nothing more and take everything back; engines that are still loading are not waited for."""
        self.draining = True
        self._stop_starting()
        self._tell()

    def _stop_starting(self) -> None:
        for slot in self.slots:
            if slot.starting is not None:
                slot.starting.cancel()

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
                slot.starting = None
                slot.heard = slot.moved = asyncio.get_running_loop().time()
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
        wants = slot.room = 1
        while True:
            batch = self._take(slot, wants)
            ask, slot.asked = slot.asked, 0
            report = await worker.work(batch, self._share(slot) > 0, ask, self.draining)
            self._hear(slot, report)
            wants = report.wants
            if report.idle and (not self.open or self.draining):
                return
            if wants and not self._queue and not slot.gifts:
                self._ask_another(slot)
            if report.idle and not self._share(slot) and not slot.gifts:
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._changed.wait(), CALL_S)

    def _tell(self) -> None:
        """Wake whoever waits for a change. A waiter holds the event of its moment, so no wake-up can pass it by."""
        self._changed.set()
        self._changed = asyncio.Event()

    def _share(self, slot: Slot) -> int:
        """Conversations that this slot may take now: what it can start, and of the rest its part by speed."""
        if self.draining:
            return 0
        speeds = [other.speed for other in self.slots]
        part = slot.speed / sum(speeds) if all(speeds) else 1 / len(speeds)
        return min(len(self._queue), max(slot.room, math.ceil(self.open * part) - len(slot.leased)))

    def _take(self, slot: Slot, wants: int) -> list[Conversation]:
        """Up to `wants` conversations, now leased to this slot."""
        batch = [self._queue.pop() for _ in range(min(wants, self._share(slot)))]
        slot.leased |= {conversation.key: conversation for conversation in batch}
        slot.room = max(0, slot.room - len(batch))
        gifts, slot.gifts = slot.gifts, []
        return [*gifts, *batch]

    def _hear(self, slot: Slot, report: Report) -> None:
        """Book what became of the leases."""
        now = asyncio.get_running_loop().time()
        slot.hear(report.totals, now)
        slot.room = report.room
        if now - slot.moved > self._hang_s:
            raise WorkerLostError(
                f"the engine hangs: {report.totals.active} active conversations, no turn for {now - slot.moved:.0f} s"
            )
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
        thief = None if self.draining else slot.thief
        for conversation in report.returned:
            del slot.leased[conversation.key]
            if thief is None:
                self._queue.append(conversation)
            else:
                thief.leased[conversation.key] = conversation
                thief.gifts.append(conversation)
        self.moved += len(report.returned)
        if report.ended or report.returned or report.failed:
            self._tell()
        if not self.open:  # a worker that is still loading, or that finds no place, is not needed any more
            self._stop_starting()

    def _ask_another(self, thief: Slot) -> None:
        """Let the slot that would end last give waiting conversations, so many that it and `thief` end together. If
        nobody has such and `thief` has room, let a slower one give active ones, a few at a time.
        """
        others = [slot for slot in self.slots if slot is not thief and slot.totals.turns_left]
        if any(slot.asked for slot in others):
            return
        waiting = [slot for slot in others if slot.totals.waiting]
        slower = [
            slot
            for slot in others
            if slot.totals.turns_left >= WORTH_MOVING * slot.totals.active
            and (thief.pace > FASTER * slot.pace or not thief.pace)
        ]
        if waiting:
            victim = max(waiting, key=lambda slot: slot.totals.turns_left / max(slot.speed, 1e-9))
            own, theirs = thief.speed or victim.speed or 1.0, victim.speed or 1.0
            turns = (victim.totals.turns_left * own - thief.totals.turns_left * theirs) / (own + theirs)
            count = round(len(victim.leased) * turns / victim.totals.turns_left)
            victim.asked, victim.thief = max(0, min(count, victim.totals.waiting)), thief
        elif slower and thief.room:
            victim = max(slower, key=lambda slot: slot.totals.turns_left / max(slot.totals.active * slot.pace, 1e-9))
            victim.asked, victim.thief = min(thief.room, -(-victim.totals.active // 4)), thief

    def _recover(self, slot: Slot, segment: Path) -> None:
        """Put the leases of a dead worker back, with the turns that its segment holds."""
        self.deaths += 1
        spoken: dict[Key, list[Turn]] = {}
        for turn in read_lines(segment, Turn) if segment.is_file() else ():
            spoken.setdefault(turn.key, []).append(turn)
        totals = msgspec.structs.replace(slot.totals, active=0, waiting=0, parked=0, turns_left=0, kv_use=0.0)
        totals.ends = dict(totals.ends)
        for key, conversation in slot.leased.items():
            known = len(conversation.turns)
            new = [turn for turn in spoken.get(key, ()) if turn.turn > known]
            going_on = Conversation(key=key, prompt=conversation.prompt, turns=(*conversation.turns, *new))
            if going_on.end is None:
                self._queue.append(going_on)
            else:
                totals.ended += 1
                totals.ends[going_on.end.value] = totals.ends.get(going_on.end.value, 0) + 1
        slot.leased.clear()
        slot.gifts.clear()
        slot.before.append(totals)
        slot.totals, slot.asked = Totals(), 0
        self._tell()
