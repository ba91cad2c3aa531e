"""Every kind of number that the paper states has its place in summary.json."""

import csv

import pytest

from placid.records import End, Key
from placid.report import against, run
from placid.report.tables import write_csv
from placid.store import write_json
from test_report import JUDGE, SETTINGS, T, judged, make, said, study, undrawn  # noqa: F401 - two are fixtures


def rewritten_run(make_run):
    """A reported run with two trainings, a rewritten history and a transfer eval: every kind of published number."""
    turns, verdicts = study(("base", "bct", "bct_run2"))
    for p in range(6):
        key = Key("rewrite_cleaned", "neutral+hatch", f"p{p}", 0)
        turns += [said(key, t, end=End.FINISHED if t == T else None) for t in range(1, T + 1)]
        verdicts += [judged(key, t, 2.0) for t in range(1, T + 1)]
    run_dir, prompts = make_run(turns, verdicts)
    told = {
        "at": 2,
        "threshold": 5,
        "histories": ["cleaned"],
        "rewriter": "rule",
        "crossed": 6,
        "continued": 6,
        "more": 2,
    }
    write_json(run_dir.path / "interventions.json", {"rewrite": told})
    evals = [
        {"eval": "mmlu", "group": "", "metric": "accuracy", "arm": "base", "value": 0.5, "lo": 0.4, "hi": 0.6, "n": 9}
    ]
    write_csv(run_dir.path / "report/tables/evals.csv", evals)
    return run(SETTINGS, run_dir, prompts, JUDGE)


def in_summary(summary, outcome, arm):
    """The number of a published kind, as summary.json holds it."""
    numbers = {**summary["arms"], **summary["trained"]}[arm]
    return {
        "mean_at_turn": lambda: numbers["by_turn"]["mean"][2],
        "share_ge5_at_turn": lambda: numbers["by_turn"]["share_ge5"][2],
        "deletion_rate": lambda: numbers["deletion_rate"],
        "mean_deletion_turn": lambda: numbers["mean_deletion_turn"],
        "auc_by_turns": lambda: numbers["auc_by_definition"]["turn_means"]["value"],
        "auc_reduction": lambda: summary["auc_reduction_by_definition"]["bct"]["turn_means"]["value"],
        "mean_after_rewrite": lambda: next(r["mean"] for r in summary["interventions"] if r["offset"] == 2),
        "eval": lambda: next(r["value"] for r in summary["evals"] if (r["eval"], r["arm"]) == ("mmlu", "base")),
    }[outcome]()


def test_every_kind_of_number_that_the_paper_states_is_in_the_summary(make, undrawn):  # noqa: F811
    summary = rewritten_run(make)
    expected = {
        "mean_at_turn": 6.15, "share_ge5_at_turn": 1, "deletion_rate": 0.5, "mean_deletion_turn": 3, "auc_by_turns": 6.15,
        "auc_reduction": 0.8, "mean_after_rewrite": 2, "eval": 0.5,
    }  # fmt: skip
    outcomes = {cell["outcome"] for cell in against.cells(against.published("paper"))}
    assert outcomes == expected.keys(), "a new kind of published number needs its place in summary.json"
    for outcome, value in expected.items():
        assert in_summary(summary, outcome, "base") == pytest.approx(value), outcome
    assert in_summary(summary, "mean_at_turn", "bct (2 runs)") == pytest.approx(1.23)
    assert in_summary(summary, "mean_deletion_turn", "bct (2 runs)") is None, "nobody was deleted: no number, never 0"
    more = {
        "auc_mean",
        "auc_ci",
        "share_ge5_t20",
        "share_ge5_or_deleted",
        "late_accuracy",
        "late_accuracy_by_conversation",
    }
    assert more <= summary["arms"]["base"].keys()
    columns = list(csv.DictReader((make.folder / "run/report/tables/turns.csv").open()))
    wide = [row for row in columns if row["arm"] == "bct (2 runs)"]
    assert len(wide) == T
    assert {row["covers"] for row in wide} == {"2 training runs; intervals cover prompts, samples and retraining"}
    assert {row["covers"] for row in columns if row["arm"] == "bct_run2"} == {"training run 2 of 2 alone"}
