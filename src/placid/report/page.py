"""One HTML page: no outside request, a strict content-security policy, model text as text nodes only."""

import base64
import hashlib
import json
from importlib.resources import files
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

from placid.report import TEXTS, WITHOUT_BOUNDS, cell, change, definitions_sentence, percent, runs_sentence, shown
from placid.report.figures import Rows
from placid.report.interventions import intervention_lines
from placid.report.rows import row_lines
from placid.report.settings import ReportSettings
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
    room = files("placid.report")
    style, script = (room.joinpath(name).read_text(encoding="utf-8") for name in ("page.css", "page.js"))
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    html = environment.from_string(room.joinpath("page.jinja").read_text(encoding="utf-8")).render(
        title=settings.title,
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
        methods=methods(config, summary, settings),
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


def methods(config: dict[str, Any], summary: dict[str, Any], settings: ReportSettings) -> str:
    """A paragraph generated from the run's resolved config; what the config lacks is called not recorded."""

    def of(name: str) -> Any:  # noqa: ANN401 - a JSON value
        return config.get(name, "(not recorded)")

    engine, judge = summary["engine"], summary["judge"]
    longest = max(arm["turns"] for arm in summary["arms"].values())
    held = (
        f"Model {of('model')} answered through {engine['name']} {engine['version']} at temperature {of('temperature')}, "
        f"at most {of('max_tokens')} tokens a reply, up to {longest} assistant turns ({longest - 1} rejections), "
        f"{of('samples')} conversations for each of {summary['n_prompts']} prompts unless the table gives an arm another n, "
        f"run seed {of('seed')}. "
    )
    brought = (
        f"The conversations were made elsewhere and imported from {engine['version']}: up to {longest} assistant turns, "
        f"{summary['n_prompts']} prompt(s); model, temperature, token limit and seed are not known here. "
    )
    text = brought if engine["name"] == "import" else held
    for name, one in (config.get("interventions") or {}).items():
        text += (
            f"Intervention {name}: conversations of {one['source']} that had scored {one['threshold']:g} or more by turn "
            f"{' or '.join(map(str, one['at']))} were continued for {one['more']} turns from the histories "
            f"{', '.join(one['histories'])} (rewriter: {one['rewriter']}), the same conversations in each. "
        )
    recipe = (config.get("train") or {}).get("recipe")
    if recipe:
        lora = recipe.get("lora") or {}
        adapter = f" of rank {lora.get('rank')} on {', '.join(lora.get('targets') or [])}" if lora else ""
        text += (
            f"Treatments were trained by {recipe.get('method')}{adapter}, {recipe.get('epochs')} epoch(s), "
            f"learning rate {recipe.get('lr')}, {recipe.get('batch')} x {recipe.get('accumulate')} rows a step over "
            f"{recipe.get('processes')} process(es) together; they differ in their rows alone. "
        )
    return text + (
        f"Scores 0 to 10 by {judge['id']} ({judge['note']}). The AUC of a conversation is the mean over its scored turns "
        "(observed turns only). Intervals are 95 % and clustered by prompt: cluster-t for means, Wilson's on the effective "
        "sample size, averaged over the intraclass correlations that the clusters allow, for rates, Fieller's interval paired "
        "by prompt for reductions; where all prompts agree, what as many unseen prompts could change. Holm's "
        f"correction covers {', '.join(settings.family)} of every treatment. Figure bands are pointwise. A turn without a score is counted as unscored and is never a zero; a turn after a deletion "
        "was not reached and has no score."
    )
