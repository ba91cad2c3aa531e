"""A worker owns one engine, one segment, and the conversations leased to it.

The loop "reply → script.next → reply" runs in here, so a conversation's history never leaves the engine that holds its
cache. Whoever leases conversations calls work() again and again: it hands over a small batch and gets news back.
"""

import asyncio
import contextlib
import logging
from collections.abc import Mapping

import msgspec

from placid.engine import (
    ContextOverflowError,
    Engine,
    EngineDiedError,
    NoReplyError,
    Reply,
    ReplyRequest,
    RequestError,
)  # fmt: skip
from placid.protocol.conditions import Brief, UserTurn
from placid.protocol.script import Script
from placid.records import BadInputError, Conversation, End, Finish, Key, Message, PausedError, Turn, seed_of
from placid.render import Renderer, opening
from placid.rollout.schedule import Schedule
from placid.rollout.settings import RolloutSettings
from placid.store import Segment

log = logging.getLogger(__name__)

REPORT_S = 0.5
"""A worker without news reports after so long."""
WORTH_MOVING = 3
"""Turns that must be left for an active conversation to move: its history is prefilled again, about one turn's time."""
PARK_S = 5.0
"""A user turn that takes longer (a simulated user on a busy engine) gives the conversation's blocks to others."""
SIMULATED_TOKENS = 128
"""Most tokens of a simulated user's turn."""
SIMULATED_TRIES = 3
"""A simulated user that says nothing so often ends the conversation, as an engine's failure."""


class Totals(msgspec.Struct, kw_only=True):
    """What a worker did so far. Numbers of turns and tokens count this launch only."""

    conversations: int = 0
    """Conversations leased to the worker."""
    active: int = 0
    waiting: int = 0
    """Leased and not active, parked ones included."""
    parked: int = 0
    """Those of them that have begun: the cache failed, or their user took long."""
    turns_left: int = 0
    """Turns to come of active and waiting conversations, if none ends early."""
    preemptions: int = 0
    """Requests that the engine threw out of its cache while they ran."""
    budget: float = 1.0
    """Share of the admission budget that the safety net leaves."""
    kv_expected: float = 0.0
    """Share of the key-value pool that the active conversations will hold at most at one time."""
    kv_use: float = 0.0
    """Share of the key-value pool in use now, as the engine says."""
    ended: int = 0
    ends: dict[str, int] = {}
    """Kind of end (records.End) → conversations."""
    turns: int = 0
    reply_tokens: int = 0
    prompt_tokens: int = 0
    cached_tokens: int = 0
    seconds: float = 0.0
    """From the first request to now, without start-up."""
    start_seconds: float = 0.0
    """Loading the engine and checking adapters."""
    failed: int = 0
    """How often an engine failure left a conversation open; it is tried again, at last by the next launch."""
    failures: dict[str, int] = {}
    """Kind of failure → how often."""
    first_failure: str = ""


class Report(msgspec.Struct, kw_only=True):
    """News of a worker since its last report."""

    totals: Totals
    wants: int
    """More conversations that it would take now."""
    ended: list[Key]
    failed: list[Conversation]
    """Left open by an engine failure, with every turn so far."""
    returned: list[Conversation]
    """Given back unfinished, with every turn so far: another worker may go on."""
    room: int
    """Conversations that could become active at once: nothing waits for them here."""
    idle: bool
    """Nothing waits and nothing is active."""


class Journal:
    """Groups finished turns into few fsyncs: whatever arrives while one group is being written makes the next group."""

    def __init__(self, segment: Segment[Turn]) -> None:
        self._segment = segment
        self._queue: asyncio.Queue[tuple[bytes, asyncio.Future[None]] | None] = asyncio.Queue()

    async def append(self, turn: Turn) -> None:
        """Returns when the turn is on disk; raises what writing raised, and InvalidRecordError before anything is."""
        line = self._segment.line(turn)
        done = asyncio.get_running_loop().create_future()
        self._queue.put_nowait((line, done))
        await done

    async def run(self) -> None:
        """Write until stop()."""
        open_ = True
        while open_:
            entries = [await self._queue.get()]
            while not self._queue.empty():
                entries.append(self._queue.get_nowait())
            open_ = None not in entries
            group = [entry for entry in entries if entry is not None]
            fault: Exception | None = None
            try:
                await asyncio.to_thread(self._segment.write, [line for line, _ in group])
            except OSError as error:  # a full disk, say: every waiting conversation must hear of it
                fault = error
            for _, done in group:
                if done.cancelled():
                    continue
                if fault is None:
                    done.set_result(None)
                else:
                    done.set_exception(fault)
        self._segment.close()

    def stop(self) -> None:
        """Let run() end after what is pending."""
        self._queue.put_nowait(None)

    def close(self) -> None:
        """For a journal that never ran."""
        self._segment.close()


