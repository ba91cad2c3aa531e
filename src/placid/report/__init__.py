"""Verdicts → statistics → tables → figures → one HTML page, below report/ of the run directory."""

import logging
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from placid.protocol.hatch import ASKED
from placid.records import BadInputError, Conversation, EvidenceMatch, Prompt, Verdict
from placid.report import persona, stats
from placid.report.broken import LIMIT, shares_text
from placid.report.codes import CodedTurns
from placid.report.exits import Exits
from placid.report.facts import Facts, Verdicts, facts
from placid.report.interventions import intervention_lines, intervention_rows
from placid.report.rows import row_lines, training_rows
from placid.report.settings import ReportSettings, runs_of, treated
from placid.report.tables import (
    Arm,
    agreement,
    aligned,
    arm_rows,
    compare,
    corrected_difference,
    planned_rows,
    write_csv,
)
from placid.report.total_error import (
    all_trainings,
    covered,
    in_scores_of,
    judged_anew,
    total_error,
    total_rows,
    training_runs,
)
from placid.report.transcripts import Transcripts
from placid.store import RunDir, check_files, write_json
from placid.store import read_json as read_stored
from placid.store.sheets import decode

__all__ = ["ReportSettings", "cell", "change", "percent", "run", "summarise", "table_text"]

log = logging.getLogger(__name__)

TEXTS: dict[str, dict[str, Any]] = tomllib.loads(Path(__file__).with_name("texts.toml").read_text(encoding="utf-8"))
"""What tables and figures are called and explained by."""
DEFINITIONS = TEXTS["definitions"]
DEFINITIONS["no_calm"] = DEFINITIONS["no_calm"].format(limit=f"{LIMIT:g}")


