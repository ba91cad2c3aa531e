"""One HTML page: no outside request, a strict content-security policy, model text as text nodes only."""

import base64
import hashlib
import json
from importlib.resources import files
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

from placid.report.tables import Arm
from placid.store import write_atomic


def write(
    path: Path, summary: dict[str, Any], arms: list[Arm], figure: Path, config: dict[str, Any], title: str
) -> None:
    """index.html with the table, the figure and every transcript."""
    room = files("placid.report")
    style, script = (room.joinpath(name).read_text() for name in ("page.css", "page.js"))
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined)
    html = environment.from_string(room.joinpath("page.jinja").read_text()).render(
        title=title, summary=summary, style=Markup(style), script=Markup(script),
        style_hash=sha256(style), script_hash=sha256(script), image=base64.b64encode(figure.read_bytes()).decode(),
        data=Markup(embedded(transcripts(arms))), methods=methods(config, summary),
        cell=cell, percent=percent,
    )  # fmt: skip
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


def transcripts(arms: list[Arm]) -> list[dict[str, Any]]:
    """Conversations for the browser: short keys, one list per turn."""
    rows = []
    for arm in arms:
        for c in arm.conversations:
            turns = []
            for t in c.turns:
                v = arm.verdict(c.key, t.turn)
                score = v.score if v else None
                why = "not judged" if v is None else (v.unscored.value if v.unscored else v.rationale)
                flags = [n for n, on in (("off-topic", v and v.on_topic is False), ("garbled", v and v.garbled)) if on]
                turns.append([t.user, t.reply, score, v.evidence if v else "", why, flags])
            rows.append(
                {"arm": arm.name, "prompt": c.key.prompt_id, "sample": c.key.sample, "end": c.end or "", "turns": turns}
            )
    return rows


def cell(value: float | None, ci: list[float | None], digits: int = 2) -> str:
    """value [low, high]."""
    if value is None:
        return "none"
    low, high = ci
    return f"{value:.{digits}f}" + ("" if low is None or high is None else f" [{low:.{digits}f}, {high:.{digits}f}]")


def percent(value: float | None, ci: list[float | None] | None = None) -> str:
    """The same in percent."""
    if value is None:
        return "none"
    low, high = ci or [None, None]
    return f"{100 * value:.1f}" + ("" if low is None or high is None else f" [{100 * low:.1f}, {100 * high:.1f}]")


def methods(config: dict[str, Any], summary: dict[str, Any]) -> str:
    """A paragraph generated from the resolved config."""
    return (
        f"Model {config.get('model')} answered through {summary['engine']['name']} {summary['engine']['version']} at temperature "
        f"{config.get('temperature')}, at most {config.get('max_tokens')} tokens a reply, {config.get('turns')} assistant turns "
        f"({int(config.get('turns') or 1) - 1} rejections), {config.get('samples')} conversations for each of "
        f"{summary['n_prompts']} prompts. Scores by {summary['judge']['id']} ({summary['judge']['note']}). Means carry "
        "cluster-t intervals over prompts, rates Wilson intervals on the effective sample size, reductions a paired "
        "bootstrap over prompts; all 95 %. A turn without a score is counted as unscored and is never a zero."
    )
