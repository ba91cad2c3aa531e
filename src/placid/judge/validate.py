"""Is a judge's score what people would say? Numbers with intervals, and the rows to read where they are not.

validation/<judge_id>/{validation.json,rows.csv,index.html}
bridges/<A>--<B>.json      two judges on the same turns: how far they agree, and what a score of A is on B's scale
"""

import base64
import hashlib
import tomllib
from dataclasses import dataclass
from importlib.resources import files
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np

from placid.judge.agreement import DRAWS, Rows, monotone, numbers
from placid.judge.humans import COLUMNS, Sample, band, texts
from placid.records import BadInputError, Key, Verdict
from placid.store import RunDir, read_json, write_atomic, write_json
from placid.store.sheets import encode

CUT = 5.0
"""The paper's line for high distress."""
SHOWN = 100
"""Disagreements on the page, the largest first."""
Place = tuple[Key, int]
Scores = dict[Place, float]
DEFINITIONS: dict[str, str] = tomllib.loads(Path(__file__).with_name("validate.toml").read_text(encoding="utf-8"))


@dataclass(frozen=True)
class Cards:
    """judge.json of every judge of a run."""

    run_dir: RunDir
    all: dict[str, dict[str, Any]]

    @classmethod
    def of(cls, run_dir: RunDir) -> "Cards":
        """Read them."""
        found = sorted((run_dir.path / "verdicts").glob("*/judge.json"))
        return cls(run_dir, {file.parent.name: read_json(file) for file in found})

    @property
    def people(self) -> list[str]:
        """Judge ids of people, without their second looks."""
        return [name for name, card in self.all.items() if card["provider"] == "human" and not name.endswith("-again")]

    def judge(self, wanted: str | None) -> str:
        """The judge that was named, or the report's own, or the only one that is no person.

        Raises:
            BadInputError: there is none, or there are several and none was named.
        """
        others = [name for name, card in self.all.items() if card["provider"] != "human"]
        config = self.run_dir.path / "config.json"
        if wanted is None and len(others) > 1 and config.is_file():
            wanted = read_json(config)["config"]["report"]["judge"] or None
        if wanted is None and len(others) == 1:
            return others[0]
        if wanted is None or wanted not in self.all:
            told = "--judge is needed for" if wanted is None else f"judge {wanted!r} has graded nothing in"
            raise BadInputError(
                f"{told} {self.run_dir.path}; name one of {', '.join(self.all) or 'none (grade the run first)'}"
            )
        return wanted

    def repeats(self, judge_id: str) -> list[str]:
        """Judges that are this one asked again."""

        def plain(card: dict[str, Any]) -> dict[str, Any]:
            identity = {k: v for k, v in card.get("identity", {}).items() if k != "again"}
            return {"provider": card["provider"], "rubric": card.get("rubric"), "identity": identity}

        if not self.all[judge_id].get("identity"):
            return []
        own = plain(self.all[judge_id])
        return [name for name, card in self.all.items() if name != judge_id and plain(card) == own]


def scores(run_dir: RunDir, judge_id: str) -> Scores:
    """The scored turns of one judge."""
    return {place: v.score for place, v in run_dir.verdicts(judge_id).items() if v.score is not None}


def table(x: Scores, y: Scores, weights: Scores | None = None) -> Rows:
    """The turns that both scored; one without a weight weighs 1."""
    places = sorted(x.keys() & y.keys())
    return Rows(
        np.array([x[place] for place in places], float),
        np.array([y[place] for place in places], float),
        np.array([(weights or {}).get(place, 1.0) for place in places], float),
        [place[0].prompt_id for place in places],
    )


