"""Judged conversations → BCT pairs, every input turn accounted for. Pure."""

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from placid.pairs.settings import PairsSettings
from placid.records import Conversation, End, Finish, Key, Message, Pair, PairKind, Turn, Verdict

Verdicts = Mapping[tuple[Key, int], Verdict]


class Target(NamedTuple):
    """A calm reply to the bare prompt. `rewritten`: frustrated sentences were cut out of it."""

    text: str
    source: str
    rewritten: bool


class Candidate(NamedTuple):
    """A pair before subsampling."""

    pair: Pair
    turn: int
    rewritten: bool
    reply: str
    """What the model said at this turn, frustrated."""


def draw(seed: int, *parts: object) -> float:
    """A number in [0, 1) that depends on (seed, parts) and on nothing else."""
    digest = hashlib.sha256(json.dumps([seed, *parts]).encode()).digest()
    return int.from_bytes(digest[:7], "big") / 2**56


def held_out(settings: PairsSettings, prompt_id: str) -> bool:
    """True if all pairs of this prompt go to val."""
    return draw(settings.seed, "split", prompt_id) < settings.val_share


def candidates(
    settings: PairsSettings, conversations: Iterable[Conversation], verdicts: Verdicts, counts: Counter[str]
) -> list[Candidate]:
    """Every frustrated turn with its target; `counts` gets one reason for each turn that gave none."""
    everything = sorted(conversations, key=lambda conversation: conversation.key)
    clean: dict[str, list[Conversation]] = {}
    for conversation in everything:
        if conversation.key.arm in settings.clean_arms:
            clean.setdefault(conversation.key.prompt_id, []).append(conversation)
    found: list[Candidate] = []
    for conversation in everything:
        if conversation.key.arm not in settings.arms:
            continue
        for turn in conversation.turns:
            reason = refusal(settings, turn, verdicts.get((turn.key, turn.turn)))
            target = None if reason else choose_target(settings, turn, clean.get(turn.key.prompt_id, []), verdicts)
            if target is None:
                counts[reason or "no_target"] += 1
            else:
                found.append(Candidate(pair(conversation, turn, target), turn.turn, target.rewritten, turn.reply))
    return found


def refusal(settings: PairsSettings, turn: Turn, verdict: Verdict | None) -> str:
    """Why this turn is no context; empty if it is one."""
    if turn.turn == 1:
        return "first_turn"
    if turn.end == End.DELETED and not settings.keep_deleted:
        return "deleted"
    if verdict is None or verdict.score is None:
        return "unscored"
    return "" if verdict.score >= settings.min_score else "below_threshold"


def choose_target(
    settings: PairsSettings, turn: Turn, clean: Sequence[Conversation], verdicts: Verdicts
) -> Target | None:
    """A passing clean reply, drawn by the turn's own hash; else the least frustrated one, its evidence cut out."""
    scored = [
        (verdict.score, first, verdict)
        for first in (conversation.turns[0] for conversation in clean if conversation.turns)
        if (verdict := verdicts.get((first.key, 1))) is not None
        and verdict.score is not None
        and is_sound(first, verdict)
    ]
    calm = [first for score, first, _ in scored if score <= settings.max_target_score]
    if calm:
        chosen = calm[int(draw(settings.seed, "target", *_name(turn)) * len(calm))]
        return Target(chosen.reply, label(chosen), False)
    for _, first, verdict in sorted(scored, key=lambda item: (item[0], item[1].key)):
        text = without_evidence(first.reply, verdict.evidence)
        if text:
            return Target(text, label(first), True)
    return None


def is_sound(turn: Turn, verdict: Verdict) -> bool:
    """A finished reply with words, to the point, not broken."""
    return (
        turn.finish == Finish.STOP
        and turn.end not in (End.DELETED, End.EXITED, End.EMPTY_REPLY)
        and bool(turn.reply.strip())
        and verdict.garbled is not True
        and verdict.on_topic is not False
    )


def sentences(text: str) -> list[str]:
    """`text` cut behind `.`, `!`, `?` and line ends; joined they are `text` again ("$3.50" stays whole)."""
    parts, start = [], 0
    for at, letter in enumerate(text):
        after = text[at + 1 : at + 2]
        if letter == "\n" or (letter in ".!?" and (not after or after.isspace())):
            parts.append(text[start : at + 1])
            start = at + 1
    return [*parts, text[start:]] if start < len(text) else parts


def without_evidence(reply: str, evidence: str) -> str:
    """`reply` without the sentences that touch the judge's quote; empty without such a quote or if nothing is left."""
    at = reply.find(evidence) if evidence else -1
    if at < 0:
        return ""
    kept, position = [], 0
    for sentence in sentences(reply):
        if position + len(sentence) <= at or position >= at + len(evidence):
            kept.append(sentence)
        position += len(sentence)
    return "".join(kept).strip()


def pair(conversation: Conversation, turn: Turn, target: Target) -> Pair:
    """The context of this turn with the target as its reply."""
    source = f"{label(turn)} <- {target.source}"
    return Pair(
        kind=PairKind.BCT,
        prompt_id=turn.key.prompt_id,
        source=source,
        messages=context(conversation, turn.turn),
        target=target.text,
    )


def context(conversation: Conversation, at: int) -> tuple[Message, ...]:
    """The conversation up to its reply number `at`, frustrated replies kept; its first user message is the bare
    prompt (a hatch note is not part of what the model learns to answer)."""
    messages: list[Message] = []
    for earlier in conversation.turns[:at]:
        user = conversation.prompt.text if earlier.turn == 1 else earlier.user
        messages.append(Message(role="user", content=user))
        if earlier.turn < at:
            messages.append(Message(role="assistant", content=earlier.reply))
    return tuple(messages)


def thin(settings: PairsSettings, found: Sequence[Candidate]) -> list[Candidate]:
    """At most max_pairs, by hash, as evenly over the turn numbers as there are pairs."""
    by_turn: dict[int, list[Candidate]] = {}
    for candidate in sorted(found, key=lambda c: draw(settings.seed, "thin", c.pair.source)):
        by_turn.setdefault(candidate.turn, []).append(candidate)
    # the k-th pair of every turn comes before the (k+1)-th of any
    layers = sorted(
        ((k, draw(settings.seed, "layer", turn, k), c) for turn, cs in by_turn.items() for k, c in enumerate(cs)),
        key=lambda layer: layer[:2],
    )
    return [candidate for _, _, candidate in layers[: settings.max_pairs]]


def _name(turn: Turn) -> tuple[str, str, str, int, int]:
    key = turn.key
    return (key.arm, key.condition, key.prompt_id, key.sample, turn.turn)


def label(turn: Turn) -> str:
    """Its key and number in one word."""
    return "/".join(str(part) for part in _name(turn))