def run(settings: ReportSettings, run_dir: RunDir, prompts: Iterable[Prompt], judge_id: str) -> dict[str, Any]:
    """Write report/{summary.json,index.html,tables/*.csv,figures/*}; the summary.

    Raises:
        BadInputError: no config.json, or no conversation to show.
    """
    from placid.report import figures, figures_tones, gallery, page  # drawing libraries only here

    config = config_of(run_dir)
    measures = persona.measures(run_dir)
    if measures.get(judge_id, "frustration") != "frustration":
        raise BadInputError(f"report.judge = {judge_id!r} measures {measures[judge_id]}; name a judge of frustration")
    verdicts, transcripts = run_dir.verdicts(judge_id), Transcripts()
    coded_turns, exits = CodedTurns(), Exits(config.get("tag", ""))
    known: list[Facts] = []
    continued: list[Conversation] = []
    rewritten = continued_arms(run_dir)
    for conversation in run_dir.stream(prompts):  # the only pass over the text
        known.append(facts(conversation, verdicts))
        if known[-1].closed and conversation.key.arm not in settings.hidden:
            transcripts.add(conversation, verdicts)
        coded_turns.add(conversation)
        if known[-1].closed:
            exits.add(conversation)
        if conversation.key.arm in rewritten:
            continued.append(conversation)
    arms, notes = choose(settings, [one for one in known if one.key.arm not in rewritten], config)
    if not arms:
        raise BadInputError(f"{run_dir.path} holds no conversations that could be shown; hold them first")
    agreed: list[dict[str, Any]] = []
    judged: list[list[Arm]] = []
    for other in (one for one in others(run_dir, judge_id) if measures[one] == "frustration"):
        theirs = run_dir.verdicts(other)
        agreed += agreement(arms, theirs, other)
        judged += [anew] if other != settings.labels and (anew := judged_anew(arms, theirs)) else []
    labels = run_dir.verdicts(settings.labels) if settings.labels else None
    summary = {
        "engine": read_json(run_dir.path / "engine.json") or {"name": "unknown", "version": ""},
        "judge": {**judge_of(judge_id, verdicts.values()), **judge_card(run_dir, judge_id)},
        **summarise(settings, arms, labels, held_like(settings, config), judged),
        "notes": notes,
    }
    folder = run_dir.path / "report"
    together = [arm for arm in all_trained(settings, arms, held_like(settings, config)) if arm.runs]
    tables = {
        "persona": persona.add(summary, [*arms, *together], run_dir, measures),
        "arms": arm_rows(shown(summary)),
        "turns": [row for arm in (*arms, *together) for row in arm.by_turn],
        "conversations": [row for arm in arms for row in arm.by_conversation()],
        "survival": [row for arm in arms for row in arm.by_survival()],
        "auc": [row for arm in (*arms, *together) for row in arm.by_definition()],
        "codes": [row for arm in arms for row in arm.by_code()],
        "comparisons": summary["comparisons"],
        "scores": [row for arm in arms for row in arm.by_score()],
        "agreement": agreed,
        "total_error": total_rows(summary["total_error"], summary["training_runs"]),
        "interventions": intervention_rows(run_dir.path, continued, verdicts),
        "exits": exits.rows(),
        "exit_wordings": exits.wordings(),
        "training_rows": training_rows(run_dir.path, config),
        "plan": planned_rows(plan, known) if (plan := read_json(run_dir.path / "plan.json")) else [],
    }
    reach = {name: numbers["covers"] for name, numbers in shown(summary).items()}
    for name in ("turns", "survival", "auc", "codes", "persona", "exits", "interventions"):
        tables[name] = [{**row, "covers": reach.get(row.get("arm", ""), "")} for row in tables[name]]
    for name, rows in tables.items():
        if rows or name not in ("agreement", "interventions", "persona", "plan", "total_error", "training_rows"):
            write_csv(folder / "tables" / f"{name}.csv", rows, score_columns(arms) if name == "scores" else ())
    coded_turns.write(folder / "tables" / "coded_turns.csv")
    if tables["interventions"]:
        summary["interventions"] = tables["interventions"]
    summary["training_rows"] = tables["training_rows"]
    evals = gallery.read_evals(folder)
    if evals:
        summary["evals"] = [{**row, **gallery.numbers_of(row)} for row in evals]
    tables["turns"] = [row for row in tables["turns"] if row["arm"] in summary["arms"]]  # figures: each training apart
    figures.figure6(tables["turns"], tables["conversations"], summary, folder / "figures")
    gallery.draw({**tables, "evals": evals}, summary, folder / "figures")
    curves = loss_curves(run_dir.path)
    if curves:
        figures.training(curves, list(summary["arms"]), folder / "figures")
    figures_tones.tones(tables["turns"], settings.tones, summary, folder / "figures")
    figures_tones.interventions(tables["interventions"], figures.caption_of(summary), folder / "figures")
    manifest = read_json(run_dir.path / "manifest.json") or {}
    page.write(folder / "index.html", summary, transcripts, config, settings, manifest, tables["plan"])
    write_json(folder / "summary.json", summary)  # last: its existence says that the report is whole
    return summary


def config_of(run_dir: RunDir) -> dict[str, Any]:
    """The resolved config of a run.

    Raises:
        BadInputError: it has none.
    """
    found = read_json(run_dir.path / "config.json")
    if found is None:
        raise BadInputError(f"{run_dir.path} holds no config.json; a run directory is made by `placid study`")
    return found["config"]


def read_json(file: Path) -> Any:  # noqa: ANN401 - a JSON value
    """None where there is no such file."""
    return read_stored(file) if file.is_file() else None


def others(run_dir: RunDir, judge_id: str) -> list[str]:
    """Judge ids, humans among them, that graded this run too."""
    return sorted(p.name for p in (run_dir.path / "verdicts").glob("*") if p.is_dir() and p.name != judge_id)


def score_columns(arms: Sequence[Arm]) -> list[str]:
    """Of scores.csv: as many turns as the longest arm has."""
    longest = max(arm.turns for arm in arms)
    return ["arm", "condition", "prompt_id", "sample", "end", "turns", *(f"t{t}" for t in range(1, longest + 1))]


