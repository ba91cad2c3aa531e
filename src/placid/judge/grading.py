"""Grading what is there, or what is still being spoken: one conversation in memory a lane, verdicts in groups."""

import asyncio
import logging
import threading
import time
import zlib
from collections import Counter
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

import msgspec

from placid.records import SCHEMA, BadInputError, Conversation, Key, PausedError, Prompt, Unscored, Verdict
from placid.store import Index, RunDir, Segment, read_json, read_lines, write_json

log = logging.getLogger(__name__)
GROUP = 256
"""Most verdicts a group: they are written together."""
GROUP_S = 1.0
"""A group is written at the latest after this time; then the disk is waited for (fsync), and progress is told."""
LANES = 128
"""Conversations in work at once; how many requests are open is the limiter's business."""
LOOK_EVERY_S = 2.0
"""Following: a look for new turns in this many seconds."""
SAY_EVERY_S = 30.0
"""A line in the log in this many seconds."""


class Judge(Protocol):
    """Who says what a conversation is worth."""

    id: str
    """Names provider, version, rubric and settings; verdicts of two ids are never mixed."""
    whole: bool
    """It grades ended conversations only."""

    def card(self) -> dict[str, object]:
        """What judge.json says about this judge."""
        ...

    async def grade(self, conversation: Conversation, wanted: Collection[int] | None = None) -> list[Verdict]:
        """One verdict a turn, in order; only turns with these numbers. A judge of whole conversations gives none for
        a conversation that is still open."""
        ...


class _Graded(msgspec.Struct):
    """The part of a Verdict that says whether a turn is done; msgspec skips the rest of the line."""

    key: Key
    turn: int
    unscored: Unscored | None = None
    schema: int = SCHEMA


class Work:
    """What one judge has graded of a run and what is left; places and numbers only, no text."""

    def __init__(
        self, run_dir: RunDir, judge_id: str, prompts: dict[str, Prompt], share: tuple[int, int] = (0, 1)
    ) -> None:
        """share: (k, n): the k-th of n parts of the conversations, from 0."""
        self.run_dir, self.judge_id = run_dir, judge_id
        self._prompts, self._share = prompts, share
        self.index = Index([])
        self._fresh: set[Key] = set()
        self._done: dict[Key, set[int]] = {}
        for file in sorted((run_dir.path / "verdicts" / judge_id).glob("*.jsonl")):
            for seen in read_lines(file, _Graded):
                if seen.unscored is None or not seen.unscored.passing:
                    self.done(seen.key, seen.turn)

    def done(self, key: Key, turn: int) -> None:
        """This turn is graded."""
        self._done.setdefault(key, set()).add(turn)

    @property
    def graded(self) -> int:
        """How many turns."""
        return sum(map(len, self._done.values()))

    def look(self) -> None:
        """Take in what was spoken since the last look."""
        self._fresh |= set(self.index.refresh(self.run_dir.segments()))

    def take(self, whole: bool) -> list[Key]:
        """The conversations with ungraded turns that the looks since the last take found; whole: ended ones only."""
        fresh, self._fresh = sorted(self._fresh), set()
        return [
            key
            for key in fresh
            if key.prompt_id in self._prompts
            and zlib.crc32(repr(key).encode()) % self._share[1] == self._share[0]
            and not (whole and key not in self.index.ends)
            and len(self._done.get(key, ())) < len(self.index.numbers(key))
        ]

    def read(self, keys: list[Key]) -> Iterator[tuple[Conversation, list[int]]]:
        """Each of these conversations with the numbers of its ungraded turns, one in memory at a time."""
        for key, turns in zip(keys, self.index.walk(keys), strict=True):
            done = self._done.get(key, set())
            wanted = [turn.turn for turn in turns if turn.turn not in done]
            yield Conversation(key=key, prompt=self._prompts[key.prompt_id], turns=turns), wanted


async def grade(
    judge: Judge,
    work: Work,
    tell: Callable[[Counter[str]], None],
    complete: Callable[[Index], bool] | None = None,
) -> None:
    """Grade what is left, and until `complete` what is still to come. tell: gets what was graded in this call so far,
    by unscored reason ("" for a score), after each group on disk."""
    segment: Segment[Verdict] | None = None
    counts = Counter[str]()
    try:
        while True:
            work.look()
            last = complete is None or complete(work.index)
            if last and complete is not None:
                work.look()  # what came while that was asked
            keys = work.take(judge.whole)
            if keys:
                segment = segment or Segment[Verdict].numbered(work.run_dir.path / "verdicts" / judge.id)
                await _grade_into(judge, work, keys, segment, counts, tell)
            if last:
                return
            tell(counts)
            await asyncio.sleep(LOOK_EVERY_S)
    finally:
        if segment is not None:
            segment.close()


