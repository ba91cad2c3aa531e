"""How fast a quota may be used: requests and input tokens a minute, requests a day, and as many open at once as the
server bears.

One limiter stands before all requests of a run. It waits rather than fails; first come, first served.
Concurrency follows refusals as TCP follows lost packets: one 429 episode halves it, successes first double it a round
trip until 0.8 of where it was refused, then add one a round trip.
"""

import asyncio
import math
from collections import deque
from datetime import datetime, timedelta
from zoneinfo import ZoneInfo

from placid.judge.provider import DayUsedUpError
from placid.judge.settings import LimitSettings

WINDOW_S = 60.3
"""A server counts 60 s; the rest is for clocks and the network."""
LAG_S = 5.0
"""Requests: so much lost time (a busy machine, a pause) is made up for, within what the last WINDOW_S leave."""
TOKEN_LAG_S = 0.2
"""Tokens: the same, with no look at the last minute, so less than WINDOW_S has to spare."""
COOLDOWN_S = 2.0
"""Refusals within this time of the last cut are one episode: requests that were already under way."""
BLIND_WAIT_S = 5.0
"""Pause after a refusal that names no wait."""


class Pace:
    """At most `per_minute` units in any minute, evenly; amounts are charged beforehand and corrected afterwards."""

    def __init__(self, per_minute: float, lag_s: float) -> None:
        """lag_s: a late start is made up for, but never by a burst longer than this."""
        self.unit_s, self._lag_s = WINDOW_S / per_minute, lag_s
        self._free_at = -math.inf

    def wait_s(self, now: float) -> float:
        """Seconds until the next charge may start."""
        return max(0.0, self._free_at - now)

    def charge(self, now: float, amount: float) -> None:
        """Use `amount` units from now on."""
        self._free_at = max(self._free_at, now - self._lag_s) + amount * self.unit_s

    def correct(self, amount: float) -> None:
        """`amount` fewer units than charged were used (negative: more)."""
        self._free_at -= amount * self.unit_s


class Limiter:
    """See the module. Times are those of the running event loop."""

    def __init__(self, settings: LimitSettings, used_today: int = 0) -> None:
        """used_today: requests already made since midnight Pacific time."""
        rpm = max(1, int(settings.rpm * settings.share))
        self._requests = Pace(rpm, LAG_S)
        self._sent = deque[float](maxlen=rpm)
        """When the last rpm requests were sent."""
        self._tokens = Pace(max(1.0, settings.tpm * settings.share), TOKEN_LAG_S)
        self._left_today = math.inf if settings.rpd is None else int(settings.rpd * settings.share) - used_today
        self._most = settings.max_concurrent
        self.allowed = float(min(16, settings.max_concurrent))
        """How many may be open at once now."""
        self._knee = float(settings.max_concurrent)
        self.open = 0
        self.refusals = 0
        self._paused_until = self._cut_at = -math.inf
        self._shut = False
        self._turnstile = asyncio.Lock()
        self._changed = asyncio.Event()

    def shut(self) -> None:
        """Nothing more will be sent: whoever waits, or comes, passes at once."""
        self._shut = True
        self._changed.set()

    async def enter(self, tokens: int) -> None:
        """Wait until a request of about `tokens` input tokens may be sent, or the limiter is shut; leave() must follow.

        Raises:
            DayUsedUpError: the day's requests are used up.
        """
        async with self._turnstile:
            while (wait := self._wait_s()) > 0:
                self._changed.clear()
                try:
                    async with asyncio.timeout(None if wait == math.inf else wait):
                        await self._changed.wait()
                except TimeoutError:
                    continue
            if self._shut:
                self.open += 1
                return
            if self._left_today < 1:
                raise DayUsedUpError("the daily requests of judge.limits.rpd are used up")
            now = asyncio.get_running_loop().time()
            self._left_today -= 1
            self._requests.charge(now, 1)
            self._sent.append(now)
            self._tokens.charge(now, tokens)
            self.open += 1

    def leave(
        self, reserved: int, used: int, succeeded: bool, refused: bool = False, wait_s: float | None = None
    ) -> None:
        """The request is over. used: its true input tokens (0 if it was refused)."""
        self.open -= 1
        self._tokens.correct(reserved - used)
        if refused:
            self._refused(wait_s)
        elif succeeded:
            self.allowed = min(self._most, self.allowed + (1 if self.allowed < self._knee else 1 / self.allowed))
        self._changed.set()

    def _refused(self, wait_s: float | None) -> None:
        now = asyncio.get_running_loop().time()
        self.refusals += 1
        self._paused_until = max(self._paused_until, now + (BLIND_WAIT_S if wait_s is None else wait_s))
        if now - self._cut_at > COOLDOWN_S:
            self._cut_at = now
            # a storm of several episodes keeps the knee of its first: the quota has not changed
            self._knee = max(self._knee if self.allowed < self._knee / 2 else 0.8 * self.allowed, 1.0)
            self.allowed = max(1.0, self.allowed / 2)

    def _wait_s(self) -> float:
        if self._shut:
            return 0.0
        now = asyncio.get_running_loop().time()
        if self.open >= int(self.allowed):
            return math.inf
        full = self._sent[0] + WINDOW_S - now if len(self._sent) == self._sent.maxlen else 0.0
        return max(full, self._requests.wait_s(now), self._tokens.wait_s(now), self._paused_until - now)


def day_began(now: float) -> float:
    """When Google's quota day began (midnight Pacific time); both in seconds since 1970."""
    local = datetime.fromtimestamp(now, ZoneInfo("America/Los_Angeles"))
    return local.replace(hour=0, minute=0, second=0, microsecond=0).timestamp()


def until_midnight(now: float) -> str:
    """How long until the quota day ends, in words."""
    local = datetime.fromtimestamp(now, ZoneInfo("America/Los_Angeles"))
    end = (local + timedelta(days=1)).replace(hour=0, minute=0, second=0, microsecond=0)
    hours, minutes = divmod(int(end.timestamp() - now) // 60, 60)
    return f"{hours} h {minutes} min"
