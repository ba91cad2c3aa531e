"""Between judge and provider: what was paid for is kept, what fails in passing is asked again, nothing is asked twice.

    verdicts/<judge_id>/replies/<writer>.jsonl     one line per paid reply, on disk before anything is made of it

These lines are the cache (by the sha256 of the whole request), the cassette that `judge.kind = "replay"` plays, and the
ledger: tokens and dollars are sums over them, never a counter in memory.
"""

import asyncio
import contextlib
import logging
import math
import time
from collections import Counter
from pathlib import Path
from typing import Any

import msgspec

from placid.config import sha
from placid.engine.faults import warn_once
from placid.judge.limiter import Limiter, day_began, until_midnight
from placid.judge.provider import (
    Answer,
    Ask,
    DayUsedUpError,
    JudgeStopError,
    OtherModelError,
    PassingError,
    Provider,
    RefusedError,
)  # fmt: skip
from placid.judge.settings import LimitSettings
from placid.records import SCHEMA, BadInputError, PausedError, Record, Unscored
from placid.store import Segment, located, read_at

log = logging.getLogger(__name__)
LONGEST_WAIT_S = 30.0
SYNC_S = 1.0
"""A paid reply is written at once, which a kill cannot undo, and is safe from a power cut (fsync) after this time."""
IN_A_ROW = 20
"""So many grades that fail one after the other, without one success, may be the judge's fault: see Desk._answers()."""
DOUBT_S = 0.02
"""Between two looks whether anybody has been answered yet."""
PROBE = "Nothing is to be graded here: fill in the lowest value everywhere. Mark of this question: {}"
"""Asked where it has to be known whether one text is at fault or the judge answers nobody."""
CHARACTERS_A_TOKEN = 4
"""First guess, until true usage is known."""


class KeptReply(Record, frozen=True, kw_only=True):
    """One paid reply."""

    schema: int = SCHEMA
    request: str
    """sha256 of the request and its attempt number."""
    attempt: int
    answer: Answer
    usd: float
    at: float
    """Seconds since 1970."""
    foreign: bool = False
    """Another model answered than the judge's: counted as money, never read."""


def name_of(request: Ask, attempt: int) -> str:
    """What a reply is kept under."""
    return sha([request.prompt, request.schema, request.max_tokens, attempt])


class Kept:
    """The replies of the judge's own model by request name: places only, the replies stay on disk."""

    def __init__(self, folder: Path) -> None:
        """Scans replies/ of verdicts/<judge_id>/ once. Raises BadInputError for a damaged line."""
        self._files: list[Path] = []
        self._places: dict[bytes, tuple[int, int, int]] = {}
        self.usd, self.today = 0.0, 0
        """What all of them cost, and how many were paid since the quota's day began."""
        since = day_began(time.time())
        for file in sorted((folder / "replies").glob("*.jsonl")):
            self._files.append(file)
            for offset, size, kept in located(file, KeptReply):
                self.usd += kept.usd
                self.today += kept.at >= since
                if not kept.foreign:
                    self._places[bytes.fromhex(kept.request)] = (len(self._files) - 1, offset, size)

    def add(self, file: Path, kept: KeptReply, offset: int, size: int) -> None:
        """This was just appended to `file`."""
        if not self._files or self._files[-1] != file:
            self._files.append(file)
        if not kept.foreign:
            self._places[bytes.fromhex(kept.request)] = (len(self._files) - 1, offset, size)

    def __len__(self) -> int:
        return len(self._places)

    def __contains__(self, name: str) -> bool:
        return bytes.fromhex(name) in self._places

    def __getitem__(self, name: str) -> Answer:
        number, offset, size = self._places[bytes.fromhex(name)]
        return read_at(self._files[number], KeptReply, offset, size).answer


