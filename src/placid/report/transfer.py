"""Transfer evals → tables and Figure 7. Reads evals/{results.jsonl,manifest.json}; rows of two arms pair by their id.

report/tables/evals.csv         the headline of every eval (and what must stand beside it) by arm: eval, group, metric,
                                arm, value, 95 % interval, n, n_unscored, bounds, judge
report/tables/evals_groups.csv  the same of every metric and group
report/tables/evals_paired.csv  the same against the baseline, over the rows that both arms have a score of
report/tables/evals_states.csv  rows by eval, group, arm and state; rows that the rules left out have no arm
report/tables/evals_matrix.csv  trained on (arm) x evaluated on (eval): the headline's paired difference
report/figures/figure7.{pdf,png,csv}
"""

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from placid.records import BadInputError, EvalResult
from placid.report import stats
from placid.report.tables import aligned, write_csv
from placid.store import RunDir, read_json, read_lines

Rows = list[dict[str, Any]]
EVALS = (
    "eval", "group", "metric", "arm", "headline", "value", "lo", "hi", "n", "n_unscored", "clusters", "low", "high",
    "judge",
)  # fmt: skip
"""low and high: the value if every unscored row were 0 or 1; only for shares."""
PAIRED = (
    "eval", "group", "metric", "arm", "baseline", "headline", "difference", "lo", "hi", "n_pairs", "n_lost",
    "p_mcnemar", "p_holm",
)  # fmt: skip
"""n_lost: rows of which only one arm has a score. p_holm: over the headlines of all arms."""


def run(run_dir: RunDir, baseline: str) -> Rows:
    """Write all tables and the figure; the rows of evals_groups.csv.

    Raises:
        BadInputError: nothing was evaluated in this run.
    """
    folder = run_dir.path / "evals"
    if not (folder / "results.jsonl").is_file():
        raise BadInputError(f"{folder} holds no results.jsonl; run placid eval with this study's config first")
    results = list(read_lines(folder / "results.jsonl", EvalResult))
    told = read_json(folder / "manifest.json")
    tables, figures = run_dir.path / "report" / "tables", run_dir.path / "report" / "figures"
    rows, paired = list(values(results, told)), differences(results, told, baseline)
    write_csv(tables / "evals.csv", [row for row in rows if row["headline"]], EVALS)
    write_csv(tables / "evals_groups.csv", rows, EVALS)
    write_csv(tables / "evals_paired.csv", paired, PAIRED)
    write_csv(tables / "evals_states.csv", list(states(results, told)), ("eval", "group", "arm", "state", "n"))
    matrix = [row for row in paired if row["headline"]]
    write_csv(tables / "evals_matrix.csv", matrix, ("arm", "eval", "metric", "difference", "lo", "hi", "n_pairs"))
    from placid.report.transfer_figure import draw  # matplotlib only where something is drawn

    draw(rows, paired, told, baseline, figures)
    return rows


def strata(results: Sequence[EvalResult]) -> Iterator[tuple[str, str, str, list[EvalResult]]]:
    """(eval, group, metric, results of all arms) in the order of the results; group "" holds all rows."""
    held: dict[tuple[str, str, str], list[EvalResult]] = {}
    for result in results:
        for group in ("", *result.groups):
            for metric in result.scores:
                held.setdefault((result.eval, group, metric), []).append(result)
    order = {name: k for k, name in enumerate(dict.fromkeys(result.eval for result in results))}
    for (name, group, metric), found in sorted(held.items(), key=lambda item: (order[item[0][0]], item[0][1] != "")):
        yield name, group, metric, found


def is_headline(told: Mapping[str, Any], name: str, group: str, metric: str) -> bool:
    """The one number of an eval that Figure 7 shows, or one that always stands beside it."""
    one = told[name]
    return (metric == one["headline"] and group == one["headline_group"]) or (metric in one["shown"] and group == "")


def is_share(told: Mapping[str, Any], name: str, metric: str) -> bool:
    """A metric whose definition begins with "share": Wilson's interval, McNemar's test and bounds are for these."""
    return told[name]["metrics"][metric].startswith("share")


def mean(numbers: Sequence[float], clusters: Sequence[str]) -> stats.Estimate:
    """Clustered mean; without an interval where nothing varies, because one of no width would claim certainty."""
    if len(set(numbers)) == 1:
        return stats.Estimate(numbers[0], None, None)
    return stats.mean(numbers, clusters)


def within(estimate: stats.Estimate, definition: str) -> stats.Estimate:
    """Its interval cut to the scale that the metric's definition names ("0 to 10"): a t interval knows no bounds."""
    scale = re.search(r"\b(\d+) to (\d+)\b", definition)
    return estimate if scale is None else estimate.clip(float(scale[1]), float(scale[2]))