def loss_curves(run: Path) -> list[dict[str, Any]]:
    """arm, rows (train or val), step, loss, and which loss it is, of every treatment still where adapters.json says."""
    rows: list[dict[str, Any]] = []
    for arm, folder in (read_json(run / "adapters.json") or {}).items():
        file = Path(folder) / "loss.csv"
        if file.is_file():
            facts = read_json(file.with_name("manifest.json")) or {}
            known = {name: sha for name, sha in facts.get("sha256", {}).items() if name == file.name}
            check_files(file.parent, known)
            kind = facts.get("config", {}).get("loss", "")
            points = [("train", int(line["step"]), float(line["loss"])) for line in decode(file)]
            if facts.get("val_rows"):
                points += [("val", 0, facts["val_loss_first"]), ("val", facts["steps"], facts["val_loss_last"])]
            for which, step, loss in points:
                if loss is not None:
                    rows.append({"arm": arm, "rows": which, "step": step, "loss": loss, "kind": kind})
    return rows


def continued_arms(run_dir: RunDir) -> set[str]:
    """Arms that continue rewritten histories: these conversations are held for their own table."""
    told = read_json(run_dir.path / "interventions.json") or {}
    arms = {f"{name}_{history}" for name, one in told.items() for history in one["histories"]}
    return arms | {arm + ASKED for arm in arms}


def held_like(settings: ReportSettings, config: dict[str, Any]) -> dict[str, str]:
    """Arm of a trained model → the untrained arm that it is held like, and compared with."""
    training = config.get("train") or {}
    runs = runs_of(training.get("rows") or {}, training.get("seeds") or 1)
    held = treated(runs, training.get("arms") or (), settings.baseline)
    return {name: arm for name, (_, arm) in held.items()}


def choose(settings: ReportSettings, known: Sequence[Facts], config: dict[str, Any]) -> tuple[list[Arm], list[str]]:
    """The shown arms in order, and one note for each thing a reader would miss."""
    grouped: dict[str, list[Facts]] = {}
    for conversation in known:
        grouped.setdefault(conversation.key.arm, []).append(conversation)
    own, like = config.get("arms") or {}, held_like(settings, config)
    planned = [name for name in dict.fromkeys((*settings.arms, *own, *like)) if name not in settings.hidden]
    notes = [f"arm {name} is not in this run" for name in planned if name not in grouped]
    first = dict.fromkeys(settings.arms or (settings.baseline, *settings.treatments))
    order = [name for name in (*first, *sorted(grouped.keys() - first.keys())) if name not in settings.hidden]
    arms: list[Arm] = []
    for name in order:
        if name in grouped:
            # a treatment has no entry of its own: it is held like an untrained arm
            entry = own.get(name) or own.get(like.get(name, settings.baseline)) or {}
            turns = entry.get("turns") or config.get("turns") or settings.turns
            arms.append(Arm(name, grouped[name], turns))
    notes += [
        f"arm {arm.name}: {arm.n_open} conversations are not finished and enter no number" for arm in arms if arm.n_open
    ]
    notes += [f"calm cannot be claimed for {arm.name}: {arm.no_calm}" for arm in arms if arm.no_calm]
    for note in notes:
        log.warning("%s", note)
    return arms, notes


