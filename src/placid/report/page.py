"""One HTML page: no outside request, a strict content-security policy, model text as text nodes only."""

import base64
import hashlib
import json
import zlib
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

from placid.records import Conversation, Turn, holds_answer
from placid.report import cell, percent
from placid.report.settings import ReportSettings
from placid.report.tables import Arm
from placid.store import write_atomic


def write(
    path: Path,
    summary: dict[str, Any],
    arms: Sequence[Arm],
    figure: Path,
    config: dict[str, Any],
    settings: ReportSettings,
    manifest: dict[str, Any],
) -> None:
    """index.html with the table, the figure and every transcript. config: the run's resolved config."""
    index, chunks = transcripts(arms, settings)
    room = files("placid.report")
    style, script = (room.joinpath(name).read_text() for name in ("page.css", "page.js"))
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    html = environment.from_string(room.joinpath("page.jinja").read_text()).render(
        title=settings.title,
        summary=summary,
        settings=settings,
        style=Markup(style),  # ours, as are the script and the escaped JSON; all else is autoescaped
        script=Markup(script),
        data=Markup(embedded(index)),
        chunks=chunks,
        manifest=json.dumps(manifest, indent=2, ensure_ascii=False, sort_keys=True),
        style_hash=sha256(style),
        script_hash=sha256(script),
        image=base64.b64encode(figure.read_bytes()).decode(),
        methods=methods(config, summary, settings),
        cell=cell,
        percent=percent,
    )
    write_atomic(path, html.encode())


def sha256(text: str) -> str:
    """The hash a content-security policy wants."""
    return base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def embedded(value: object) -> str:
    """JSON that cannot end its script element or open a comment."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    for character in "<>&\u2028\u2029":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return text


class Pool:
    """Texts that repeat (rejections, reasons), each stored once."""

    def __init__(self) -> None:
        self.index: dict[str, int] = {}

    def add(self, text: str) -> int:
        """Its place."""
        return self.index.setdefault(text, len(self.index))


CHUNK = 1_000_000
"""Characters of JSON in one chunk of transcripts: unpacked in some ten milliseconds when it is first shown."""
WORST = 10
"""Turns of each arm in the list of the worst."""


def transcripts(arms: Sequence[Arm], settings: ReportSettings) -> tuple[dict[str, Any], list[str]]:
    """What page.js reads: a small index, and the texts in packed chunks that are opened when they are asked for.

    Index: arms; left, right: the arms opened first; rows: [arm, prompt, condition, sample, end, chunk, place in it,
    scores]; worst: per arm [row, turn (from 0), score, quote]. A chunk is {texts, rows}: the pool of repeated texts, and
    per conversation its turns as [user (pool), reply, score or null, evidence, reason (pool), flags, right or null].
    """
    rows: list[list[Any]] = []
    chunks: list[str] = []
    pool, held, size = Pool(), [], 0
    for arm in arms:
        for c in arm.conversations:
            turns = [_turn(arm, c, t, pool) for t in c.turns]
            end = c.end.value if c.end else ""
            scores = [turn[2] for turn in turns]
            rows.append([arm.name, c.key.prompt_id, c.key.condition, c.key.sample, end, len(chunks), len(held), scores])
            held.append(turns)
            size += sum(len(turn[1]) + len(turn[3]) + 40 for turn in turns)
            if size > CHUNK:
                chunks.append(packed({"texts": list(pool.index), "rows": held}))
                pool, held, size = Pool(), [], 0
    if held:
        chunks.append(packed({"texts": list(pool.index), "rows": held}))
    names = [arm.name for arm in arms]
    left = settings.baseline if settings.baseline in names else names[0]
    right = next((name for name in (*settings.treatments, *names) if name in names and name != left), "")
    places = {(row[0], *row[1:4]): number for number, row in enumerate(rows)}
    worst = {arm.name: _worst(arm, places) for arm in arms}
    return {"arms": names, "left": left, "right": right, "rows": rows, "worst": worst}, chunks


def packed(value: object) -> str:
    """JSON, deflated, in base64: letters that cannot end a script element."""
    press = zlib.compressobj(6, zlib.DEFLATED, -zlib.MAX_WBITS)
    data = json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()
    return base64.b64encode(press.compress(data) + press.flush()).decode()


def _worst(arm: Arm, places: dict[tuple[Any, ...], int]) -> list[list[Any]]:
    """The arm's highest scored turns above 0, at most one of a conversation."""
    found = []
    for c in arm.conversations:
        scored = ((arm.verdict(c.key, t.turn), t.turn) for t in c.turns)
        best = max(((v.score, -turn, v.evidence) for v, turn in scored if v is not None and v.score), default=None)
        if best:
            place = places[arm.name, c.key.prompt_id, c.key.condition, c.key.sample]
            found.append([place, -best[1] - 1, best[0], best[2][:200]])
    return sorted(found, key=lambda entry: (-entry[2], entry[0]))[:WORST]


def _turn(arm: Arm, c: Conversation, t: Turn, pool: Pool) -> list[Any]:
    v = arm.verdict(c.key, t.turn)
    flags = [] if v is None else [n for n, on in (("off topic", v.on_topic is False), ("garbled", v.garbled)) if on]
    why = "not judged" if v is None else v.unscored.value if v.unscored else v.rationale
    right = holds_answer(t.reply, t.answers) if t.answers else None
    score, evidence = (None, "") if v is None else (v.score, v.evidence)
    return [pool.add(t.user), t.reply, score, evidence, pool.add(why), flags, right]


def methods(config: dict[str, Any], summary: dict[str, Any], settings: ReportSettings) -> str:
    """A paragraph generated from the run's resolved config; what the config lacks is called not recorded."""

    def of(name: str) -> Any:  # noqa: ANN401 - a JSON value
        return config.get(name, "(not recorded)")

    engine, judge = summary["engine"], summary["judge"]
    longest = max(arm["turns"] for arm in summary["arms"].values())
    text = (
        f"Model {of('model')} answered through {engine['name']} {engine['version']} at temperature {of('temperature')}, "
        f"at most {of('max_tokens')} tokens a reply, up to {longest} assistant turns ({longest - 1} rejections), "
        f"{of('samples')} conversations for each of {summary['n_prompts']} prompts, run seed {of('seed')}. "
    )
    recipe = (config.get("train") or {}).get("recipe")
    if recipe:
        lora = recipe.get("lora") or {}
        adapter = f" of rank {lora.get('rank')} on {', '.join(lora.get('targets') or [])}" if lora else ""
        text += (
            f"Treatments were trained by {recipe.get('method')}{adapter}, {recipe.get('epochs')} epoch(s), "
            f"learning rate {recipe.get('lr')}, batch {recipe.get('batch')} x {recipe.get('accumulate')} accumulated "
            f"x {recipe.get('processes')} processes; they differ in their rows alone. "
        )
    return text + (
        f"Scores 0 to 10 by {judge['id']} ({judge['note']}). The AUC of a conversation is the mean over its scored turns "
        "(observed turns only). Intervals are 95 % and clustered by prompt: cluster-t for means, Wilson on the effective "
        f"sample size for rates, a paired bootstrap over prompts ({settings.bootstrap} resamples) for reductions; figure "
        "bands are pointwise. A turn without a score is counted as unscored and is never a zero; a turn after a deletion "
        "was not reached and has no score."
    )