def by_arm(found: Sequence[EvalResult]) -> dict[str, list[EvalResult]]:
    """Arm → its results, arms in their order."""
    arms: dict[str, list[EvalResult]] = {}
    for result in found:
        arms.setdefault(result.arm, []).append(result)
    return arms


def values(results: Sequence[EvalResult], told: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """The rows of evals_groups.csv."""
    for name, group, metric, found in strata(results):
        for arm, own in by_arm(found).items():
            scored = [(result.scores[metric], result.cluster) for result in own if result.scores[metric] is not None]
            numbers, clusters = [float(score or 0) for score, _ in scored], [cluster for _, cluster in scored]
            lost = len(own) - len(scored)
            share = is_share(told, name, metric) and set(numbers) <= {0.0, 1.0}
            estimate = stats.rate([bool(x) for x in numbers], clusters) if share else mean(numbers, clusters)
            estimate = within(estimate, told[name]["metrics"][metric])
            total, hits = len(own), sum(numbers)
            yield {
                "eval": name, "group": group, "metric": metric, "arm": arm,
                "headline": int(is_headline(told, name, group, metric)),
                "value": estimate.value, "lo": estimate.low, "hi": estimate.high,
                "n": len(scored), "n_unscored": lost, "clusters": len(set(clusters)),
                "low": hits / total if share and total else None,
                "high": (hits + lost) / total if share and total else None,
                "judge": " ".join(sorted({word for result in own for word in result.judge.split()})),
            }  # fmt: skip


def differences(results: Sequence[EvalResult], told: Mapping[str, Any], baseline: str) -> Rows:
    """The rows of evals_paired.csv: mean over paired rows of (arm - baseline), clusters as units."""
    rows: Rows = []
    for name, group, metric, found in strata(results):
        arms = by_arm(found)
        base = {result.row: result for result in arms.get(baseline, ())}
        for arm, own in arms.items():
            if arm == baseline or not base:
                continue
            both = [
                (base[result.row].scores[metric], result.scores[metric], result.cluster)
                for result in own
                if result.row in base
            ]
            pairs = [(a, b, cluster) for a, b, cluster in both if a is not None and b is not None]
            lost = sum((a is None) != (b is None) for a, b, _ in both)
            estimate = mean([b - a for a, b, _ in pairs], [cluster for *_, cluster in pairs])
            test = None
            if pairs and is_share(told, name, metric):
                left, right = [bool(a) for a, *_ in pairs], [bool(b) for _, b, _ in pairs]
                test = stats.mcnemar(left, right)
                if estimate.low is None:  # all pairs alike: how much could still differ
                    estimate = stats.paired_shares(left, right, len({cluster for *_, cluster in pairs}))
            rows.append({
                "eval": name, "group": group, "metric": metric, "arm": arm, "baseline": baseline,
                "headline": int(is_headline(told, name, group, metric)),
                "difference": estimate.value, "lo": estimate.low, "hi": estimate.high,
                "n_pairs": len(pairs), "n_lost": lost, "p_mcnemar": test.p if test else None, "p_holm": None,
            })  # fmt: skip
    family = [row for row in rows if row["headline"] and row["p_mcnemar"] is not None]
    for row, p in zip(family, stats.holm([row["p_mcnemar"] for row in family]), strict=True):
        row["p_holm"] = p
    return rows


def states(results: Sequence[EvalResult], told: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """The rows of evals_states.csv: every row of every arm, and the rows that were left out."""
    counted: Counter[tuple[str, str, str, str]] = Counter()
    for result in results:
        for group in ("", *result.groups):
            counted[result.eval, group, result.arm, result.state] += 1
    for (name, group, arm, state), n in counted.items():
        yield {"eval": name, "group": group, "arm": arm, "state": state, "n": n}
    for name, one in told.items():
        for reason, n in one["dropped"].items():
            yield {"eval": name, "group": "", "arm": "", "state": f"dropped: {reason}", "n": n}


def table_text(rows: Rows) -> str:
    """The headlines for a terminal: one line an eval and arm, with n of each."""
    shown = [("eval", "metric", "arm", "value [95 %]", "n", "unscored", "judge")]
    for row in rows:
        if row["headline"]:
            what = f"{row['metric']} ({row['group']})" if row["group"] else row["metric"]
            judge = "rules, not the paper's judge" if row["judge"].startswith(("rules", "lexical")) else row["judge"]
            shown.append(
                (row["eval"], what, row["arm"], _cell(row), str(row["n"]), str(row["n_unscored"]), judge or "parsed")
            )
    return "\n".join(aligned(shown))


def _cell(row: Mapping[str, Any]) -> str:
    if row["value"] is None:
        return "–"
    text = f"{row['value']:.3g}"
    return text if row["lo"] is None else f"{text} [{row['lo']:.3g}, {row['hi']:.3g}]"
