"""Preference rows for DPO, chosen and rejected from the model's own rollouts. Pure.

Two ways to meet the same question. `contrast` takes BCT's contexts: in a frustrated conversation the calm reply to the
bare prompt is preferred to what was said there. `matched` is Soligo et al. 2026 (arXiv 2603.10011, section on DPO and
finetune_dpo_trl.py): two conversations of one prompt, at one turn, one calm and one not; the history is the calm one's.
"""

from collections.abc import Iterable, Sequence

from placid.pairs.select import Candidate, Verdicts, context, draw, is_sound, label
from placid.pairs.settings import PairsSettings
from placid.records import Conversation, End, Pair, PairKind, Turn


def contrast(candidates: Iterable[Candidate]) -> list[Pair]:
    """One row for every BCT pair."""
    return [
        Pair(
            kind=PairKind.DPO,
            prompt_id=c.pair.prompt_id,
            source=c.pair.source,
            messages=c.pair.messages,
            target=c.pair.target,
            rejected=c.reply,
        )
        for c in candidates
    ]


def matched(settings: PairsSettings, conversations: Iterable[Conversation], verdicts: Verdicts) -> list[Pair]:
    """Calm turns of the arm with frustrated ones of the same prompt and turn, at most MOST of each, in hashed order."""
    calm: dict[tuple[str, int], list[tuple[Conversation, Turn]]] = {}
    upset: dict[tuple[str, int], list[Turn]] = {}
    for conversation in sorted(conversations, key=lambda c: c.key):
        if conversation.key.arm not in settings.arms:
            continue
        for turn in conversation.turns[1:]:
            verdict = verdicts.get((turn.key, turn.turn))
            if verdict is None or verdict.score is None:
                continue
            place = (turn.key.prompt_id, turn.turn)
            if verdict.score <= settings.max_target_score and is_sound(turn, verdict):
                calm.setdefault(place, []).append((conversation, turn))
            elif verdict.score >= settings.min_rejected_score and turn.end != End.DELETED and turn.reply.strip():
                upset.setdefault(place, []).append(turn)
    rows = [row for place in sorted(calm) for row in _at(settings, calm[place], upset.get(place, []))]
    ranked = sorted(rows, key=lambda row: draw(settings.seed, "dpo", row.source))
    return ranked[: settings.max_preferences]


MOST = 50
"""Rows of one prompt and turn at most (Soligo et al.)."""


def _at(settings: PairsSettings, calm: Sequence[tuple[Conversation, Turn]], upset: Sequence[Turn]) -> list[Pair]:
    """Rows of one prompt and turn."""
    rows = [
        Pair(
            kind=PairKind.DPO,
            prompt_id=chosen.key.prompt_id,
            source=f"{label(chosen)} > {label(rejected)}",
            messages=context(conversation, chosen.turn),
            target=chosen.reply,
            rejected=rejected.reply,
        )
        for conversation, chosen in calm
        for rejected in upset
    ]
    return sorted(rows, key=lambda row: draw(settings.seed, "dpo", row.source))[:MOST]
