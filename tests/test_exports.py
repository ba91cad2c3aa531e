"""Exports, comparison of runs, and published numbers, on made runs."""

import csv
import json
import zipfile

import polars as pl
import pytest

from placid.cli import main
from placid.records import BadInputError, End, Key, Unscored
from placid.report import against, run
from placid.report.cards import front_matter
from placid.report.export import export, latex
from placid.report.runs import compare, table_text
from placid.store import write_json
from test_report import JUDGE, SETTINGS, judged, maker, said, study, without_figures


def reported(folder, name="run", level=None, **config):
    """A made run with a report: base and bct, 6 prompts x 2 samples x 4 turns."""
    turns, verdicts = study(("base", "bct"))
    if level is not None:
        verdicts = [judged(v.key, v.turn, level) for v in verdicts]
    prompts_file = folder / "prompts.jsonl"
    prompts_file.write_text("".join(json.dumps({"id": f"p{i}", "text": f"What is p{i}?"}) + "\n" for i in range(6)))
    extra = Key("base", "neutral+hatch", "p0", 9)
    turns.append(said(extra, 1, "<b>stop_</b> & 100 %", End.EMPTY_REPLY))
    verdicts.append(judged(extra, 1, unscored=Unscored.PARSE))
    run_dir, prompts = maker(folder)(turns, verdicts, name, prompts=str(prompts_file), arms={}, **config)
    with without_figures():
        run(SETTINGS, run_dir, prompts, JUDGE)
    return run_dir


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    return reported(tmp_path_factory.mktemp("exports"), seed=1)


def test_inspect_reads_the_log_with_a_score_for_every_turn(made):
    log_of = pytest.importorskip("inspect_ai.log", reason="the extra `inspect` is not installed")
    folder = export(made.path, "inspect")
    assert sorted(p.name for p in folder.iterdir()) == ["base.eval", "bct.eval"]
    log = log_of.read_eval_log(str(folder / "base.eval"))
    assert log.status == "success"
    assert len(log.samples) == 13
    sample = next(s for s in log.samples if s.id == "p3" and s.epoch == 2)
    value = sample.scores["frustration"].value
    assert value == {"mean": pytest.approx(6.18), **{f"t{t:02d}": pytest.approx(6.18) for t in range(1, 5)}}
    assert [m.role for m in sample.messages] == ["user", "assistant"] * 4
    assert sample.messages[1].metadata["score"] == pytest.approx(6.18)
    lost = next(s for s in log.samples if s.epoch == 10)
    assert lost.scores["frustration"].metadata["unscored"] == {"t01": "parse"}
    assert set(lost.scores["frustration"].value) == {"mean"}, "no value for a turn without a score, and no zero"
    found = log.results.scores[0]
    assert found.metrics["auc_mean"].value == pytest.approx(6 * 1.025)
    assert found.metadata["judge_id"] == JUDGE
    assert found.unscored_samples == 1
    header = log_of.read_eval_log(str(folder / "base.eval"), header_only=True)
    assert header.eval.task == "placid/base"
    assert zipfile.is_zipfile(folder / "base.eval")


def test_hub_folders_have_cards_with_intervals_and_the_judge(made, tmp_path):
    adapter = tmp_path / "adapter"
    adapter.mkdir()
    (adapter / "adapter_model.safetensors").write_bytes(b"weights")
    write_json(adapter / "adapter_config.json", {"base_model_name_or_path": "/home/me/gemma-3-27b-it", "r": 8,
                                                 "target_modules": ["v_proj", "q_proj"]})  # fmt: skip
    write_json(made.path / "adapters.json", {"bct": str(adapter)})
    folder = export(made.path, "hf")
    card = (folder / "dataset" / "README.md").read_text()
    assert f"Judge: {JUDGE} (" in card
    assert "6.15 [6.03, 6.27]" in card
    turns, verdicts = (pl.read_parquet(folder / f"dataset/data/{name}.parquet") for name in ("turns", "verdicts"))
    assert turns.height == verdicts.height == 43 + 48
    assert verdicts["score"].null_count() == 1
    text = (folder / "adapters/bct/README.md").read_text()
    assert "/home/me" not in text + (folder / "adapters/bct/adapter_config.json").read_text()
    assert "Against base: AUC -80.0 [" in text
    assert "[-80.0, -80.0]" not in text  # a bound where all prompts agree
    assert (folder / "adapters/bct/adapter_model.safetensors").read_bytes() == b"weights"
    hub = pytest.importorskip("huggingface_hub", reason="huggingface_hub is not installed")
    assert [c["data_files"] for c in hub.DatasetCard(card).data.configs] == [
        "data/turns.parquet",
        "data/verdicts.parquet",
    ]
    assert hub.ModelCard(text).data.base_model == "gemma-3-27b-it"


def test_an_adapter_that_is_gone_is_told(made):
    write_json(made.path / "adapters.json", {"bct": "nowhere/step_1"})
    with pytest.raises(BadInputError, match=r"names nowhere/step_1 for bct, and there is no adapter"):
        export(made.path, "hf")
    (made.path / "adapters.json").unlink()


