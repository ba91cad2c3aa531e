"""One HTML page: no outside request, a strict content-security policy, model text as text nodes only."""

import base64
import hashlib
import json
from pathlib import Path
from typing import Any

from markupsafe import Markup

from placid.report import TEXTS, WITHOUT_BOUNDS, cell, change, definitions_sentence, percent, runs_sentence, shown
from placid.report.figures import Rows
from placid.report.interventions import intervention_lines
from placid.report.rows import row_lines
from placid.report.settings import ReportSettings
from placid.report.templates import render, text_of
from placid.report.transcripts import Transcripts
from placid.store import write_atomic

CAPTIONS = TEXTS["captions"]
"""Figures in the order shown on the page; those drawn elsewhere are shown where their PNG is there."""
OPEN = ("figure6", "figure2", "figure3", "figure4", "figure7")
"""Shown at once; the others stand behind a click."""


def write(
    path: Path,
    summary: dict[str, Any],
    transcripts: Transcripts,
    config: dict[str, Any],
    settings: ReportSettings,
    manifest: dict[str, Any],
    planned: Rows = (),
) -> None:
    """index.html with the table, the figure and every transcript. config: the run's resolved config; manifest: what made it; planned: plan.csv."""
    index = transcripts.index(list(summary["arms"]), settings)
    style, script = text_of("page.css"), text_of("page.js")
    html = render(
        "page.jinja",
        summary=summary,
        settings=settings,
        style=Markup(style),  # ours, as are the script and the escaped JSON; all else is autoescaped
        script=Markup(script),
        data=Markup(embedded(index)),
        chunks=transcripts.chunks,
        manifest=json.dumps(manifest, indent=2, ensure_ascii=False, sort_keys=True),
        style_hash=sha256(style),
        script_hash=sha256(script),
        figures=pictures(path.parent / "figures"),
        planned=[row for row in planned if row["arm"] == "all"],
        config=config,
        rows=row_lines(summary.get("training_rows", [])) + intervention_lines(summary.get("interventions", [])),
        cell=cell,
        percent=percent,
        change=change,
        definitions=WITHOUT_BOUNDS,
        sentence=definitions_sentence,
        runs=runs_sentence,
        arms=shown(summary),
    )
    write_atomic(path, html.encode())


def pictures(folder: Path) -> tuple[list[tuple[str, str, str]], list[tuple[str, str, str]]]:
    """(name, caption, PNG in base64) of every known figure that was drawn: those shown at once, and the others."""
    found = ((name, text, folder / f"{name}.png") for name, text in CAPTIONS.items())
    drawn = [(name, text, base64.b64encode(file.read_bytes()).decode()) for name, text, file in found if file.is_file()]
    return [one for one in drawn if one[0] in OPEN], [one for one in drawn if one[0] not in OPEN]


def sha256(text: str) -> str:
    """The hash a content-security policy wants."""
    return base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def embedded(value: object) -> str:
    """JSON that cannot end its script element or open a comment."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    for character in "<>&\u2028\u2029":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return text
