"""Which conversations of one worker are active.

admission: a conversation starts when the key-value blocks of all active ones at their expected FINAL lengths, its own
included, fit into 0.85 of the engine's pool. Active conversations run to their ends before new ones start, so that a
history is still cached when its next turn comes. Most remaining turns start first, so that the tail is short.
free: everything that the worker was given is active at once; the engine evicts as it must. Baseline.
lockstep: like free, and turn t+1 begins when every conversation has its turn t. Baseline.
"""

import asyncio
import heapq
import statistics
from collections import deque
from collections.abc import Callable

from placid.engine import KvPool
from placid.records import Conversation, Key, Turn

FILL = 0.85
"""Share of the pool that expected final lengths may take; a simulation was flat for errors of -40 to +60 %."""
BACK_OFF, RECOVER = 0.8, 0.02
"""Budget times 0.8 when the cache fails; 0.02 back for each conversation that ends."""
GOOD_HITS = 0.9
"""Share of a conversation's previous prompt that must still be cached at its next turn."""


class Schedule:
    """Waiting and active conversations of one worker. Not thread-safe; lives in the worker's event loop."""

    def __init__(self, mode: str, pool: KvPool | None, most: int, max_tokens: int, turns: Callable[[Key], int]) -> None:
        """most: active conversations at most. turns: assistant turns that a conversation will have in the end."""
        self.mode, self._pool, self._turns = mode, pool, turns
        self._most = most if mode == "admission" else 1 << 30
        self.active: dict[Key, int] = {}
        """Key → expected final length in tokens."""
        self._waiting: list[tuple[bool, int, int, Conversation]] = []
        self._arrivals = 0
        self._growth: deque[int] = deque([max_tokens // 2 + 32], maxlen=2000)  # tokens a turn adds; a guess to begin
        self._mean = float(self._growth[0])
        self._hits: deque[float] = deque(maxlen=64)
        self.budget = 1.0
        """Share of the full budget in use (the safety net)."""
        self._arrived: list[asyncio.Future[None]] = []

    @property
    def waiting(self) -> int:
        """Conversations given but not active."""
        return len(self._waiting)

    @property
    def use(self) -> float:
        """Share of the pool that the active conversations will hold at their expected ends."""
        return sum(map(self._pool.blocks_of, self.active.values())) / self._pool.blocks if self._pool else 0.0

    def add(self, conversation: Conversation) -> None:
        """Started ones come first, then those with most turns left."""
        self._arrivals += 1
        left = self._turns(conversation.key) - len(conversation.turns)
        heapq.heappush(self._waiting, (not conversation.turns, -left, self._arrivals, conversation))

    def give_back(self, count: int) -> list[Conversation]:
        """Up to `count` waiting conversations, those that would start last."""
        self._waiting.sort()
        kept, back = self._waiting[: max(0, self.waiting - count)], self._waiting[max(0, self.waiting - count) :]
        self._waiting = kept  # a sorted list is a heap
        return [entry[-1] for entry in back]

    def admit(self, length: Callable[[Conversation], int]) -> Conversation | None:
        """The next conversation to start, now active; None if none waits or fits. `length`: its tokens now."""
        if not self._waiting or len(self.active) >= self._most:
            return None
        conversation = self._waiting[0][-1]
        left = self._turns(conversation.key) - len(conversation.turns)
        final = length(conversation) + round(left * self._mean) if self._pool else 0
        if self.mode == "admission" and self._pool and self.active:  # one alone always runs
            blocks = self._pool.blocks_of
            if sum(map(blocks, self.active.values())) + blocks(final) > FILL * self.budget * self._pool.blocks:
                return None
        heapq.heappop(self._waiting)
        self.active[conversation.key] = final
        return conversation

    def spoke(self, turn: Turn, before: Turn | None) -> None:
        """Learn from a finished turn; `before`: the same conversation's turn before it, if that was sampled here."""
        if before is not None:
            grown = turn.prompt_tokens - before.prompt_tokens
            self._growth.append(grown)
            if len(self._growth) % 16 == 0 or len(self._growth) < 64:
                self._mean = statistics.fmean(self._growth)
            reusable = before.prompt_tokens - (self._pool.block_tokens if self._pool else 0)
            if self._pool and reusable > 0:
                self._hits.append(min(1.0, turn.cached_tokens / reusable))
                if len(self._hits) == self._hits.maxlen and statistics.fmean(self._hits) < GOOD_HITS:
                    self.strained()
        if turn.key in self.active and self._pool:
            left = 0 if turn.end else max(0, self._turns(turn.key) - turn.turn)
            self.active[turn.key] = turn.prompt_tokens + len(turn.reply_ids) + round(left * self._mean)

    def strained(self) -> None:
        """The cache fails (preemption, misses): fewer conversations from now on."""
        self.budget = max(0.1, self.budget * BACK_OFF)
        self._hits.clear()

    def ended(self, key: Key) -> None:
        """It is no longer active: over, failed, or parked."""
        self.active.pop(key, None)
        self.budget = min(1.0, self.budget + RECOVER)
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
                arrived.set_result(None)
            self._arrived.clear()