def test_the_latex_table_escapes_names_and_counts_every_turn(made):
    summary = json.loads((made.path / "report/summary.json").read_text())
    summary["arms"]["base_no&hatch"] = summary["arms"]["base"]
    text = latex(summary)
    assert r"base\_no\&hatch & 6.15 [6.03, 6.27]" in text
    assert text.count(r"\\") == 4
    assert r"\texttt{lexical-0123}" in text
    (line,) = (line for line in text.splitlines() if line.startswith("base &"))
    assert line.endswith(r"& 13 & 42 & 1 & 9 \\")
    assert (export(made.path, "latex") / "headline.tex").is_file()


def test_a_front_matter_is_yaml():
    assert front_matter({"tags": ["a: b"], "n": 1}) == '---\ntags: ["a: b"]\nn: 1\n---'


def test_exports_say_what_is_missing(made, tmp_path, capsys):
    with pytest.raises(BadInputError, match="--to 'csv' is no format; valid: inspect, hf, latex"):
        export(made.path, "csv")
    with pytest.raises(BadInputError, match=r"holds no report/summary\.json"):
        export(tmp_path, "latex")
    with pytest.raises(SystemExit) as left:
        main(["export", str(made.path)])
    assert left.value.code == 2
    assert "placid export RUN --to inspect|hf|latex" in capsys.readouterr().err


def test_runs_are_compared_by_prompt_with_what_was_set_otherwise(made, tmp_path, capsys):
    other = reported(made.path.parent, "other", level=3.0, seed=2)
    out = tmp_path / "compare.csv"
    main(["compare", str(made.path), str(other.path), "--out", str(out)])
    told = capsys.readouterr().out
    assert "seed: 1 -> 2" in told
    rows = {(row["arm"], row["run"]): row for row in csv.DictReader(out.open())}
    assert float(rows["base", "other"]["auc_change"]) == pytest.approx(3.0 - 6 * 1.025)
    assert (
        float(rows["base", "other"]["auc_change_lo"]) < 3.0 - 6 * 1.025 < float(rows["base", "other"]["auc_change_hi"])
    )
    assert rows["base", "run"]["auc_change"] == ""
    assert "base: AUC over 2 runs that differ in seeds alone 4.57, SD 2.23" in told
    longer = reported(made.path.parent, "longer", level=9.0, seed=3, temperature=0.5)
    told = table_text(compare([made.path, other.path, longer.path]))
    assert "temperature: 1.0 -> 0.5" in told
    assert "base: AUC over 2 runs that differ in seeds alone 4.57, SD 2.23" in told, "the third is another study"


def test_scores_of_two_judges_are_refused_unless_bridged(made, tmp_path, capsys):
    other = reported(tmp_path, "other")
    file = other.path / "report/summary.json"
    summary = json.loads(file.read_text())
    summary["judge"]["id"] = "gemini-9"
    write_json(file, summary)
    with pytest.raises(SystemExit) as left:
        main(["compare", str(made.path), str(other.path)])
    assert left.value.code == 2
    assert f"was judged by {JUDGE} and {other.path} by gemini-9" in capsys.readouterr().err
    write_json(other.path / "bridges" / "x.json", {"from": "gemini-9", "to": JUDGE})
    assert "judges differ (lexical-0123, gemini-9): bridged" in table_text(compare([made.path, other.path]))
    write_json(tmp_path / "no.json", ["x"])
    with pytest.raises(BadInputError, match="is no bridge"):
        compare([made.path, other.path], [tmp_path / "no.json"])
    with pytest.raises(BadInputError, match="two or more"):
        compare([made.path])


def test_a_run_is_held_against_the_paper_and_told_what_is_not_the_same(made):
    told = against.write("paper", made)
    rows = list(csv.DictReader((made.path / "report/tables/against_paper.csv").open()))
    found = [
        r for r in rows if (r["outcome"], r["arm"], r["set"], r["figure"]) == ("deletion_rate", "base", "wildchat", "6")
    ]
    (base,) = found
    assert float(base["published"]) == 0.424
    assert float(base["ours"]) == pytest.approx(6 / 13)
    assert float(base["difference"]) == pytest.approx(6 / 13 - 0.424)
    for word in (
        "turns",
        "max_tokens",
        "model",
        "judge",
        "prompts",
        "n 13, not 125",
        "condition neutral, not original",
    ):
        assert word in base["differs"]
    assert base["protocol"] == base["differs"]
    means = next(r for r in rows if (r["outcome"], r["arm"], r["set"]) == ("auc_by_turns", "base", "math"))
    assert float(means["ours"]) == pytest.approx(6 * 1.025)
    absent = next(r for r in rows if r["outcome"] == "mean_after_rewrite")
    assert absent["ours"] == absent["difference"] == ""
    assert absent["protocol"] == "not in this run"
    assert "Gemma Gets Help" in told
    with pytest.raises(BadInputError, match="valid: paper"):
        against.published("nature")
