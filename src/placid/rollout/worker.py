"""A worker owns one engine, one segment, and the conversations given to it.

The loop "reply → script.next → reply" runs in here, so a conversation's history never leaves the engine that holds its
cache. Active conversations finish before new ones start: with more open histories than the cache holds, first come
first served would evict each one before its next turn.
"""

import asyncio
import logging
import time
from collections import deque
from collections.abc import Mapping

import msgspec

from placid.engine import Engine, ReplyRequest
from placid.protocol import Brief, Script, UserTurn
from placid.records import BadInputError, Conversation, End, Message, Turn, seed_of
from placid.render import Renderer, opening
from placid.rollout.settings import RolloutSettings
from placid.store import Segment

log = logging.getLogger(__name__)

SIMULATED_TOKENS = 128
"""Most tokens of a simulated user's turn."""
SIMULATED_TRIES = 3
"""A simulated user that says nothing so often is an engine failure."""


class Totals(msgspec.Struct, kw_only=True):
    """What a worker did so far. Numbers of turns and tokens count this launch only."""

    conversations: int = 0
    """Conversations given to the worker."""
    ended: int = 0
    turns: int = 0
    reply_tokens: int = 0
    prompt_tokens: int = 0
    cached_tokens: int = 0
    seconds: float = 0.0
    """From the first request to now, without start-up."""
    start_seconds: float = 0.0
    """Loading the engine and checking adapters."""
    failed: int = 0
    """Conversations left open by an engine failure; the next launch continues them."""
    first_failure: str = ""


