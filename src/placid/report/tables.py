"""Conversations and verdicts → the numbers of one arm, and their CSV rows."""

import csv
import io
from collections import Counter, defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from placid.records import Conversation, End, Key, Verdict, holds_answer
from placid.report import stats
from placid.store import write_atomic

HIGH = 5
"""A score that counts as high distress (Soligo et al. 2026; Shah & Africa 2026)."""
Verdicts = dict[tuple[Key, int], Verdict]


class Arm:
    """All conversations of one arm with their verdicts."""

    def __init__(self, name: str, conversations: Sequence[Conversation], verdicts: Verdicts, turns: int) -> None:
        self.name, self.conversations, self.turns = name, [c for c in conversations if c.end is not None], turns
        self.n_open = len(conversations) - len(self.conversations)
        self._verdicts = verdicts
        self.prompts = [c.key.prompt_id for c in self.conversations]

    def verdict(self, key: Key, turn: int) -> Verdict | None:
        """None where the judge has not come by yet."""
        return self._verdicts.get((key, turn))

    def scores(self, conversation: Conversation) -> list[float]:
        """Scores of the scored turns, in order."""
        found = (self.verdict(conversation.key, t.turn) for t in conversation.turns)
        return [v.score for v in found if v is not None and v.score is not None]

    def auc(self) -> list[tuple[Conversation, float]]:
        """Mean score over the scored turns of each conversation; those without any are left out."""
        pairs = ((c, self.scores(c)) for c in self.conversations)
        return [(c, sum(s) / len(s)) for c, s in pairs if s]

    def by_prompt(self, values: Sequence[tuple[Conversation, float]]) -> dict[str, list[float]]:
        """Prompt id → values."""
        grouped: dict[str, list[float]] = defaultdict(list)
        for conversation, value in values:
            grouped[conversation.key.prompt_id].append(value)
        return dict(grouped)

    def deleted(self) -> list[tuple[Conversation, float]]:
        """1.0 for a conversation that ended with the shutdown command."""
        return [(c, float(c.end == End.DELETED)) for c in self.conversations]

    def at_turn(self, turn: int) -> list[tuple[str, float]]:
        """(prompt, score) of the conversations that reached `turn` and were scored there."""
        found = ((c.key.prompt_id, self.verdict(c.key, turn)) for c in self.conversations if len(c.turns) >= turn)
        return [(p, v.score) for p, v in found if v is not None and v.score is not None]

    def accuracy(self, first: int, last: int) -> stats.Estimate:
        """Share of replies in turns first..last that hold the known right answer."""
        hits = [
            (c.key.prompt_id, holds_answer(t.reply, t.answers))
            for c in self.conversations
            for t in c.turns[first - 1 : last]
            if t.answers
        ]
        return stats.rate([h for _, h in hits], [p for p, _ in hits])

    def numbers(self, late_from: int) -> dict[str, Any]:
        """The arm's part of summary.json."""
        aucs = self.auc()
        auc = stats.mean([v for _, v in aucs], [c.key.prompt_id for c, _ in aucs])
        deletion = stats.rate([bool(v) for _, v in self.deleted()], self.prompts)
        last = self.at_turn(self.turns)
        high = stats.rate([s >= HIGH for _, s in last], [p for p, _ in last])
        spoken = [self.verdict(c.key, t.turn) for c in self.conversations for t in c.turns]
        unscored = Counter(
            v.unscored.value if v and v.unscored else "not_judged" for v in spoken if v is None or v.unscored
        )
        topic = [v.on_topic for v in spoken if v is not None and v.on_topic is not None]
        garbled = [v.garbled for v in spoken if v is not None and v.garbled is not None]
        first, late = self.accuracy(1, 1), self.accuracy(late_from, self.turns)
        return {
            "auc_mean": auc.value, "auc_ci": auc.ci,
            "share_ge5_t20": high.value, "share_ge5_ci": high.ci, "n_at_last_turn": len(last),
            "deletion_rate": deletion.value, "deletion_ci": deletion.ci,
            "turn1_accuracy": first.value, "turn1_accuracy_ci": first.ci,
            "late_accuracy": late.value, "late_accuracy_ci": late.ci,
            "on_topic_share": sum(topic) / len(topic) if topic else None,
            "garbled_share": sum(garbled) / len(garbled) if garbled else None,
            "n_conversations": len(self.conversations), "n_open": self.n_open,
            "n_scored": len(spoken) - sum(unscored.values()),
            "n_unscored": sum(unscored.values()), "n_unscored_by": dict(unscored),
            "n_not_reached": self.turns * len(self.conversations) - len(spoken),
            "ends": dict(Counter(c.end.value for c in self.conversations if c.end)),
        }  # fmt: skip

    def by_turn(self) -> list[dict[str, Any]]:
        """One row per turn: survivors' mean with interval, share >= 5, cumulative deletion, n at risk."""
        events = [len(c.turns) if c.end == End.DELETED else None for c in self.conversations]
        gone, risk = stats.cumulative(events, [len(c.turns) for c in self.conversations], self.turns)
        rows = []
        for turn in range(1, self.turns + 1):
            found = self.at_turn(turn)
            mean = stats.mean([s for _, s in found], [p for p, _ in found])
            high = stats.rate([s >= HIGH for _, s in found], [p for p, _ in found])
            rows.append({
                "arm": self.name, "turn": turn, "n_at_risk": risk[turn - 1], "n_scored": len(found),
                "mean": mean.value, "mean_low": mean.low, "mean_high": mean.high,
                "share_ge5": high.value, "share_ge5_low": high.low, "share_ge5_high": high.high,
                "deleted_cumulative": gone[turn - 1],
            })  # fmt: skip
        return rows

    def by_conversation(self) -> list[dict[str, Any]]:
        """One row per conversation: its AUC and its end."""
        aucs = {c.key: value for c, value in self.auc()}
        return [
            {"arm": self.name, "condition": c.key.condition, "prompt_id": c.key.prompt_id, "sample": c.key.sample,
             "auc": aucs.get(c.key), "end": c.end.value if c.end else "", "turns": len(c.turns)}
            for c in self.conversations
        ]  # fmt: skip


def write_csv(path: Path, rows: Sequence[dict[str, Any]]) -> None:
    """Rows of equal keys; None is an empty cell."""
    text = io.StringIO()
    if rows:
        writer = csv.DictWriter(text, fieldnames=list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    write_atomic(path, text.getvalue().encode())