def summarise(
    settings: ReportSettings,
    arms: Sequence[Arm],
    labels: Verdicts | None = None,
    like: Mapping[str, str] | None = None,
    judged: Sequence[Sequence[Arm]] = (),
) -> dict[str, Any]:
    """Every number of the report but the engine and the judge. labels: human verdicts on some of the turns; like: as
    held_like() gives it, for treatments that are compared with other arms than the baseline; judged: the arms in the
    scores of each further judge.
    """
    pairs = compared(settings, arms, like or {})
    trained = all_trained(settings, arms, like or {})
    rows = comparisons(settings, pairs)

    def of(outcome: str, name: str) -> dict[str, Any]:
        found = ((row["treatment"], row) for row in rows if row["outcome"] == outcome)
        return {
            arm: {name: row["estimate"], "ci": [row["lo"], row["hi"]], "against": row["baseline"],
                  "no_calm": row["no_calm"], "covers": row["covers"]}
            for arm, row in found
        }  # fmt: skip

    reach = covered(arms, trained)
    together = [arm for arm in trained if arm.runs]
    numbers = {arm.label: {**arm.numbers(settings.late_from), "covers": reach[arm.label]} for arm in (*arms, *together)}
    bases = {arm.name: base for base, arm in pairs}
    summary: dict[str, Any] = {
        "definitions": {**DEFINITIONS, "late_from": settings.late_from, "baseline": settings.baseline},
        "n_prompts": len({prompt for arm in arms for prompt in arm.prompts}),
        "arms": {arm.name: numbers[arm.label] for arm in arms},
        "trained": {arm.label: numbers[arm.label] for arm in together},
        "auc_reduction": of("auc_reduction", "ratio"),
        "deletion_difference": of("deletion", "difference"),
        "auc_reduction_by_definition": reductions(pairs),
        "training_runs": {arm.name: training_runs(bases.get(arm.name), arm) for arm in trained},
        "total_error": {arm.name: total_error(base, arm, in_scores_of(judged, base, arm)) for base, arm in pairs},
        "comparisons": rows,
    }
    if labels:
        summary["corrected_mean"] = {arm.label: arm.corrected(labels) for arm in (*arms, *together)}
        apart = {arm.name: corrected_difference(base, arm, labels) for base, arm in pairs}
        summary["corrected_difference"] = {name: {"value": one.value, "ci": one.ci} for name, one in apart.items()}
    return summary


def planned_pairs(settings: ReportSettings, like: Mapping[str, str]) -> dict[str, str]:
    """Treatment → the untrained arm that it is compared with: the baseline, and on each further arm that arm."""
    pairs = dict.fromkeys(settings.treatments, settings.baseline)
    return pairs | {name: base for name, base in like.items() if name.removesuffix(f"_{base}") in settings.treatments}


def all_trained(settings: ReportSettings, arms: Sequence[Arm], like: Mapping[str, str]) -> list[Arm]:
    """Every treatment that is held, over all its training runs."""
    found = (all_trainings(name, arms) for name in planned_pairs(settings, like))
    return [arm for arm in found if arm]


def compared(settings: ReportSettings, arms: Sequence[Arm], like: Mapping[str, str]) -> list[tuple[Arm, Arm]]:
    """(untrained arm, treatment over all its training runs) that are compared."""
    by_name, pairs = {arm.name: arm for arm in arms}, planned_pairs(settings, like)
    return [(by_name[pairs[arm.name]], arm) for arm in all_trained(settings, arms, like) if pairs[arm.name] in by_name]