class Worker:
    """Holds conversations with one engine and writes each finished turn before the next one is asked for."""

    def __init__(
        self,
        settings: RolloutSettings,
        engine: Engine,
        renderer: Renderer,
        segment: Segment[Turn],
        scripts: Mapping[str, Script],
    ) -> None:
        self.settings, self.engine, self.renderer, self.scripts = settings, engine, renderer, scripts
        self.totals = Totals()
        self._journal = Journal(segment)
        self._began = 0.0
        self._writer: asyncio.Task[None] | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._news = asyncio.Event()
        self._hungry = self._draining = False
        self._leaving: set[Key] = set()
        self._fault: Exception | None = None
        self._ended: list[Key] = []
        self._failed: list[Conversation] = []
        self._held: dict[Key, Conversation] = {}
        self._said: dict[Key, UserTurn] = {}
        """User turns that came so late that their conversations have to wait for room again."""
        self._returned: list[Conversation] = []

    async def start(self) -> None:
        """Load the engine and begin to write. Raises what the engine raises."""
        began = self._now()
        try:
            await self.engine.start()
        except BaseException:
            await self.engine.close()
            raise
        self.totals.start_seconds = self._now() - began
        settings = self.settings
        self._schedule = Schedule(
            settings.schedule,
            self.engine.pool,
            settings.engine.max_concurrent,
            settings.max_tokens,
            lambda key: settings.arms[key.arm].turns,
        )
        self._writer = asyncio.create_task(self._journal.run())
        self._began = self._now()

    async def work(
        self,
        batch: list[Conversation],
        more: bool,
        give_back: int = 0,
        drain: bool = False,
        one_turn: bool = False,
    ) -> Report:
        """Take `batch`; report after a second, or earlier when there is room for more or nothing left to do.

        more: others are to come, so room for them is news. give_back: return so many conversations, waiting ones now,
        active ones with enough turns left after the turn in flight. drain: return all of them in this way.
        one_turn: return `batch` after a turn each.

        Raises:
            BadInputError, PausedError (the server is away), EngineDiedError, OSError (the segment cannot grow).
        """
        for conversation in batch:
            self._schedule.add(conversation)
            if one_turn:
                self._leaving.add(conversation.key)
        self.totals.conversations += len(batch)
        self._hungry, self._draining = more, drain
        waiting = self._schedule.give_back(self._schedule.waiting if drain else give_back)
        self._returned += waiting
        if give_back > len(waiting):
            self._leaving |= self._schedule.shortest(give_back - len(waiting), WORTH_MOVING)
        self._admit()
        self._news.clear()
        self._tell()
        await asyncio.sleep(0)  # whoever calls again and again must not starve the conversations
        with contextlib.suppress(TimeoutError):  # no news is reported like any other
            await asyncio.wait_for(self._news.wait(), timeout=REPORT_S)
        if self._fault is not None:
            raise self._fault
        return self._report()

    async def close(self) -> None:
        """Stop what is in flight (unwritten, so as if it had not begun), the writer, and the engine.

        Also after a start() that failed, and again after a close() that did.
        """
        self._draining = True
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        try:
            if self._writer is None:
                self._journal.close()
            else:
                self._journal.stop()
                await self._writer
        finally:
            await self.engine.close()

    def _report(self) -> Report:
        schedule, totals, load = self._schedule, self.totals, self.engine.load
        # one whose user takes long counts as waiting: its lane lives and its blocks do not
        totals.active, away = len(schedule.active), len(self._held) - len(schedule.active)
        totals.waiting, totals.parked = schedule.waiting + away, schedule.parked + away
        totals.budget, totals.kv_expected, totals.turns_left = schedule.budget, schedule.use, schedule.turns_left
        totals.kv_use, totals.preemptions = load.kv_use, load.preemptions
        report = Report(
            totals=msgspec.structs.replace(totals),  # a copy: the coordinator compares it with the next one
            wants=0 if self._draining else max(0, self._reserve() - schedule.waiting),
            ended=self._ended,
            failed=self._failed,
            returned=self._returned,
            room=0 if self._draining else schedule.room,
            idle=self._idle,
        )
        self._ended, self._failed, self._returned = [], [], []
        return report

    def _reserve(self) -> int:
        """Conversations to keep at hand: small, so that others can have the rest; the baselines take all there are."""
        return max(4, len(self._schedule.active) // 2) if self.settings.schedule == "admission" else 1 << 20

    def _tell(self) -> None:
        """Wake work() if there is something to say."""
        room = self._hungry and 2 * self._schedule.waiting <= self._reserve()
        if self._fault is not None or self._returned or room or self._idle:
            self._news.set()

    @property
    def _idle(self) -> bool:
        """Nothing waits and nothing is active."""
        return not self._held and not self._schedule.waiting

    @staticmethod
    def _now() -> float:
        """Seconds on the loop's clock."""
        return asyncio.get_running_loop().time()

    def _admit(self) -> None:
        """Start what fits."""
        while (
            not self._draining and self._fault is None and (conversation := self._schedule.admit(_length)) is not None
        ):
            self._held[conversation.key] = conversation
            task = asyncio.create_task(self._lane(conversation))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _lane(self, conversation: Conversation) -> None:
        """One conversation to its end, or until it is given back, has to wait, or its engine fails."""
        key, schedule = conversation.key, self._schedule
        try:
            left = await self._converse(conversation)
            if left is None:
                schedule.ended(key)
                self._ended.append(key)
            elif self._leaves(left) and (self._draining or left is not conversation):  # else it has not spoken yet
                self._said.pop(key, None)
                self._returned.append(left)
            else:
                schedule.leave(key)
                schedule.add(left)
        except (BadInputError, PausedError, OSError, EngineDiedError) as error:
            self._fault = self._fault or error
        except Exception as error:  # noqa: BLE001 - infrastructure of any kind: counted, and raised by the launcher
            self._fail(self._held[key], error)
        finally:
            del self._held[key]
            self._leaving.discard(key)
            schedule.leave(key)
            self._admit()
            self._tell()

    def _fail(self, left: Conversation, error: Exception) -> None:
        """Count a failure of the engine under one conversation."""
        totals, kind = self.totals, type(error).__name__
        totals.failed += 1
        totals.failures[kind] = totals.failures.get(kind, 0) + 1
        totals.first_failure = totals.first_failure or f"{kind}: {error}"
        self._failed.append(left)
        log.warning("%s stopped after turn %d: %r", left.key, len(left.turns), error)

    def _leaves(self, conversation: Conversation) -> bool:
        """Is this conversation to be given back now?"""
        return self._draining or conversation.key in self._leaving

    async def _converse(self, conversation: Conversation) -> Conversation | None:
        """From its last stored turn to its end (None), or to a turn after which it makes room."""
        script, key = self.scripts[conversation.key.arm], conversation.key
        asked = self._said.pop(key, None) or await self._next(script, conversation)
        if isinstance(asked, End):
            raise BadInputError(f"{key} is over ({asked}) but its last stored turn does not say so")
        if key not in self._schedule.active:
            self._said[key] = asked
            return conversation
        prompt_ids = self._first_prompt(conversation, asked)
        before: Turn | None = None
        while True:
            await self._schedule.turn()
            turn = await self._speak(conversation, asked, prompt_ids)
            spoken = Conversation(key=key, prompt=conversation.prompt, turns=(*conversation.turns, turn))
            following = turn.end or await self._next(script, spoken)
            if not isinstance(following, End):
                prompt_ids = self.renderer.extend(prompt_ids, turn.reply_ids, following.text)
                if len(prompt_ids) >= self.engine.context_tokens:
                    following = End.CONTEXT_OVERFLOW
            if isinstance(following, End):
                turn = msgspec.structs.replace(turn, end=following)
            await self._journal.append(turn)
            self._held[key] = spoken  # first: whatever fails from here on, this turn is not said again
            self._count(turn)
            self._schedule.spoke(turn, before, self.engine.load.preemptions)
            if isinstance(following, End):
                return None
            if key not in self._schedule.active or self._schedule.crowded(key) or self._leaves(spoken):
                self._said[key] = following
                return spoken
            conversation, asked, before = spoken, following, turn

    async def _next(self, script: Script, conversation: Conversation) -> UserTurn | End:
        """What the script says. Whoever waits long for a simulated user is no longer active: others get its blocks."""
        asked = script.next(conversation)
        if not isinstance(asked, Brief):
            return asked
        said = asyncio.create_task(self._simulated(asked, conversation))
        try:
            await asyncio.wait({said}, timeout=PARK_S)
            if not said.done() and self._schedule.mode == "admission":
                self._schedule.leave(conversation.key)
                self._admit()
            return await said
        except RequestError as error:
            log.warning("%s ends as %s: its user gets no words: %s", conversation.key, error.end.value, error)
            return error.end
        finally:
            said.cancel()

    async def _simulated(self, asked: Brief, conversation: Conversation) -> UserTurn:
        """A simulated user's brief is answered by the base model and becomes the user turn."""
        prompt = tuple(self.renderer.prompt([Message(role="user", content=asked.text)]))
        for attempt in range(SIMULATED_TRIES):
            purpose = "simulated user" + f" {attempt}" * bool(attempt)
            seed = seed_of(self.settings.seed, conversation.key, purpose, len(conversation.turns) + 1)
            said = await self.engine.reply(
                ReplyRequest(prompt_ids=prompt, max_tokens=SIMULATED_TOKENS, temperature=1.0, seed=seed)
            )
            if said.text.strip():
                return asked.turn(said.text.strip())
        raise NoReplyError(  # the seeds are the same at every launch
            f"the simulated user said nothing {SIMULATED_TRIES} times after turn {len(conversation.turns)}"
        )

    def _first_prompt(self, conversation: Conversation, asked: UserTurn) -> list[int]:
        """The next prompt's ids, rebuilt from the stored ids: token for token what an undisturbed run would send."""
        users = [*(turn.user for turn in conversation.turns), asked.text]
        system = conversation.turns[0].system if conversation.turns else asked.system
        ids = self.renderer.prompt(opening(system, users[0]))
        for turn, user in zip(conversation.turns, users[1:], strict=True):
            ids = self.renderer.extend(ids, turn.reply_ids, user)
        return ids

    async def _speak(self, conversation: Conversation, asked: UserTurn, prompt_ids: list[int]) -> Turn:
        """One reply, not yet written; where this prompt gets none, a turn without one that ends the conversation."""
        key, number = conversation.key, len(conversation.turns) + 1
        adapter = self.settings.arms[key.arm].adapter
        seed = seed_of(self.settings.seed, key, "sample", number)
        request = ReplyRequest(
            prompt_ids=tuple(prompt_ids),
            max_tokens=self.settings.max_tokens,
            temperature=self.settings.temperature,
            seed=seed,
            logprobs=self.settings.logprobs,
            adapter=str(adapter) if adapter else None,
        )
        end = None
        try:
            if len(prompt_ids) >= self.engine.context_tokens:
                raise ContextOverflowError(f"{len(prompt_ids)} tokens, {self.engine.context_tokens} of context")
            reply = await self.engine.reply(request)
        except RequestError as error:
            end, reply = error.end, Reply(token_ids=(), text="", finish=Finish.FAILED)
            log.warning("%s ends as %s before turn %d: %s", key, end.value, number, error)
        if reply.finish is Finish.FILTERED and not reply.text.strip():
            end = End.FILTERED
        return Turn(
            key=key,
            turn=number,
            user=asked.text,
            system=asked.system,
            reply=reply.text,
            reply_ids=reply.token_ids,
            logprobs=reply.logprobs,
            finish=reply.finish,
            answers=asked.answers,
            prompt_tokens=len(prompt_ids),
            cached_tokens=reply.cached_tokens,
            seed=seed,
            end=end,
        )

    def _count(self, turn: Turn) -> None:
        totals = self.totals
        if turn.end is not None:
            totals.ended += 1
            totals.ends[turn.end.value] = totals.ends.get(turn.end.value, 0) + 1
        totals.turns += 1
        totals.reply_tokens += len(turn.reply_ids)
        totals.prompt_tokens += turn.prompt_tokens
        totals.cached_tokens += turn.cached_tokens
        totals.seconds = self._now() - self._began


def _length(conversation: Conversation) -> int:
    """Tokens of a conversation so far, near enough for a forecast: its text has four characters a token."""
    turns = conversation.turns
    asked = len(conversation.prompt.text) // 4 if not turns else sum(len(turn.user) // 4 + 6 for turn in turns)
    return asked + sum(len(turn.reply_ids) for turn in turns)
