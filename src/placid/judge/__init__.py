"""What a conversation is worth: 0..10 of distress a turn, with the quote that carries it.

    judge_id = run(settings, run_dir, prompts)      # grades what is not graded yet

The only provider here is `lexical`: deterministic, no key, no network, and not the paper's judge.
"""

import asyncio
import logging
from collections.abc import Collection, Iterable
from typing import Protocol

from placid.judge.lexical import LexicalJudge
from placid.judge.settings import JudgeSettings
from placid.records import Conversation, Prompt, Verdict
from placid.store import RunDir, Segment, write_json

__all__ = ["Judge", "JudgeSettings", "LexicalJudge", "open_judge", "run"]

log = logging.getLogger(__name__)
GROUP = 256
"""Verdicts a group: one fsync each."""


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


def open_judge(settings: JudgeSettings) -> Judge:
    """The judge that the settings name.

    Raises:
        BadInputError: its lexicon cannot be read.
    """
    return LexicalJudge(settings)


def run(settings: JudgeSettings, run_dir: RunDir, prompts: Iterable[Prompt]) -> str:
    """Grade every turn of these prompts that has no verdict of this judge yet; returns the judge's id.

    Verdicts are appended in groups, so a killed run loses at most one group and the next run continues.

    Raises:
        BadInputError: an unreadable lexicon, or a damaged run directory.
    """
    judge = open_judge(settings)
    write_json(run_dir.path / "verdicts" / judge.id / "judge.json", judge.card())
    done = run_dir.verdicts(judge.id).keys()
    open_ones = [
        conversation
        for conversation in run_dir.conversations(prompts).values()
        if any((turn.key, turn.turn) not in done for turn in conversation.turns)
    ]
    if not open_ones:
        return judge.id
    with new_segment(run_dir, judge.id) as segment:
        count = asyncio.run(grade_into(judge, open_ones, done, segment))
    log.info("%s graded %d turns of %d conversations", judge.id, count, len(open_ones))
    return judge.id


async def grade_into(
    judge: Judge, conversations: list[Conversation], done: Iterable[object], segment: Segment[Verdict]
) -> int:
    """Append the verdicts that are not in `done` ((key, turn) pairs) in groups; returns how many."""
    seen = set(done)
    count = 0
    group: list[Verdict] = []
    for conversation in conversations:
        group += [verdict for verdict in await judge.grade(conversation) if (verdict.key, verdict.turn) not in seen]
        while len(group) >= GROUP:
            segment.append(*group[:GROUP])
            count += GROUP
            group = group[GROUP:]
    segment.append(*group)
    return count + len(group)


def new_segment(run_dir: RunDir, judge_id: str) -> Segment[Verdict]:
    """A verdict segment under the next free number, also when two processes ask at once."""
    folder = run_dir.path / "verdicts" / judge_id
    number = 1 + max((int(file.stem) for file in folder.glob("*.jsonl") if file.stem.isdigit()), default=0)
    while True:
        try:
            return run_dir.verdict_segment(judge_id, f"{number:04d}")
        except FileExistsError:  # another process took this number
            number += 1
