"""What a conversation is worth: a score a turn, with the quote that carries it. A failed judgement is never a zero.

    judge_id = run(settings, run_dir, prompts)      # grades what is not graded yet

Judges (`judge.kind`): `lexical` counts phrases, needs no key and no network, and is not the paper's judge; `gemini`
asks Google's API by a rubric (docs/judging.md); `replay` gives recorded replies again.
"""

import asyncio
import json
import logging
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Collection, Iterable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Protocol

from placid.judge.desk import Cassette, Desk
from placid.judge.lexical import LexicalJudge
from placid.judge.model import ModelJudge, judge_id
from placid.judge.rubric import load_rubric
from placid.judge.settings import JudgeSettings
from placid.records import BadInputError, Conversation, Key, PausedError, Prompt, Verdict
from placid.store import RunDir, Segment, write_json

__all__ = ["Judge", "JudgeSettings", "LexicalJudge", "check", "opened", "run"]

log = logging.getLogger(__name__)
GROUP = 256
"""Most verdicts a group: one fsync each."""
GROUP_S = 1.0
"""A group is written at the latest after this time."""
LANES = 128
"""Conversations in work at once; how many requests are open is the limiter's business."""
LOOK_EVERY_S = 2.0
"""Following: a look for new turns in this many seconds."""


class Judge(Protocol):
    """Who says what a conversation is worth."""

    id: str
    """Names provider, version, rubric and settings; verdicts of two ids are never mixed."""

    def card(self) -> dict[str, object]:
        """What judge.json says about this judge."""
        ...

    async def grade(self, conversation: Conversation, wanted: Collection[int] | None = None) -> list[Verdict]:
        """One verdict a turn, in order; only turns with these numbers. A judge of whole conversations gives none for
        a conversation that is still open."""
        ...


def check(settings: JudgeSettings) -> str:
    """The id of the judge that the settings name; nothing is asked and nothing written.

    Raises:
        BadInputError: a lexicon or rubric that cannot be read, no key, no recorded replies.
    """
    if settings.kind == "lexical":
        return LexicalJudge(settings).id
    if settings.kind == "replay":
        return _replayed(settings).id
    from placid.judge.gemini import Gemini  # google-genai is heavy

    return judge_id(load_rubric(settings.rubric), Gemini.name, Gemini(settings).identity())


@asynccontextmanager
async def opened(settings: JudgeSettings, run_dir: RunDir) -> AsyncIterator[tuple[Judge, Desk | None]]:
    """The judge, and the desk where its requests go; leaving waits for what is under way.

    Raises:
        BadInputError: as check().
    """
    if settings.kind == "lexical":
        yield LexicalJudge(settings), None
    elif settings.kind == "replay":
        yield _replayed(settings), None
    else:
        from placid.judge.gemini import Gemini  # google-genai is heavy

        provider, rubric = Gemini(settings), load_rubric(settings.rubric)
        folder = run_dir.path / "verdicts" / judge_id(rubric, provider.name, provider.identity())
        async with Desk(provider, settings.limits, folder) as desk:
            yield ModelJudge(rubric, provider.name, provider.identity(), desk), desk


def _replayed(settings: JudgeSettings) -> ModelJudge:
    """The judge whose replies are in settings.recorded, under its own id: same words, same scores."""
    folder = settings.recorded
    if folder is None or not (folder / "judge.json").is_file():
        raise BadInputError(f"judge.recorded = {str(folder)!r} is no folder verdicts/<judge_id> with a judge.json")
    written = json.loads((folder / "judge.json").read_text())
    judge = ModelJudge(load_rubric(settings.rubric), written["provider"], written["identity"], Cassette(folder))
    if judge.id != written["id"]:
        raise BadInputError(
            f"{folder} was recorded with rubric {written['rubric']['name']!r}, sha {written['rubric']['sha256'][:12]}; "
            f"judge.rubric = {settings.rubric!r} is another"
        )
    return judge


def run(
    settings: JudgeSettings,
    run_dir: RunDir,
    prompts: Iterable[Prompt],
    attempt: Path | None = None,
    complete: Callable[[], bool] | None = None,
) -> str:
    """Grade every turn of these prompts that this judge has not graded yet; returns the judge's id.

    Turns that a bad hour left without a score (timeout, outage, budget) are graded again. Verdicts are appended in
    groups, so a killed run loses at most one group, and none of it is paid for twice.

    Args:
        settings: which judge.
        run_dir: the run.
        prompts: the prompts whose conversations are graded.
        attempt: folder of the status.json that gets the key `judge`; None: none is written.
        complete: following: grade what appears until this says that nothing more will; None: what is there now.

    Raises:
        BadInputError: an unreadable lexicon, a refused key, a damaged run directory.
        PausedError: the judge is away or its day is used up.
    """
    return asyncio.run(_run(settings, run_dir, list(prompts), attempt, complete))


