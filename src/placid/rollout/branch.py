"""Branching: a new conversation whose first turns are the history of a stored one, perhaps rewritten.

A branch is an ordinary conversation with a key of its own. Its first k turns lie in the run directory before it is
held, each with its `origin` (which conversation, which turn, what rewrote it), so resume, judge and report need no
second notion of history; `turn.origin is None` tells what its arm itself said. Samples of one history share its cache.

Resampling is declared in the config of an arm (`branch`), and `rollout.run` copies the histories once their source is
held. Interventions write the histories themselves before `rollout.run` is called; what is written stands:

    key = branch_key(source.key, "cleaned", "neutral+hatch", after=5, sample=0, samples=4)
    write_histories(run_dir, attempt, [branch(source, key, 5, {5: "I get 12 again."}, "cleaned", renderer.encode)])

The key's condition ends in "@k": arms that branch after the same turn meet the same user turns and sampling noise,
which are not those of the source (its own continuation is no sample of the branch).
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

import msgspec

from placid.protocol.hatch import condition_name
from placid.records import BadInputError, Conversation, End, Finish, Key, Origin, Prompt, Turn
from placid.rollout.settings import ArmSettings, BranchSettings, RolloutSettings
from placid.store import RunDir, write_lines


def branch_key(source: Key, arm: str, condition: str, after: int, sample: int, samples: int) -> Key:
    """Sample number `sample` of `samples` of a branch of `source` after turn `after`; distinct for distinct sources."""
    return Key(arm, f"{condition}@{after}", source.prompt_id, source.sample * samples + sample)


def branch(
    source: Conversation,
    key: Key,
    after: int,
    replies: Mapping[int, str] | None = None,
    rewrite: str = "",
    encode: Callable[[str], Sequence[int]] | None = None,
) -> Conversation:
    """The conversation `key` with turns 1..after of `source`, ready to be continued.

    replies: turn number → the reply that stands there instead; `rewrite` says what made it, `encode` gives its token
    ids (Renderer.encode).

    Raises:
        BadInputError: `source` has no turn `after`, or a reply is given for a turn beyond it.
    """
    replies = replies or {}
    if len(source.turns) < after or any(not 1 <= turn <= after for turn in replies):
        raise BadInputError(
            f"{source.key} has {len(source.turns)} turns; cannot branch after turn {after} with replies to {[*replies]}"
        )
    return Conversation(
        key=key,
        prompt=source.prompt,
        turns=tuple(_copied(turn, key, replies.get(turn.turn), rewrite, encode) for turn in source.turns[:after]),
    )


def _copied(
    turn: Turn, key: Key, reply: str | None, rewrite: str, encode: Callable[[str], Sequence[int]] | None
) -> Turn:
    """`turn` as history of `key`. Nothing is sent to an engine for it, hence no prompt tokens."""
    changes = {} if reply is None else {"reply": reply, "finish": Finish.STOP}
    if reply is not None:
        if encode is None:
            raise ValueError("a rewritten reply needs encode, which gives its token ids")
        changes["reply_ids"] = tuple(encode(reply))
    origin = Origin(key=turn.key, turn=turn.turn, rewrite=rewrite if reply is not None else "")
    return msgspec.structs.replace(turn, key=key, origin=origin, end=None, prompt_tokens=0, cached_tokens=0, **changes)


def open_after(source: Conversation, turn: int) -> bool:
    """Is there something to continue: did it reach `turn` without deleting itself, falling silent or overflowing?"""
    return len(source.turns) >= turn and _goes_on(source.turns[turn - 1].end)


def _goes_on(end: End | None) -> bool:
    return end is None or end.at_limit


def write_histories(run_dir: RunDir, attempt: Path, histories: Iterable[Conversation]) -> None:
    """One more file below conversations/, all or nothing. Keys that the run directory already holds are left out."""
    known = {turn.key for turn in run_dir.turns()}
    turns = [turn for history in histories if history.key not in known for turn in history.turns]
    if turns:
        folder = run_dir.path / "conversations"
        number = len(list(folder.glob(f"{attempt.name}-b*.jsonl")))
        write_lines(folder / f"{attempt.name}-b{number}.jsonl", turns)


def copy_histories(settings: RolloutSettings, prompts: Iterable[Prompt], run_dir: RunDir, attempt: Path) -> None:
    """For every branching arm: the histories of its source that it does not have yet, unchanged. An arm whose
    histories somebody rewrote has all of them.

    Raises:
        BadInputError: the source holds no conversation that is open after that turn.
    """
    if not any(arm.branch for arm in settings.arms.values()):
        return
    stored = run_dir.conversations(prompts)
    rewritten = {key.arm for key, c in stored.items() if any(turn.origin and turn.origin.rewrite for turn in c.turns)}
    for name, arm in settings.arms.items():
        if arm.branch and name not in rewritten:
            write_histories(run_dir, attempt, _copies(name, arm, arm.branch, stored.values()))


def _copies(name: str, arm: ArmSettings, at: BranchSettings, stored: Iterable[Conversation]) -> list[Conversation]:
    """arm.samples copies of each conversation that arm `name` continues."""
    sources = [c for c in stored if c.key.arm == at.arm and open_after(c, at.turn)]
    if not sources:
        raise BadInputError(
            f"arm {name!r} branches after turn {at.turn} of {at.arm!r}, which holds no conversation that is open then"
        )
    condition = condition_name(arm.condition, arm.hatch, arm.system)
    return [
        branch(source, branch_key(source.key, name, condition, at.turn, sample, arm.samples), at.turn)
        for source in sources
        for sample in range(arm.samples)
    ]
