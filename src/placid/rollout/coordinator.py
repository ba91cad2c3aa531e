"""Who holds which conversation: leases in small batches, dead workers replaced, the tail shared out. Knows no Ray.

Each slot serves one worker at a time: it hands over what the worker asks for and hears what became of it. A worker that
dies or hangs is replaced, and its conversations go on from what its segment holds: only turns in flight are lost. When
the queue is empty, a worker that runs short gets waiting conversations of the one that would end last, so that both end
together; one with room and nothing to start also gets active ones, after their current turn, if it is faster.

A conversation may be what its engine dies of. One whose workers died SUSPECT times without a turn of its own in between
is leased last, for one turn, and as the only such one of its worker: whoever speaks is cleared, and one that its worker
died of TRIES times even so is lethal, and is not leased again.
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
from placid.records import Conversation, End, Key, Turn
from placid.rollout.worker import WORTH_MOVING, Report, Totals
from placid.store import read_lines

log = logging.getLogger(__name__)

LOSSES = 3
"""A slot whose workers die so often gives up, if they never held anything, or if no engine has spoken yet."""
TRIES = 3
"""A conversation that an engine failed so often is left to the next launch; one that an engine died of, see above."""
SUSPECT = 2
"""Deaths in a row, at the same turn, that make a conversation suspect: about all that one engine held are."""
LETHAL = 10
"""More lethal conversations in a row, without a turn of any other between, are the engine's fault after all."""
CALL_S = 10.0
"""An idle worker is called so often: one that hears nothing takes itself for cut off, and what can move changes."""
MEMORY_S = 10.0
"""A worker's speed is averaged over about so long."""
FASTER = 1.25
"""Active conversations move to a worker where each of them goes so much faster: their histories are prefilled again."""
SOONER = 0.5
"""And that would end in so much of the other's time: two equal workers must not trade what they have."""


class WorkerLostError(Exception):
    """The worker's process is gone or does not answer."""


class Handle(Protocol):
    """One worker, wherever it runs."""

    segment: Path

    async def start(self) -> tuple[str, str]:
        """Load; the engine's name and version."""
        ...

    async def work(self, batch: list[Conversation], more: bool, give_back: int, drain: bool, one_turn: bool) -> Report:
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
        self.suspect: Key | None = None
        """Of `leased`: it may be what former workers died of."""
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
    def ends_in(self) -> float:
        """Seconds until it would have nothing left."""
        return self.totals.turns_left / self.speed if self.speed else (math.inf if self.totals.turns_left else 0.0)

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
        self.started: Callable[[], object] = lambda: None
        """Called when an engine is up and named, before it gets work."""
        self.draining = False
        self.deaths = 0
        """Workers lost so far."""
        self.moved = 0
        """Conversations that one worker gave back for another."""
        self.given_up = 0
        """Conversations that are left to the next launch."""
        self.lethal: list[Conversation] = []
        """Conversations that every engine died of, with the turns before."""
        self._hang_s, self._turns = hang_s, turns
        self._failures: dict[Key, int] = {}
        self._deaths: dict[Key, int] = {}
        """Workers that died with a conversation since it last spoke."""
        self._in_a_row = self._before = 0
        """Lethal conversations since anyone spoke; turns of this launch when that was."""
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
                self.started()
                slot.heard = slot.moved = asyncio.get_running_loop().time()
                await self._feed(slot, worker)
                await worker.close()
                return
            except (WorkerLostError, EngineDiedError) as error:
                log.warning("a worker was lost and is replaced: %s", error)
                await worker.kill()
                held = bool(slot.leased)
                self._recover(slot, worker.segment)
                losses = 0 if slot.before[-1].turns or (held and self._spoken) else losses + 1
                if losses >= LOSSES or self._in_a_row > LETHAL:
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
            one_turn = slot.suspect in {conversation.key for conversation in batch}
            report = await worker.work(batch, self._share(slot) > 0, ask, self.draining, one_turn)
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
        """Conversations that this slot may take now: what it can start, and of the rest its part by speed. While any
        speed is unknown, no more than an equal part: the first engine to be up must not take all.
        """
        if self.draining or not self._queue:
            return 0
        if self._suspected(self._queue[-1]):
            return int(slot.suspect is None and not slot.gifts)
        speeds = [other.speed for other in self.slots]
        known = all(speeds)
        part = slot.speed / sum(speeds) if known else 1 / len(speeds)
        share = math.ceil(self.open * part) - len(slot.leased)
        return max(0, min(len(self._queue), max(slot.room, share) if known else share))

    def _take(self, slot: Slot, wants: int) -> list[Conversation]:
        """Up to `wants` conversations, now leased to this slot."""
        batch: list[Conversation] = []
        for _ in range(min(wants, self._share(slot))):
            if self._suspected(self._queue[-1]):
                if not batch and not slot.gifts and slot.suspect is None:
                    batch = [self._queue.pop()]
                    slot.suspect = batch[0].key
                break
            batch.append(self._queue.pop())
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
            before = slot.leased.pop(conversation.key)
            if len(conversation.turns) > len(before.turns):
                self._deaths.pop(conversation.key, None)
            if thief is None or conversation.key == slot.suspect:
                self._enqueue(conversation)
            else:
                thief.leased[conversation.key] = conversation
                thief.gifts.append(conversation)
                self.moved += 1
        if slot.suspect not in slot.leased:
            slot.suspect = None
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
            and thief.ends_in < SOONER * slot.ends_in
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

    def _suspected(self, conversation: Conversation) -> bool:
        """May this be what its workers died of?"""
        return self._deaths.get(conversation.key, 0) >= SUSPECT

    def _enqueue(self, conversation: Conversation) -> None:
        """One that has begun, to be taken first; a suspect last."""
        self._queue.insert(0 if self._suspected(conversation) else len(self._queue), conversation)

    @property
    def _spoken(self) -> int:
        """Turns of this launch."""
        return sum(totals.turns for totals in self.totals)

    def _recover(self, slot: Slot, segment: Path) -> None:
        """Put the leases of a dead worker back, with the turns that its segment holds."""
        self.deaths += 1
        spoken: dict[Key, list[Turn]] = {}
        for turn in read_lines(segment, Turn) if segment.is_file() else ():
            spoken.setdefault(turn.key, []).append(turn)
        totals = msgspec.structs.replace(slot.totals, active=0, waiting=0, parked=0, turns_left=0, kv_use=0.0)
        totals.turns, totals.ends = sum(map(len, spoken.values())), dict(totals.ends)
        slot.totals = totals
        if self._spoken != self._before:
            self._before, self._in_a_row = self._spoken, 0
        for key, conversation in slot.leased.items():
            known = len(conversation.turns)
            new = [turn for turn in spoken.get(key, ()) if turn.turn > known]
            going_on = Conversation(key=key, prompt=conversation.prompt, turns=(*conversation.turns, *new))
            end = going_on.end
            if end is None:
                self._deaths[key] = 1 if new else self._deaths.get(key, 0) + 1
                if key == slot.suspect and self._deaths[key] >= SUSPECT + TRIES and self._spoken:
                    self.lethal.append(going_on)
                    self._in_a_row += 1
                    end = End.INFRA_ERROR
                else:
                    self._enqueue(going_on)
            if end is not None:
                totals.ended += 1
                totals.ends[end.value] = totals.ends.get(end.value, 0) + 1
        slot.leased.clear()
        slot.gifts.clear()
        slot.suspect = None
        slot.before.append(totals)
        slot.totals, slot.asked = Totals(), 0
        self._tell()