async def _run(
    settings: JudgeSettings,
    run_dir: RunDir,
    prompts: list[Prompt],
    attempt: Path | None,
    complete: Callable[[], bool] | None,
) -> str:
    async with opened(settings, run_dir) as (judge, desk):
        write_json(run_dir.path / "verdicts" / judge.id / "judge.json", judge.card())
        done = {
            place
            for place, verdict in run_dir.verdicts(judge.id).items()
            if verdict.unscored is None or not verdict.unscored.passing
        }
        progress = Progress(judge.id, desk, attempt, len(done))
        segment: Segment[Verdict] | None = None
        end = "stopped"
        try:
            while True:
                last = complete is None or complete()  # before the look: what comes later is seen by the next one
                found = _ungraded(run_dir, prompts, done)
                if found:
                    segment = segment or new_segment(run_dir, judge.id)
                    await _grade_into(judge, found, done, segment, progress)
                if last:
                    break
                await asyncio.sleep(LOOK_EVERY_S)
            end = "done"
        except PausedError:
            end = "paused"
            raise
        finally:
            if segment is not None:
                segment.close()
            progress.say(end)
        return judge.id


Wanted = tuple[Conversation, list[int]]


def _ungraded(run_dir: RunDir, prompts: list[Prompt], done: set[tuple[Key, int]]) -> list[Wanted]:
    """Conversations with the numbers of their ungraded turns."""
    found = (
        (conversation, [turn.turn for turn in conversation.turns if (turn.key, turn.turn) not in done])
        for conversation in run_dir.conversations(prompts).values()
    )
    return [(conversation, numbers) for conversation, numbers in found if numbers]


async def _grade_into(
    judge: Judge, wanted: list[Wanted], done: set[tuple[Key, int]], segment: Segment[Verdict], progress: "Progress"
) -> None:
    """Grade, and append in groups; `done` grows by what was graded. Whatever stops it, what is graded is written."""
    waiting, group, written = iter(wanted), list[Verdict](), time.monotonic()

    def write() -> None:
        nonlocal written
        segment.append(*group)
        progress.count(group)
        group.clear()
        written = time.monotonic()

    async def lane() -> None:
        for conversation, numbers in waiting:
            for verdict in await judge.grade(conversation, numbers):
                done.add((verdict.key, verdict.turn))
                group.append(verdict)
                if len(group) >= GROUP:
                    write()
            if group and time.monotonic() - written > GROUP_S:
                write()
                progress.say()

    try:
        async with asyncio.TaskGroup() as lanes:
            for _ in range(min(LANES, len(wanted))):
                lanes.create_task(lane())
    except* Exception as errors:  # noqa: BLE001 - only unpacked: the first error goes on
        raise _first(errors) from None
    finally:
        write()


def _first(errors: BaseExceptionGroup[BaseException]) -> BaseException:
    """The first error of a group of groups."""
    error: BaseException = errors
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error


class Progress:
    """The key `judge` of the attempt's status.json: graded, rate, dollars, unscored by kind."""

    def __init__(self, judge_id: str, desk: Desk | None, attempt: Path | None, before: int) -> None:
        self._file = attempt / "status.json" if attempt else None
        self._id, self._desk, self._before = judge_id, desk, before
        self._began, self._graded, self._unscored = time.monotonic(), 0, Counter[str]()

    def count(self, verdicts: list[Verdict]) -> None:
        """These are on disk."""
        self._graded += len(verdicts)
        self._unscored.update(verdict.unscored.value for verdict in verdicts if verdict.unscored)

    def say(self, state: str = "running") -> None:
        """Write the status (running, done, paused, stopped); at the end also one line into the log."""
        seconds = time.monotonic() - self._began
        now: dict[str, object] = {
            "judge_id": self._id,
            "state": state,
            "graded": self._before + self._graded,
            "graded_now": self._graded,
            "turns_per_second": round(self._graded / max(seconds, 1e-9), 2),
            "unscored": dict(self._unscored),
        }
        if self._desk is not None:
            now |= {
                "requests": self._desk.asked,
                "usd": round(self._desk.usd, 4),
                "open_at_most": int(self._desk.limiter.allowed),
                "failures": dict(self._desk.failures),
            }
        if self._file is not None:
            known = json.loads(self._file.read_text()) if self._file.is_file() else {}
            write_json(self._file, {**known, "judge": now})
        if state != "running" and self._graded:
            cost = f", {self._desk.asked} requests, {self._desk.usd:.2f} dollars in all" if self._desk else ""
            unscored = ", ".join(f"{n} {kind}" for kind, n in self._unscored.items()) or "none"
            log.info("%s graded %d turns (unscored: %s)%s", self._id, self._graded, unscored, cost)


def new_segment(run_dir: RunDir, judge_id: str) -> Segment[Verdict]:
    """A verdict segment under the next free number, also when two processes ask at once."""
    folder = run_dir.path / "verdicts" / judge_id
    number = 1 + max((int(file.stem) for file in folder.glob("*.jsonl") if file.stem.isdigit()), default=0)
    while True:
        try:
            return run_dir.verdict_segment(judge_id, f"{number:04d}")
        except FileExistsError:  # another process took this number
            number += 1
