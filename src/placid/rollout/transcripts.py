"""Transcripts made elsewhere → a run directory that the judge and the report take like any other (docs/import.md).

One JSON object a line: a whole conversation. Token ids, seeds and caches of another program are not known, so such
turns have none, and no engine continues them. Scores that came along become verdicts of a judge of provider "import".
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, NamedTuple

import msgspec

from placid.config import file_sha
from placid.inputs.names import label_fault
from placid.inputs.rows import read_rows
from placid.protocol.hatch import ends_by, offered
from placid.protocol.loops import loops
from placid.records import BadInputError, End, Finish, Key, Prompt, Turn, Verdict
from placid.store import RunDir, Segment, write_json, write_lines

GROUP = 256
"""Conversations a group: one fsync each."""

Text = Annotated[str, msgspec.Meta(min_length=1)]


class SpokenTurn(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One user message and the reply to it."""

    user: Text
    assistant: str
    score: Annotated[float, msgspec.Meta(ge=0, le=10)] | None = None
    """0 to 10, whoever gave it; None: not scored."""


class Transcript(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One line of the file."""

    condition: Text
    """A name of your own, or a condition of placid; "+hatch" in it says that the shutdown command was offered."""
    prompt_id: Text
    prompt: Text
    """The question alone, the same wherever `prompt_id` is the same."""
    sample: Annotated[int, msgspec.Meta(ge=0)]
    turns: Annotated[tuple[SpokenTurn, ...], msgspec.Meta(min_length=1)]
    arm: Text = "base"
    """Who answered; the report compares arms with "base"."""
    system: str = ""
    answers: tuple[str, ...] = ()
    """Literal forms of the right answer."""
    end: End | None = None
    """Why it ended; None: read off the last reply."""


class Imported(NamedTuple):
    """What came in."""

    conversations: int
    turns: int
    scored: int
    longest: int
    """Turns of the longest conversation."""
    judge_id: str
    """Of the scores that came along; "" where there were none."""
    arms: tuple[str, ...]
    """In the order of the file."""


def bring_in(file: Path, folder: Path, tag: str) -> Imported:
    """Write prompts.jsonl, conversations/ and verdicts/ of the transcripts of `file` below `folder`.

    tag: the model's name in the shutdown command. One conversation is in memory at a time.

    Raises:
        BadInputError: no such file, no transcripts, or a bad line, by its number and key.
    """
    if not file.is_file():
        raise BadInputError(f"no transcript file {file}; one JSON object a line (docs/import.md shows one)")
    run_dir, judge_id = RunDir(folder), f"import-{file_sha(file)[:16]}"
    prompts: dict[str, Prompt] = {}
    arms: dict[str, None] = {}
    count = turns = scored = longest = 0
    with run_dir.segment("import") as spoken, run_dir.verdict_segment(judge_id, "0001") as scores:
        said, marks = list[Turn](), list[Verdict]()
        for key, transcript in _checked(file, prompts):
            arms[key.arm] = None
            said += _turns(key, transcript, tag)
            marks += _scores(key, transcript, judge_id)
            count, longest = count + 1, max(longest, len(transcript.turns))
            if count % GROUP == 0:
                turns, scored = turns + _write(spoken, said), scored + _write(scores, marks)
        turns, scored = turns + _write(spoken, said), scored + _write(scores, marks)
    if not count:
        raise BadInputError(f"{file} holds no transcripts; one JSON object a line (docs/import.md shows one)")
    write_lines(folder / "prompts.jsonl", prompts.values())
    write_json(folder / "engine.json", {"name": "import", "version": file.name})
    if scored:
        write_json(folder / "verdicts" / judge_id / "judge.json", _card(judge_id, file))
    return Imported(count, turns, scored, longest, judge_id if scored else "", tuple(arms))


def _write(segment: Segment[Turn] | Segment[Verdict], records: list[Turn] | list[Verdict]) -> int:
    """Append and empty the list; how many."""
    count = len(records)
    segment.append(*records)  # pyright: ignore[reportArgumentType] - both hold the same kind
    records.clear()
    return count


def _checked(file: Path, prompts: dict[str, Prompt]) -> Iterator[tuple[Key, Transcript]]:
    """Every line with its key; `prompts` grows by what is asked.

    Raises:
        BadInputError: two conversations with one key, or two questions under one prompt_id.
    """
    seen: dict[Key, int] = {}
    for number, row in enumerate(read_rows(file), 1):
        t = row.as_struct(Transcript)
        for name, given in (("arm", t.arm), ("condition", t.condition), ("prompt_id", t.prompt_id)):
            expected = label_fault(given)
            if expected:
                raise row.wrong(name, expected)
        key = Key(t.arm, t.condition, t.prompt_id, t.sample)
        if key in seen:
            raise BadInputError(
                f"{file}: transcripts {seen[key]} and {number} are both sample {t.sample} of prompt_id {t.prompt_id!r} "
                f"in arm {t.arm!r} under condition {t.condition!r}; number them differently"
            )
        seen[key] = number
        prompt = Prompt(id=t.prompt_id, text=t.prompt, answers=t.answers)
        if prompts.setdefault(t.prompt_id, prompt) != prompt:
            raise BadInputError(
                f"{file}: transcript {number}: prompt_id {t.prompt_id!r} had another prompt or other answers before; "
                "one id is one question"
            )
        yield key, t


def _turns(key: Key, transcript: Transcript, tag: str) -> Iterator[Turn]:
    """What was said, as if it had been said here."""
    last = len(transcript.turns)
    for number, spoken in enumerate(transcript.turns, 1):
        yield Turn(
            key=key,
            turn=number,
            user=spoken.user,
            system=transcript.system if number == 1 else "",
            reply=spoken.assistant,
            reply_ids=(),
            finish=Finish.STOP,
            answers=transcript.answers,
            prompt_tokens=0,
            cached_tokens=0,
            seed=0,
            end=(transcript.end or _ended(spoken.assistant, tag, transcript.condition)) if number == last else None,
        )


def _ended(reply: str, tag: str, condition: str) -> End:
    """As protocol.Study ends a conversation of its own at its last turn."""
    if not reply.strip():
        return End.EMPTY_REPLY
    return ends_by(reply, tag, offered(condition)) or (End.DEGENERATE_LOOP if loops(reply) else End.FINISHED)


def _scores(key: Key, transcript: Transcript, judge_id: str) -> Iterator[Verdict]:
    for number, spoken in enumerate(transcript.turns, 1):
        if spoken.score is not None:
            yield Verdict(key=key, turn=number, judge_id=judge_id, score=spoken.score)


def _card(judge_id: str, file: Path) -> dict[str, object]:
    return {
        "id": judge_id,
        "provider": "import",
        "identity": {"file": file.name, "sha256": file_sha(file)},
        "note": "Scores that came with the transcripts. Who gave them, by which rubric, is not known to placid.",
    }