class Desk:
    """Asks one provider. Use as an async context manager: leaving it waits for what is still under way."""

    def __init__(self, provider: Provider, limits: LimitSettings, folder: Path) -> None:
        """folder: verdicts/<judge_id>/ of the run."""
        self.provider, self._limits = provider, limits
        self._kept = Kept(folder)
        self.limiter = Limiter(limits, self._kept.today)
        self.usd = self._kept.usd
        self.asked = 0
        self.failures: Counter[str] = Counter()
        self.estimated = 0
        """Paid replies whose tokens the provider did not say."""
        self._lost = self._refused = 0
        """Grades given up, and requests refused, since the last success."""
        self._last: tuple[Ask, PassingError] | None = None
        """The last grade that was given up, and why."""
        self._in_doubt = 0
        """Refused requests that wait to see whether others are answered."""
        self._answered, self._probing = False, asyncio.Lock()
        """Was anything answered in this process?"""
        self._tokens_a_character = 1 / CHARACTERS_A_TOKEN
        self._flying: dict[str, asyncio.Task[Answer]] = {}
        self._stop: Exception | None = None
        self._stopped = asyncio.Event()
        self._folder = folder
        self._syncing, self._synced = asyncio.Lock(), time.monotonic()

    async def __aenter__(self) -> "Desk":
        self._segment = Segment[KeptReply].numbered(self._folder / "replies")
        return self

    async def __aexit__(self, kind: type[BaseException] | None = None, *_: object) -> None:
        try:
            if kind is None:
                await self.settle()
        finally:
            await self._leave()

    async def _leave(self) -> None:
        # what is under way is paid for: it is waited for and kept, whatever ended the run; what still waits is not sent
        self._halt(self._stop or PausedError("the judge was closed"))
        await asyncio.gather(*self._flying.values(), return_exceptions=True)
        self._segment.close()
        await self.provider.close()

    def numbers(self) -> dict[str, Any]:
        """What status.json says about it."""
        return {
            "requests": self.asked,
            "usd": round(self.usd, 4),
            "open_at_most": int(self.limiter.allowed),
            "failures": dict(self.failures),
            "estimated": self.estimated,
        }

    async def ask(self, request: Ask, attempt: int) -> tuple[str, Answer]:
        """The kept reply, the one that is under way, or a new one.

        Raises:
            JudgeStopError, PausedError: nothing more can be asked.
        """
        name = name_of(request, attempt)
        if name in self._kept:
            return name, self._kept[name]
        if name not in self._flying:
            if self._stop is not None:
                raise self._stop
            task = asyncio.create_task(self._fetch(name, request, attempt))
            self._flying[name] = task
            task.add_done_callback(lambda _: self._flying.pop(name, None))
        return name, await asyncio.shield(self._flying[name])

    async def _fetch(self, name: str, request: Ask, attempt: int) -> Answer:
        """Ask until there is an answer or the deadline; keep the answer."""
        loop, began = asyncio.get_running_loop(), None
        wait = self._limits.first_wait_s
        while not self._spent():
            reserved = int(len(request.prompt) * self._tokens_a_character)
            await self._may_start(reserved)
            if self._stop is not None or self._spent():
                self.limiter.leave(reserved, 0, succeeded=False)
                if self._stop is not None:
                    raise self._stop
                break
            began = began if began is not None else loop.time()
            try:
                answer = await self._once(request, reserved)
            except PassingError as error:
                self.failures[error.why] += 1
                pause = error.wait_s if error.wait_s is not None else wait
                wait = min(2 * wait, LONGEST_WAIT_S)
                if loop.time() + pause - began > self._limits.deadline_s:
                    return await self._given_up(request, error)
                if not error.refused:  # after a refusal the limiter holds everybody back
                    await self._sleep(pause)
                continue
            except RefusedError as error:
                return await self._at_fault(request, error)
            except OtherModelError as error:
                self._keep(name, attempt, error.answer, foreign=True)
                raise
            self._lost = self._refused = 0
            self._answered = True
            self._keep(name, attempt, answer)
            await self._sync()
            return answer
        return Answer(unscored=Unscored.BUDGET, why=f"judge.limits.budget_usd = {self._limits.budget_usd} is spent")

    def _spent(self) -> bool:
        """Replies already under way when the budget is reached are still paid for and kept."""
        return self._limits.budget_usd is not None and self.usd >= self._limits.budget_usd

    async def _may_start(self, tokens: int) -> None:
        try:
            await self.limiter.enter(tokens)
        except DayUsedUpError as error:
            raise self._day_over(str(error)) from None

    async def _once(self, request: Ask, reserved: int) -> Answer:
        """One request through the limiter's gate; the gate is told how it went."""
        self.asked += 1
        used, succeeded, refused, wait_s = 0, False, False, None
        try:
            async with asyncio.timeout(self._limits.request_s):
                answer = await self.provider.ask(request)
            used, succeeded = answer.input_tokens, True
            if used:
                self._tokens_a_character += 0.05 * (used / len(request.prompt) - self._tokens_a_character)
            return self._counted(request, answer)
        except TimeoutError:
            raise PassingError(Unscored.TIMEOUT, f"no answer within {self._limits.request_s:g} s") from None
        except PassingError as error:
            refused, wait_s = error.refused, error.wait_s
            raise
        except DayUsedUpError as error:
            raise self._day_over(str(error)) from None
        except BadInputError as error:
            self._halt(error)
            raise
        finally:
            self.limiter.leave(reserved, used, succeeded, refused, wait_s)

    def _day_over(self, why: str) -> PausedError:
        pause = PausedError(
            f"{why}; the quota is renewed at midnight Pacific time, in {until_midnight(time.time())}: run the same "
            "command again then, what is graded is kept"
        )
        self._halt(pause)
        return pause

    def _halt(self, why: Exception) -> None:
        """Send nothing more; wake whoever waits to send."""
        self._stop = why
        self._stopped.set()
        self.limiter.shut()

    async def _sleep(self, seconds: float) -> None:
        """Until then, or until nothing more is sent."""
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._stopped.wait(), seconds)

    def _counted(self, request: Ask, answer: Answer) -> Answer:
        """With our own estimate of the tokens that the provider does not say: they are paid for all the same."""
        missing: dict[str, int] = {}
        if not answer.text and answer.unscored in (Unscored.BLOCKED_PROMPT, Unscored.PARSE):  # nothing was made of it
            return answer
        if not answer.input_tokens:
            missing["input_tokens"] = math.ceil(len(request.prompt) * self._tokens_a_character)
        if not answer.output_tokens and (answer.text or answer.unscored is Unscored.MAX_TOKENS):
            cut = answer.unscored is Unscored.MAX_TOKENS
            tokens = request.max_tokens if cut else math.ceil(len(answer.text) / CHARACTERS_A_TOKEN)
            missing["output_tokens"] = tokens
        if not missing:
            return answer
        self.estimated += 1
        warn_once(
            f"{self.provider.name} does not say how many tokens it bills: judge.limits.budget_usd and the dollars "
            f"shown count our own estimate (a token per {CHARACTERS_A_TOKEN} characters); the bill may differ"
        )
        return msgspec.structs.replace(answer, estimated=True, **missing)

    async def _at_fault(self, request: Ask, error: RefusedError) -> Answer:
        """A refused text is unscored for good, if others are answered.

        Raises:
            JudgeStopError: none is, so the settings are at fault.
        """
        self._refused += 1
        self.failures[error.state.value] += 1
        self._in_doubt += 1
        try:
            while not self._answered and self._in_doubt < len(self._flying) and self._stop is None:
                await asyncio.sleep(DOUBT_S)  # others are still under way: they will tell
        finally:
            self._in_doubt -= 1
        try:
            doubtful = not self._answered or self._refused % IN_A_ROW == 0
            others = not doubtful or await self._answers(request)
        except PassingError as passing:
            return Answer(unscored=passing.kind, why=passing.told)
        if not others:
            if self._stop is None:
                self._halt(JudgeStopError(f"the judge answers nobody, it {error.why}"))
            raise self._stop or error
        return Answer(unscored=error.state, why=error.why)

    async def _given_up(self, request: Ask, error: PassingError) -> Answer:
        """Without a score until the next run; after many in a row the judge is asked whether it is there at all."""
        self._lost, self._last = self._lost + 1, (request, error)
        if self._lost % IN_A_ROW == 0:
            await self.settle()
        return Answer(unscored=error.kind, why=error.told)

    async def settle(self) -> None:
        """See whether the judge is still there, where the last grades were given up.

        Raises:
            PausedError: it is not.
        """
        if not self._lost or self._last is None or self._stop is not None:
            return
        request, error = self._last
        lost = self._lost
        try:
            there = await self._answers(request)
        except PassingError:
            there = False
        if not there and self._stop is None:
            self._halt(
                PausedError(
                    f"the judge does not answer ({error.told}; given up in a row: {lost}); what is graded is kept, run "
                    "the same command again later"
                )
            )
        if self._stop is not None:
            raise self._stop

    async def _answers(self, like: Ask) -> bool:
        """Does the judge answer a short question of the same form? It costs a few tokens, which the ledger counts.

        Raises:
            PassingError: that cannot be known now.
        """
        async with self._probing:
            if self._answered and not self._lost and not self._refused:
                return True  # somebody was answered meanwhile
            if self._stop is not None or self._spent():
                return self._stop is None
            probe = msgspec.structs.replace(like, prompt=PROBE.format(time.time_ns()), turns=like.turns[:1])
            await self._may_start(len(probe.prompt))
            try:
                answer = await self._once(probe, len(probe.prompt))
            except RefusedError:
                return False
            self._keep(name_of(probe, 0), 0, answer)
            self._lost = self._refused = 0
            self._answered = True
            return True

    def _keep(self, name: str, attempt: int, answer: Answer, foreign: bool = False) -> None:
        """Written down when this returns; nothing is awaited between the reply's arrival and this."""
        kept = KeptReply(
            request=name,
            attempt=attempt,
            answer=answer,
            usd=self.provider.usd(answer),
            at=time.time(),
            foreign=foreign,
        )
        self.usd += kept.usd
        ((offset, size),) = self._segment.append(kept, sync=False)
        self._kept.add(self._segment.path, kept, offset, size)

    async def _sync(self) -> None:
        """Whoever comes when it is time waits for the disk; the others go on."""
        if time.monotonic() - self._synced > SYNC_S and not self._syncing.locked():
            async with self._syncing:
                await asyncio.to_thread(self._segment.sync)
                self._synced = time.monotonic()


class Cassette:
    """Recorded replies only; nothing is asked of anybody."""

    usd = 0.0

    def __init__(self, folder: Path) -> None:
        """Raises BadInputError if `folder` holds no replies."""
        self._folder, self._kept = folder, Kept(folder)
        if not len(self._kept):
            raise BadInputError(
                f"judge.recorded = {str(folder)!r} holds no replies/*.jsonl; name a folder verdicts/<judge_id>"
            )

    async def ask(self, request: Ask, attempt: int) -> tuple[str, Answer]:
        """Raises BadInputError for a request that was never recorded."""
        name = name_of(request, attempt)
        if name not in self._kept:
            raise BadInputError(
                f"{self._folder}/replies hold no reply to request {name[:16]}; other texts or another rubric?"
            )
        return name, self._kept[name]
