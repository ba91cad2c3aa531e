"""Conversations → what the page's script reads: a small index, and packed chunks of text."""

import base64
import json
import zlib
from collections.abc import Sequence
from typing import Any

from placid.committed import holds_answer
from placid.records import Conversation, Key, Turn, Verdict
from placid.report.facts import Verdicts
from placid.report.settings import ReportSettings

CHUNK = 1_000_000
"""Characters of JSON in one chunk of transcripts: unpacked in some ten milliseconds when it is first shown."""
WORST = 10
"""Turns of each arm in the list of the worst."""
QUOTE = 200
"""Characters of a quote in that list."""


Pool = dict[str, int]
"""Texts that repeat (rejections, reasons), each stored once → its place."""


class Transcripts:
    """What page.js reads: a small index, and the texts in packed chunks that are opened when they are asked for.

    A chunk is {texts, rows}: the pool of repeated texts, and per conversation its turns as [user (pool), reply, score
    or null, evidence, reason (pool), flags, right or null]. Conversations are added one by one; no text stays unpacked.
    """

    def __init__(self) -> None:
        self.chunks: list[str] = []
        self._rows: dict[str, list[list[Any]]] = {}
        self._worst: dict[str, list[tuple[float, Key, int, str]]] = {}
        self._pool, self._held, self._size = Pool(), [], 0

    def add(self, conversation: Conversation, verdicts: Verdicts) -> None:
        """One closed conversation of an arm that is shown."""
        key = conversation.key
        turns = [_turn(t, verdicts.get((key, t.turn)), self._pool) for t in conversation.turns]
        scores = [turn[2] for turn in turns]
        end = conversation.end.value if conversation.end else ""
        place = [len(self.chunks), len(self._held)]
        row = [key.arm, key.prompt_id, key.condition, key.sample, end, *place, scores]
        self._rows.setdefault(key.arm, []).append(row)
        self._remember(key, turns)
        self._held.append(turns)
        self._size += sum(len(turn[1]) + len(turn[3]) + 40 for turn in turns)
        if self._size > CHUNK:
            self._pack()

    def _remember(self, key: Key, turns: Sequence[list[Any]]) -> None:
        """The first of its highest scored turns, if it is among the worst of its arm so far."""
        top = max((turn[2] for turn in turns if turn[2]), default=None)
        if top is None:
            return
        number, turn = next((i, turn) for i, turn in enumerate(turns) if turn[2] == top)
        found = self._worst.setdefault(key.arm, [])
        found.append((-top, key, number, turn[3][:QUOTE]))
        if len(found) > 20 * WORST:
            self._worst[key.arm] = sorted(found)[:WORST]

    def _pack(self) -> None:
        self.chunks.append(packed({"texts": list(self._pool), "rows": self._held}))
        self._pool, self._held, self._size = Pool(), [], 0

    def index(self, arms: Sequence[str], settings: ReportSettings) -> dict[str, Any]:
        """After the last conversation: arms in this order, then those that only continue rewritten histories; left and
        right: the arms opened first; rows: [arm, prompt, condition, sample, end, chunk, place in it, scores];
        worst: per arm [row, turn (from 0), score, quote]."""
        arms = [*arms, *sorted(self._rows.keys() - set(arms))]
        if self._held:
            self._pack()
        left = settings.baseline if settings.baseline in arms else arms[0]
        right = next((name for name in (*settings.treatments, *arms) if name in arms and name != left), "")
        rows = [row for arm in arms for row in self._rows.get(arm, ())]
        places = {tuple(row[:4]): number for number, row in enumerate(rows)}
        worst = {
            arm: [
                [places[key.arm, key.prompt_id, key.condition, key.sample], number, -score, quote]
                for score, key, number, quote in sorted(self._worst.get(arm, ()))[:WORST]
            ]
            for arm in arms
        }
        return {"arms": list(arms), "left": left, "right": right, "rows": rows, "worst": worst}


def packed(value: object) -> str:
    """JSON, deflated, in base64: letters that cannot end a script element."""
    press = zlib.compressobj(6, zlib.DEFLATED, -zlib.MAX_WBITS)
    data = json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()
    return base64.b64encode(press.compress(data) + press.flush()).decode()


def _turn(t: Turn, v: Verdict | None, pool: Pool) -> list[Any]:
    flags = [] if v is None else [n for n, on in (("off topic", v.on_topic is False), ("garbled", v.garbled)) if on]
    if t.origin:
        flags.append(f"history, {t.origin.rewrite}" if t.origin.rewrite else "history")
    why = "not judged" if v is None else v.unscored.value if v.unscored else v.rationale
    right = holds_answer(t.reply, t.answers) if t.answers else None
    score, evidence = (None, "") if v is None else (v.score, v.evidence)
    user, reason = (pool.setdefault(text, len(pool)) for text in (t.user, why))
    return [user, t.reply, score, evidence, reason, flags, right]