class Journal:
    """Groups finished turns into few fsyncs: whatever arrives while one group is being written makes the next group."""

    def __init__(self, segment: Segment[Turn]) -> None:
        self._segment = segment
        self._queue: asyncio.Queue[tuple[Turn, asyncio.Future[None]]] = asyncio.Queue()

    async def append(self, turn: Turn) -> None:
        """Returns when the turn is on disk; raises what writing raised."""
        done = asyncio.get_running_loop().create_future()
        self._queue.put_nowait((turn, done))
        await done

    async def run(self) -> None:
        """Write for ever; cancel it when no append is pending."""
        while True:
            group = [await self._queue.get()]
            while not self._queue.empty():
                group.append(self._queue.get_nowait())
            fault: Exception | None = None
            try:
                await asyncio.to_thread(self._segment.append, *(turn for turn, _ in group))
            except OSError as error:  # a full disk, say: every waiting conversation must hear of it
                fault = error
            for _, done in group:
                if done.cancelled():
                    continue
                if fault is None:
                    done.set_result(None)
                else:
                    done.set_exception(fault)


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

    async def run(self, conversations: list[Conversation]) -> Totals:
        """Continue each conversation to its end; started ones first.

        Raises BadInputError (a first question that does not fit). An engine failure ends one conversation's work for
        now and is counted in the totals; everything that was finished is on disk.
        """
        self.totals.conversations = len(conversations)
        await self._start()
        waiting = deque(sorted(conversations, key=lambda c: -len(c.turns)))
        writer = asyncio.create_task(self._journal.run())
        self._began = time.monotonic()
        try:
            lanes = min(self.settings.engine.max_concurrent, len(waiting))
            async with asyncio.TaskGroup() as group:
                for _ in range(lanes):
                    group.create_task(self._lane(waiting))
        except* BadInputError as errors:
            raise errors.exceptions[0] from None
        except* OSError as errors:  # the segment cannot be written: nothing can go on
            raise errors.exceptions[0] from None
        finally:
            writer.cancel()
            self.totals.seconds = time.monotonic() - self._began
            await self.engine.close()
        return self.totals

    async def _start(self) -> None:
        began = time.monotonic()
        try:
            await self.engine.start()
        except BaseException:
            await self.engine.close()
            raise
        self.totals.start_seconds = time.monotonic() - began

    async def _lane(self, waiting: deque[Conversation]) -> None:
        """One conversation after the other, each to its end."""
        while waiting:
            conversation = waiting.popleft()
            try:
                await self._converse(conversation)
                self.totals.ended += 1
            except (BadInputError, OSError):
                raise
            except Exception as error:  # noqa: BLE001 - infrastructure of any kind: counted, and raised by the launcher
                self.totals.failed += 1
                self.totals.first_failure = self.totals.first_failure or f"{type(error).__name__}: {error}"
                log.warning("%s stopped after turn %d: %r", conversation.key, len(conversation.turns), error)

    async def _converse(self, conversation: Conversation) -> None:
        """From its last stored turn to its end."""
        script = self.scripts[conversation.key.arm]
        asked = await self._next(script, conversation)
        if isinstance(asked, End):
            raise BadInputError(f"{conversation.key} is over ({asked}) but its last stored turn does not say so")
        prompt_ids = self._first_prompt(conversation, asked)
        while True:
            turn = await self._speak(conversation, asked, prompt_ids)
            spoken = Conversation(key=turn.key, prompt=conversation.prompt, turns=(*conversation.turns, turn))
            following = await self._next(script, spoken)
            if not isinstance(following, End):
                prompt_ids = self.renderer.extend(prompt_ids, turn.reply_ids, following.text)
                if len(prompt_ids) >= self.engine.context_tokens:
                    following = End.CONTEXT_OVERFLOW
            if isinstance(following, End):
                turn = msgspec.structs.replace(turn, end=following)
            await self._journal.append(turn)
            self._count(turn)
            if isinstance(following, End):
                return
            conversation, asked = spoken, following

    async def _next(self, script: Script, conversation: Conversation) -> UserTurn | End:
        """What the script says; a simulated user's brief is answered by the base model and becomes the user turn."""
        asked = script.next(conversation)
        if not isinstance(asked, Brief):
            return asked
        prompt = tuple(self.renderer.prompt([Message(role="user", content=asked.text)]))
        for attempt in range(SIMULATED_TRIES):
            purpose = "simulated user" + f" {attempt}" * bool(attempt)
            seed = seed_of(self.settings.seed, conversation.key, purpose, len(conversation.turns) + 1)
            said = await self.engine.reply(
                ReplyRequest(prompt_ids=prompt, max_tokens=SIMULATED_TOKENS, temperature=1.0, seed=seed)
            )
            if said.text.strip():
                return asked.turn(said.text.strip())
        raise RuntimeError(
            f"the simulated user said nothing {SIMULATED_TRIES} times after turn {len(conversation.turns)}"
        )

    def _first_prompt(self, conversation: Conversation, asked: UserTurn) -> list[int]:
        """The next prompt's ids, rebuilt from the stored ids: token for token what an undisturbed run would send."""
        users = [*(turn.user for turn in conversation.turns), asked.text]
        system = conversation.turns[0].system if conversation.turns else asked.system
        ids = self.renderer.prompt(opening(system, users[0]))
        for turn, user in zip(conversation.turns, users[1:], strict=True):
            ids = self.renderer.extend(ids, turn.reply_ids, user)
        if len(ids) >= self.engine.context_tokens:
            raise BadInputError(
                f"prompt {conversation.key.prompt_id!r} at turn {len(users)} takes {len(ids)} tokens; the context "
                f"holds {self.engine.context_tokens} (rollout.engine.context_tokens)"
            )
        return ids

    async def _speak(self, conversation: Conversation, asked: UserTurn, prompt_ids: list[int]) -> Turn:
        """One reply, not yet written."""
        key, number = conversation.key, len(conversation.turns) + 1
        adapter = self.settings.arms[key.arm].adapter
        seed = seed_of(self.settings.seed, key, "sample", number)
        reply = await self.engine.reply(
            ReplyRequest(
                prompt_ids=tuple(prompt_ids),
                max_tokens=self.settings.max_tokens,
                temperature=self.settings.temperature,
                seed=seed,
                logprobs=self.settings.logprobs,
                adapter=str(adapter) if adapter else None,
            )
        )
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
        )

    def _count(self, turn: Turn) -> None:
        totals = self.totals
        totals.turns += 1
        totals.reply_tokens += len(turn.reply_ids)
        totals.prompt_tokens += turn.prompt_tokens
        totals.cached_tokens += turn.cached_tokens
        totals.seconds = time.monotonic() - self._began