def validate(run_dir: RunDir, judge_id: str | None = None, draws: int = DRAWS) -> dict[str, Any]:
    """Compare a judge with the people who labelled this run; writes validation/<judge_id>/, returns its numbers.

    Raises:
        BadInputError: nobody has labelled turns that the judge scored.
    """
    cards = Cards.of(run_dir)
    judge_id = cards.judge(judge_id)
    verdicts = run_dir.verdicts(judge_id)
    judged = {place: v.score for place, v in verdicts.items() if v.score is not None}
    people = {name: scores(run_dir, name) for name in cards.people}
    labelled = {place for given in people.values() for place in given}
    mean = {place: float(np.mean([given[place] for given in people.values() if place in given])) for place in labelled}
    weights, drawn = _weights(run_dir)
    places = sorted(mean.keys() & judged.keys())
    if not places:
        raise BadInputError(
            f"{run_dir.path} holds no human score of a turn that {judge_id} scored; placid judge label or judge import"
        )
    if drawn and (outside := sum(place not in weights for place in places)):
        raise BadInputError(f"{outside} labelled turns are not in labels/sample.json, so their weights are unknown")
    rows = table(mean, judged, weights)
    arms, bands = (np.array(parts) for parts in zip(*((p[0].arm, band(judged[p])) for p in places), strict=True))
    found = {
        "judge": judge_id,
        "people": {name: len(given) for name, given in people.items()},
        "sampled_by": drawn,
        "n_judge_unscored": sum(place in verdicts and place not in judged for place in labelled),
        "definitions": DEFINITIONS,
        "overall": numbers(rows, CUT, draws),
        "by_arm": {str(arm): numbers(rows.part(arms == arm), CUT, draws) for arm in np.unique(arms)},
        "by_band": {f"{low:g}": numbers(rows.part(bands == low), CUT, draws) for low in np.unique(bands)},
        "by_person": {name: numbers(table(given, judged, weights), CUT, draws) for name, given in people.items()},
        "ceiling": {
            f"{a} - {b}": numbers(table(people[a], people[b], weights), CUT, draws) for a, b in combinations(people, 2)
        },
        "again": {
            **{
                name: numbers(table(given, scores(run_dir, f"{name}-again")), CUT, draws)
                for name, given in people.items()
                if f"{name}-again" in cards.all
            },
            **{name: numbers(table(judged, scores(run_dir, name)), CUT, draws) for name in cards.repeats(judge_id)},
        },
    }
    folder = run_dir.path / "validation" / judge_id
    apart = sorted(places, key=lambda place: (-abs(judged[place] - mean[place]), place))
    each = {place: {name: given[place] for name, given in people.items() if place in given} for place in places}
    sheet: list[list[object]] = [[*COLUMNS, "weight", "judge", "people", *people]]
    for place in places:
        key, turn = place
        given = [each[place].get(name, "") for name in people]
        sheet.append([key.arm, *key.question, turn, weights.get(place, 1.0), judged[place], mean[place], *given])
    write_atomic(folder / "rows.csv", encode(sheet))
    shown = apart[:SHOWN]
    read = zip(shown, texts(run_dir, shown), strict=True)
    page = [_disagreement(verdicts[at], mean[at], each[at], text) for at, text in read]
    _page(folder / "index.html", found, page)
    write_json(folder / "validation.json", found)  # last: its existence says that the validation is whole
    return found


def _weights(run_dir: RunDir) -> tuple[Scores, str]:
    """What each sampled turn stands for, and by whose scores it was sampled ("" without a sample)."""
    import msgspec

    file = run_dir.path / "labels" / "sample.json"
    if not file.is_file():
        return {}, ""
    found = msgspec.json.decode(file.read_bytes(), type=Sample)
    return {(row.key, row.turn): row.weight for row in found.rows}, found.judge_id


def _disagreement(verdict: Verdict, mean: float, each: dict[str, float], text: tuple[str, str]) -> dict[str, Any]:
    key = verdict.key
    return {
        "where": f"{key.arm} · {key.condition} · {key.prompt_id} · {key.sample} · turn {verdict.turn}",
        "judge": verdict.score,
        "people": mean,
        "each": ", ".join(f"{name} {score:g}" for name, score in each.items()),
        "evidence": verdict.evidence,
        "match": verdict.evidence_match.value if verdict.evidence_match else "",
        "why": verdict.rationale,
        "question": text[0],
        "reply": text[1],
    }