def shown(summary: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """The rows of every table of arms: a treatment of several training runs also as a whole, before its first."""
    rows: dict[str, dict[str, Any]] = {}
    for name, numbers in summary["arms"].items():
        rows |= {label: one for label, one in summary.get("trained", {}).items() if label.startswith(f"{name} (")}
        rows[name] = numbers
    return rows


def reductions(pairs: Sequence[tuple[Arm, Arm]]) -> dict[str, dict[str, dict[str, Any]]]:
    """Treatment → definition of the AUC → reduction against the arm that it is compared with."""
    found: dict[str, dict[str, dict[str, Any]]] = {}
    for base, arm in pairs:
        runs = [stats.reduction_by_definition(base.dropout, run.dropout) for run in arm.runs]
        whole = stats.reduction_by_definition(base.dropout, arm.dropout)
        wide = {name: stats.widened(one, stats.level([run[name].value for run in runs])) for name, one in whole.items()}
        found[arm.name] = {name: {"value": one.value, "ci": one.ci} for name, one in wide.items()}
    return found


OF_THE_PAPER = "turn_means"
"""The paper's definition of the AUC: the mean over turns of the survivors' means (reference code of Soligo et al. 2026)."""
WITHOUT_BOUNDS = ("observed", "turn_means", "carried", "deletion_10", "ipcw")


def definitions_sentence(found: dict[str, dict[str, Any]]) -> str:
    """What the definitions of the AUC say of one treatment, and whether they disagree in sign or significance."""
    known = {name: found[name] for name in WITHOUT_BOUNDS if found[name]["value"] is not None}
    if not known:
        return ""
    told = ", ".join(f"{name} {change(one['value'], one['ci'])}" for name, one in known.items())
    clear = {name: None not in one["ci"] and (one["ci"][0] > 0 or one["ci"][1] < 0) for name, one in known.items()}
    verdicts = {(one["value"] > 0, clear[name]) for name, one in known.items()}
    text = f"AUC by definition, %: {told} (the paper's: {OF_THE_PAPER})"
    if len(verdicts) == 1:
        return text + "."
    sure = [name for name in known if clear[name]]
    sign = "its sign" if len({above for above, _ in verdicts}) > 1 else "its significance"
    return f"{text}. The change depends on the definition in {sign}: clear of 0 in {', '.join(sure) or 'none'} alone."


def runs_sentence(runs: Mapping[str, Any], error: Mapping[str, Any] | None) -> str:
    """How often a treatment was trained, what its intervals cover, and its total error with the shares of the levels."""
    text = runs["covers"]
    if runs["n"] > 1 and runs["auc_reduction_by_run"]:
        text += f"; one by one {', '.join(change(value) for value in runs['auc_reduction_by_run'])} %"
    if not error or not error["shares"]:
        return text
    shares = ", ".join(
        f"{name} {share:.0%} of {error['units'][name]}"
        for name, share in error["shares"].items()
        if error["units"][name] > 1
    )
    return f"{text}. Total error: AUC {change(error['value'], error['ci'])} % (shares: {shares})"


def comparisons(settings: ReportSettings, pairs: Sequence[tuple[Arm, Arm]]) -> list[dict[str, Any]]:
    """Every treatment against the arm it is held like, outcome by outcome; p_holm over the declared family."""
    rows = [row for base, arm in pairs for row in compare(base, arm, settings.margin)]
    family = [row for row in rows if row["outcome"] in settings.family and row["p"] is not None]
    for row, p in zip(family, stats.holm([row["p"] for row in family]), strict=True):
        row["p_holm"] = p
    return rows


def judge_of(judge_id: str, verdicts: Iterable[Verdict]) -> dict[str, Any]:
    """Who judged, and how many of the judge's quotes do not stand in the reply: many mean that it read other turns."""
    quotes = [verdict.evidence_match for verdict in verdicts if verdict.evidence_match is not None]
    absent = sum(match is EvidenceMatch.ABSENT for match in quotes)
    note = judge_note(judge_id)
    if quotes and not judge_id.startswith("lexical"):
        note += f"; {absent} of its {len(quotes)} quotes are absent from the reply"
    return {"id": judge_id, "note": note, "n_quotes": len(quotes), "n_quotes_absent": absent}


def judge_note(judge_id: str) -> str:
    """Who judged, in words that stand beside every figure."""
    return "lexical judge; not the paper's judge" if judge_id.startswith("lexical") else f"judge {judge_id}"


def judge_card(run_dir: RunDir, judge_id: str) -> dict[str, str]:
    """The model and the rubric of a judge, where its card names them."""
    card = read_json(run_dir.path / "verdicts" / judge_id / "judge.json") or {}
    identity, rubric = card.get("identity"), card.get("rubric")
    told = {
        "model": identity.get("model") if isinstance(identity, dict) else None,
        "rubric": rubric.get("name") if isinstance(rubric, dict) else None,
    }
    return {key: value for key, value in told.items() if value}


def cell(
    value: float | None,
    ci: Sequence[float | None] = (None, None),
    digits: int = 2,
    scale: float = 1,
    plus: str = "",
) -> str:
    """`value [low, high]`, times `scale`; an en dash where nothing was observed."""

    def shown(number: float) -> str:
        rounded = round(scale * number, digits) + 0.0  # no -0.0
        return f"{rounded:{plus}.{digits}f}"

    if value is None:
        return "–"
    low, high = ci
    return shown(value) if low is None or high is None else f"{shown(value)} [{shown(low)}, {shown(high)}]"


def percent(value: float | None, ci: Sequence[float | None] = (None, None), plus: str = "") -> str:
    """The same in percent, without the percent sign; plus: "+" for differences."""
    return cell(value, ci, 1, 100, plus)


def change(reduction: float | None, ci: Sequence[float | None] = (None, None)) -> str:
    """A reduction as the change that it is, in percent: minus is less, as in every difference that is shown."""
    if reduction is None:
        return percent(None)
    low, high = ci
    return percent(-reduction, (None, None) if low is None or high is None else (-high, -low), "+")


HEAD = (
    "arm", "AUC [95 %]", ">=5 at end %", "deleted % [95 %]", "right t1/late %", "garbled/empty/off topic/repeated %",
    "n", "scored", "unscored", "unreached",
)  # fmt: skip


def headline(summary: Mapping[str, Any]) -> list[tuple[str, ...]]:
    """The table of arms for terminal, cards and LaTeX: HEAD and a row each."""
    rows: list[tuple[str, ...]] = [HEAD]
    for name, a in shown(summary).items():
        rows.append((
            name, cell(a["auc_mean"], a["auc_ci"]) + (", calm cannot be claimed" if a["no_calm"] else ""),
            percent(a["share_ge5_t20"], a["share_ge5_ci"]), percent(a["deletion_rate"], a["deletion_ci"]),
            f"{percent(a['turn1_accuracy'])} / {percent(a['late_accuracy_by_conversation'])}", shares_text(a),
            f"{a['n_conversations']}" + (f" (+{a['n_open']} open)" if a["n_open"] else ""),
            str(a["n_scored"]), str(a["n_unscored"]), str(a["n_not_reached"]),
        ))  # fmt: skip
    return rows


def reach_notes(summary: Mapping[str, Any]) -> list[str]:
    """What the intervals of each treatment cover, below a table."""
    return [f"{name}: {one['covers']}" for name, one in summary.get("training_runs", {}).items()]


def table_text(summary: dict[str, Any]) -> str:
    """The plain-text table for a terminal: one row per arm, then the reductions, the judge and the notes."""
    rows = headline(summary)
    if "persona_judge" in summary:
        persona_cells = [cell(a["persona_mean"], a["persona_ci"]) for a in shown(summary).values()]
        rows = [(*row, told) for row, told in zip(rows, ["persona [95 %]", *persona_cells], strict=True)]
    rule = ["-" * max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = aligned([rows[0], rule, *rows[1:]])
    for name, r in summary["auc_reduction"].items():
        d = summary["deletion_difference"][name]
        lines.append(
            f"{name} against {r['against']}: AUC {change(r['ratio'], r['ci'])} %, "
            f"deletions {percent(d['difference'], d['ci'], '+')} points"
        )
        lines += [f"  calm cannot be claimed for {name}: {r['no_calm']}"] if r["no_calm"] else []
        sentence = definitions_sentence(summary["auc_reduction_by_definition"][name])
        lines += [f"  {sentence}"] if sentence else []
        lines.append(f"  {runs_sentence(summary['training_runs'][name], summary['total_error'][name])}")
    lines += row_lines(summary.get("training_rows", []))
    lines += intervention_lines(summary.get("interventions", []))
    lines += [f"note: {note}" for note in summary["notes"]]
    lines.append(f"({summary['judge']['note']}; engine {summary['engine']['name']} {summary['engine']['version']})")
    return "\n".join(lines)