async def _grade_into(
    judge: Judge,
    work: Work,
    keys: list[Key],
    segment: Segment[Verdict],
    counts: Counter[str],
    tell: Callable[[Counter[str]], None],
) -> None:
    """Grade, and append in groups. Whatever stops it, what is graded is written. The event loop never waits for a disk,
    because replies that arrive meanwhile would not be read."""
    waiting, group, settling, settled = work.read(keys), list[Verdict](), asyncio.Lock(), time.monotonic()
    one_at_a_time = threading.Lock()  # a cancelled lane leaves its thread behind

    def write() -> None:
        segment.append(*group, sync=False)
        counts.update(verdict.unscored.value if verdict.unscored else "" for verdict in group)
        group.clear()

    def settle(counts: Counter[str]) -> None:
        with one_at_a_time:
            segment.sync()
            tell(counts)

    async def lane() -> None:
        nonlocal settled
        for conversation, numbers in waiting:
            for verdict in await judge.grade(conversation, numbers):
                work.done(verdict.key, verdict.turn)
                group.append(verdict)
                if len(group) >= GROUP:
                    write()
            if time.monotonic() - settled > GROUP_S and not settling.locked():
                async with settling:
                    write()
                    await asyncio.to_thread(settle, counts.copy())
                    settled = time.monotonic()

    try:
        async with asyncio.TaskGroup() as lanes:
            for _ in range(min(LANES, len(keys))):
                lanes.create_task(lane())
    except* Exception as errors:  # noqa: BLE001 - only unpacked: the first error goes on
        raise first(errors) from None
    finally:
        write()
        settle(counts)


def first(errors: BaseExceptionGroup[BaseException]) -> BaseException:
    """The first error of a group of groups."""
    error: BaseException = errors
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error


class Progress:
    """The key `judge` of the attempt's status.json: graded, rate, dollars, unscored by kind."""

    def __init__(self, judge_id: str, attempt: Path | None, before: int, members: bool = False) -> None:
        """before: turns that were graded already. members: this judge is an ensemble, which has no budget itself."""
        self._file = attempt / "status.json" if attempt else None
        self._id, self._before, self._began = judge_id, before, time.monotonic()
        self._members = members
        self._counts, self._desk = Counter[str](), dict[str, Any]()
        self._state, self._said = "running", time.monotonic()

    def say(self, counts: Counter[str], desk: dict[str, Any] | None = None) -> None:
        """counts: turns graded in this run by unscored reason ("": scored). desk: requests and dollars, if any."""
        self._counts, self._desk = counts, desk or {}
        self._write()
        if time.monotonic() - self._said > SAY_EVERY_S:
            self._said = time.monotonic()
            log.info("%s", self._line())

    @contextmanager
    def until_the_end(self) -> Iterator[None]:
        """Write how it ended: done, paused or stopped.

        Raises:
            BadInputError: the budget left turns without a score; nothing may be trained on or shown as if they had one,
                and nothing changes until it is raised, so a scheduler must not try again.
        """
        self._state = "stopped"
        self._write(running=True)
        try:
            yield
            if spent := self._counts[Unscored.BUDGET]:
                self._state = "paused"
                again = (
                    f"judge.limits.budget_usd of a member was spent: {spent} turns have no score; what is graded is "
                    "kept, run that member with a larger one and then the same command"
                    if self._members
                    else f"judge.limits.budget_usd is spent: {spent} turns have no score; what is graded is kept, "
                    "raise it and run the same command"
                )
                raise BadInputError(f"{again} (placid report with --report.judge {self._id} shows it as it is)")
            self._state = "done"
        except PausedError:
            self._state = "paused"
            raise
        finally:
            self._write(running=False)
            if self._counts.total():
                log.info("%s", self._line())
            if self._state == "done" and (told := self._without_score()):
                log.warning("%s", told)

    def _write(self, running: bool = True) -> None:
        if self._file is None:
            return
        graded, seconds = self._counts.total(), time.monotonic() - self._began
        now = {
            "judge_id": self._id,
            "state": "running" if running else self._state,
            "graded": self._before + graded,
            "graded_now": graded,
            "turns_per_second": round(graded / max(seconds, 1e-9), 2),
            "unscored": {reason: n for reason, n in self._counts.items() if reason},
            **self._desk,
        }
        known = read_json(self._file) if self._file.is_file() else {}
        write_json(self._file, {**known, "judge": now})

    def _without_score(self) -> str:
        """What has no score and what the user can do; empty if all is graded."""
        nothing = ("", Unscored.EMPTY, Unscored.NOT_APPLICABLE, Unscored.LANGUAGE)
        failed = {reason: n for reason, n in self._counts.items() if reason not in nothing}
        again = [f"{n} {reason}" for reason, n in failed.items() if Unscored(reason).passing]
        final = [f"{n} {reason}" for reason, n in failed.items() if not Unscored(reason).passing]
        parts = [f"{', '.join(again)}: the same command asks again"] * bool(again)
        parts += [f"{', '.join(final)}: not asked again, counted in the report (docs/faults.md)"] * bool(final)
        return f"{sum(failed.values())} turns have no score ({'; '.join(parts)})" if failed else ""

    def _line(self) -> str:
        empty = self._counts[Unscored.EMPTY]
        failed = {reason: n for reason, n in self._counts.items() if reason not in ("", Unscored.EMPTY)}
        unscored = ", ".join(f"{n} {reason}" for reason, n in failed.items()) or "none"
        unscored += f"; {empty} replies are empty, nothing to grade" if empty else ""
        cost = f", {self._desk['requests']} requests, {self._desk['usd']:.2f} dollars in all" if self._desk else ""
        cost += f", {told} of them by our own estimate" if (told := self._desk.get("estimated")) else ""
        return f"{self._id} graded {self._counts.total()} turns (unscored: {unscored}){cost}"