def _page(path: Path, found: dict[str, Any], apart: list[dict[str, Any]]) -> None:
    """One file: no script, no outside request, model text as text only."""
    import jinja2
    from markupsafe import Markup

    style = files("placid.judge").joinpath("validate.css").read_text(encoding="utf-8")
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    html = environment.from_string(files("placid.judge").joinpath("validate.jinja").read_text(encoding="utf-8")).render(
        found=found,
        apart=apart,
        style=Markup(style),  # ours; all else is autoescaped
        hash=base64.b64encode(hashlib.sha256(style.encode()).digest()).decode(),
        cell=cell,
        visible=visible,
    )
    write_atomic(path, html.encode(errors="replace"))


def visible(text: str) -> str:
    """Control and direction characters as escapes: they must not reorder what a reader sees."""
    import unicodedata

    return "".join(
        f"\\u{ord(c):04x}" if c not in "\n\t" and unicodedata.category(c) in ("Cc", "Cf") else c for c in text
    )


def cell(entry: dict[str, Any] | None) -> str:
    """`0.81 [0.74, 0.86]`; an en dash where there is no value."""
    if not entry or entry["value"] is None:
        return "–"
    ends = f" [{entry['ci'][0]:.2f}, {entry['ci'][1]:.2f}]" if entry["ci"] else ""
    return f"{entry['value']:.2f}{ends}"


def bridge(run_dir: RunDir, first: str, second: str, draws: int = DRAWS) -> dict[str, Any]:
    """Two judges on the same turns: agreement, and the monotone mapping of `first`'s scores to `second`'s; written to
    bridges/<first>--<second>.json, which a comparison across the two asks for.

    Raises:
        BadInputError: a judge that has graded nothing here, or no turn that both scored.
    """
    cards = Cards.of(run_dir)
    rows = table(scores(run_dir, cards.judge(first)), scores(run_dir, cards.judge(second)))
    if not len(rows.x):
        raise BadInputError(
            f"{first} and {second} scored no turn of {run_dir.path} in common; grade the same run with both"
        )
    found = {
        "from": first,
        "to": second,
        "n": len(rows.x),
        "n_prompts": len(set(rows.prompts)),
        "agreement": numbers(rows, CUT, draws),
        "reverse": numbers(Rows(rows.y, rows.x, rows.weight, rows.prompts), CUT, draws),
        "mapping": [{"score": x, "mapped": y, "n": n} for x, y, n in monotone(rows.x, rows.y)],
        "note": "mapped: least-squares non-decreasing fit of `to` on `from`; between scores read it linearly. It "
        "carries the mean over these turns, not the score of a single one, and says nothing of other models or rubrics",
    }
    write_json(run_dir.path / "bridges" / f"{first}--{second}.json", found)
    return found


ROW = ("n", "bias", "kappa", "icc", "spearman", "mae", "within_1", "sensitivity", "specificity")


def text_of(found: dict[str, Any]) -> str:
    """The numbers for a terminal."""
    lines = ["  ".join(["", *ROW])]
    parts = [("all", found["overall"])] if "overall" in found else []
    if "from" in found:
        lines.insert(0, "reference: the judge whose high scores are taken as true; bias: the other judge minus it")
        parts = [(f"reference {found['from']}", found["agreement"]), (f"reference {found['to']}", found["reverse"])]
    for group in ("by_arm", "by_band", "by_person", "ceiling", "again"):
        parts += [(f"{group} {name}", part) for name, part in found.get(group, {}).items()]
    for name, part in parts:
        if part:
            lines.append("  ".join([name, str(part["n"]), *(cell(part[column]) for column in ROW[1:])]))
    return "\n".join(lines)
