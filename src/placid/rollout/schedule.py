"""Which conversations of one worker are active.

admission: a conversation starts when all active ones, itself included, will fit into 0.85 of the engine's pool at
every turn from now to their ends, each growing by as much as a turn is expected to add and gone after its last. So they
run to their ends before new ones start, and a history is still cached when its next turn comes; those that begin
together are counted at their final lengths, those that are spread over their turns at what they hold at one time. Most
remaining turns start first, so that the tail is short. When the cache fails all the same (preemptions, or histories
that are not found), the budget shrinks and the youngest wait.
free: everything that the worker was given is active at once; the engine evicts as it must. Baseline.
lockstep: like free, and turn t+1 begins when every conversation has its turn t. Baseline.
"""

import asyncio
import heapq
from collections import deque
from collections.abc import Callable, Iterable

import numpy as np
from numpy.typing import NDArray

from placid.engine import KvPool
from placid.records import Conversation, Key, Turn

FILL = 0.85
"""Share of the pool that the expected lengths may take; a simulation was flat for errors of -40 to +60 %."""
QUANTILE = 0.7
"""Of the tokens that a turn adds. Reply lengths are skewed: their mean, which a sum of turns goes by, is near it."""
LEARNED = 4
"""Turns of each active conversation before less than the guess is believed: short replies are the first to end."""
BACK_OFF, RECOVER, LEAST = 0.8, 0.02, 0.1
"""Budget times 0.8 when the cache fails; 0.02 back for each conversation that ends; never below a tenth."""
GOOD_HITS = 0.9
"""Share of a conversation's previous prompt that must still be cached at its next turn."""


class Schedule:
    """Waiting and active conversations of one worker. Not thread-safe; lives in the worker's event loop."""

    def __init__(self, mode: str, pool: KvPool | None, most: int, max_tokens: int, turns: Callable[[Key], int]) -> None:
        """most: active conversations at most. turns: assistant turns that a conversation will have in the end."""
        self.mode, self._pool, self._turns = mode, pool, turns
        self._most = most if mode == "admission" else 1 << 30
        self.active: dict[Key, int] = {}
        """Key → tokens now."""
        self._left: dict[Key, int] = {}  # of the active ones: turns to come
        self._waiting: list[tuple[bool, int, int, Conversation]] = []
        self._arrivals = 0
        self._growth: deque[int] = deque(maxlen=2000)  # tokens that a turn added
        self._turn_tokens = self._guess = max_tokens // 2 + 32
        self._learned = 0
        self._hits: deque[float] = deque(maxlen=4096)
        self._preemptions = 0
        self.budget = 1.0
        """Share of the full budget in use (the safety net)."""
        self._arrived: list[asyncio.Future[None]] = []

    @property
    def waiting(self) -> int:
        """Conversations given but not active."""
        return len(self._waiting)

    @property
    def parked(self) -> int:
        """Those of the waiting ones that have begun."""
        return sum(not entry[0] for entry in self._waiting)

    @property
    def room(self) -> int:
        """Conversations like the active ones that could start now, were any waiting."""
        if self._waiting:
            return 0
        slots = min(self._most, 1 << 16) - len(self.active)
        if self.mode != "admission" or not self._pool or not self.active:
            return slots
        new = self._ahead([(self._turn_tokens, max(map(self._turns, self.active)))], self._pool)
        held = np.zeros_like(new)
        active = self._ahead(self._progress(), self._pool)
        held[: len(active)] = active[: len(new)]
        return min(slots, max(0, int(((FILL * self.budget * self._pool.blocks - held) / new).min())))

    @property
    def turns_left(self) -> int:
        """Turns to come of everything here."""
        return sum(self._left.values()) - sum(entry[1] for entry in self._waiting)

    @property
    def use(self) -> float:
        """Share of the pool that the active conversations will hold at most at one time; without one, of `most`."""
        if self._pool is None:
            return len(self.active) / self._most
        return float(self._ahead(self._progress(), self._pool).max()) / self._pool.blocks

    def _progress(self) -> list[tuple[int, int]]:
        """Tokens and turns to come of each active conversation."""
        return [(tokens, self._left[key]) for key, tokens in self.active.items()]

    def _ahead(self, conversations: Iterable[tuple[int, int]], pool: KvPool) -> NDArray[np.int64]:
        """Blocks held now, after one more turn of each, after two, ... (rounds,): who has ended holds none.

        conversations: tokens and turns to come of each. All speak equally often: what one is ahead, another is behind.
        """
        tokens, left = np.array([*conversations], dtype=np.int64).reshape(-1, 2).T
        rounds = np.arange(left.max(initial=0) + 1)[:, None]
        return np.where(rounds <= left, pool.blocks_of(tokens + rounds * self._turn_tokens), 0).sum(axis=1)

    def add(self, conversation: Conversation) -> None:
        """Started ones come first, then those with most turns left."""
        self._arrivals += 1
        left = self._turns(conversation.key) - len(conversation.turns)
        heapq.heappush(self._waiting, (not conversation.turns, -left, self._arrivals, conversation))

    def give_back(self, count: int) -> list[Conversation]:
        """Up to `count` waiting conversations, those that would start last."""
        self._waiting.sort()
        kept = max(0, self.waiting - count)
        self._waiting, back = self._waiting[:kept], self._waiting[kept:]  # a sorted list is a heap
        return [entry[-1] for entry in back]

    def shortest(self, count: int, least: int) -> set[Key]:
        """Up to `count` active conversations with most turns left, at least `least`: they are the shortest, too."""
        left = sorted((-turns, key) for key, turns in self._left.items() if turns >= least)
        return {key for _, key in left[:count]}

    def admit(self, length: Callable[[Conversation], int]) -> Conversation | None:
        """The next conversation to start, now active; None if none waits or fits. `length`: its tokens now."""
        if not self._waiting or len(self.active) >= self._most:
            return None
        conversation = self._waiting[0][-1]
        left, tokens = self._turns(conversation.key) - len(conversation.turns), length(conversation)
        if self.mode == "admission" and self._pool and self.active:  # one alone always runs
            ahead = self._ahead([*self._progress(), (tokens, left)], self._pool)
            if ahead.max() > FILL * self.budget * self._pool.blocks:
                return None
        heapq.heappop(self._waiting)
        self.active[conversation.key], self._left[conversation.key] = tokens, left
        return conversation

    def spoke(self, turn: Turn, before: Turn | None, preemptions: int = 0) -> None:
        """Learn from a finished turn.

        before: the same conversation's turn before it, if it was sampled here without a break. preemptions: of the
        engine since its start.
        """
        if turn.key in self.active:  # else it waited for its user so long that others have its room
            self.active[turn.key] = turn.prompt_tokens + len(turn.reply_ids)
            self._left[turn.key] = 0 if turn.end else max(0, self._turns(turn.key) - turn.turn)
        if before is not None:
            self._growth.append(turn.prompt_tokens - before.prompt_tokens)
            self._learned += 1
            if self._learned < 64 or self._learned % 16 == 0:
                found = sorted(self._growth)[int(QUANTILE * len(self._growth))]
                known = self._learned >= LEARNED * len(self.active)
                self._turn_tokens = found if known else max(found, self._guess)
        if self._pool:
            self._watch(turn, before, preemptions, self._pool)

    def _watch(self, turn: Turn, before: Turn | None, preemptions: int, pool: KvPool) -> None:
        """The safety net: a preemption, or less than nine tenths of the histories found over two turns of everyone."""
        reusable = before.prompt_tokens - pool.block_tokens if before else 0
        if reusable > 0:
            self._hits.append(min(1.0, turn.cached_tokens / reusable))
        window = max(8, 2 * len(self.active))
        failing = len(self._hits) >= window and sum(list(self._hits)[-window:]) < GOOD_HITS * window
        if failing or preemptions > self._preemptions:
            self._preemptions = preemptions
            self._hits.clear()
            if self.use <= self.budget:  # else the last cut has not come into force yet
                self.budget = max(LEAST, self.budget * BACK_OFF)

    def crowded(self, key: Key) -> bool:
        """Must this conversation wait now? After a cut the youngest make room."""
        if self.mode != "admission" or self.budget == 1 or len(self.active) < 2 or self.use <= self.budget:
            return False
        return self._left[key] == max(self._left.values())

    def ended(self, key: Key) -> None:
        """It is over."""
        self.leave(key)
        self.budget = min(1.0, self.budget + RECOVER)

    def leave(self, key: Key) -> None:
        """It is no longer active: failed, parked, or its user takes long."""
        self.active.pop(key, None)
        self._left.pop(key, None)
        self._release()

    async def turn(self) -> None:
        """Wait for the others' turns in lock-step; returns at once otherwise."""
        if self.mode == "lockstep":
            arrived = asyncio.get_running_loop().create_future()
            self._arrived.append(arrived)
            self._release()
            await arrived

    def _release(self) -> None:
        if self._arrived and len(self._arrived) >= len(self.active):
            for arrived in self._arrived:
                if not arrived.done():  # a task that was cancelled while it waited
                    arrived.set_result(None)
            self._arrived.clear()
