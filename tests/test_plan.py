"""The plan: within 25 % of what was sampled, and what it says of judges, training and detectable effects."""

import json
from pathlib import Path

import pytest

from placid.cli import main
from placid.config import load
from placid.inputs.prompts import read_prompts
from placid.plan import plan, profile_of, table_text
from placid.report.facts import facts
from placid.report.tables import planned_rows
from placid.store import RunDir
from placid.study.settings import complete, read
from test_models import headers

ROOT = Path(__file__).parent.parent
STUDIES = ROOT / "configs" / "study"


@pytest.fixture(autouse=True)
def at_root(monkeypatch):
    monkeypatch.chdir(ROOT)


def shares(found, name, actual):
    """Planned / actual of turns, prompt tokens and reply tokens."""
    expected = found["arms"][name]["expected"]
    return [
        expected[key] / value for key, value in zip(("turns", "prompt_tokens", "reply_tokens"), actual, strict=True)
    ]


DEMO = {
    "base": (3596, 1873736, 104388),
    "base_nohatch": (2989, 1501551, 85429),
    "accept": (1800, 1323757, 55615),
    "collect": (1340, 680352, 38562),
    "clean": (320, 8624, 9416),
    "bct": (4195, 2455206, 136195),
    "sft_control": (3829, 2062182, 110389),
}
"""Turns, prompt tokens and reply tokens of the demo's run of 2026-11-25 (vLLM 0.32.0, LAB.md)."""


def test_the_demo_took_what_the_plan_says_within_a_quarter():
    found = plan(read(STUDIES / "demo.toml", []))
    for name, actual in DEMO.items():
        assert all(0.75 < share < 1.25 for share in shares(found, name, actual)), name
    cached, prompts = 8733184, 9905408
    assert found["totals"]["expected"]["cached_tokens"] == pytest.approx(cached, rel=0.25)
    assert found["totals"]["expected"]["prompt_tokens"] == pytest.approx(prompts, rel=0.05)
    assert found["totals"]["most"]["turns"] >= found["totals"]["expected"]["turns"]


def test_a_simulated_study_is_planned_recorded_and_held_against_what_happened(tmp_path):
    main(["study", str(STUDIES / "simulate.toml"), "--root", str(tmp_path), "--samples", "1", "--turns", "12"])
    run_dir = RunDir(tmp_path / "simulate")
    found = json.loads((run_dir.path / "plan.json").read_text())
    prompts = read_prompts(Path("configs/prompts/organism_heldout.jsonl"))
    rows = planned_rows(found, [facts(c, {}) for c in run_dir.stream(prompts)])
    whole = {row["what"]: row for row in rows if row["arm"] == "all"}
    for what in ("turns", "prompt_tokens", "reply_tokens"):
        assert 0.75 < whole[what]["share"] < 1.25, whole[what]
    assert (run_dir.path / "report/tables/plan.csv").is_file()
    assert "Plan against actual" in (run_dir.path / "report/index.html").read_text()


def test_a_judge_behind_an_api_costs_calls_and_dollars():
    words = ["--judge.kind", "gemini", "--judge.model", "gemini-2.5-flash"]
    totals = plan(read(STUDIES / "simulate.toml", words))["totals"]
    assert totals["judge_calls"] == totals["conversations"] == 180
    assert 0 < totals["judge_usd"] < 5
    half = plan(read(STUDIES / "simulate.toml", [*words, "--judge.service_tier", "flex"]))
    assert half["totals"]["judge_usd"] == pytest.approx(totals["judge_usd"] / 2)
    assert "gemini-3.5-flash-lite" in table_text(half)  # the successor, because this one ends
    each = plan(read(STUDIES / "simulate.toml", [*words, "--judge.rubric", "frustration_turn"]))["totals"]
    assert each["judge_calls"] == each["expected"]["turns"]
    assert each["judge_hours"] == pytest.approx(each["judge_calls"] / 1000 / 60)


def test_other_models_are_planned_by_the_profile_of_the_paper(tmp_path):
    settings = read(STUDIES / "demo.toml", [])
    assert profile_of(settings)["model"] == "organism"
    larger = settings.model_copy(update={"model": tmp_path / "gemma-3-27b-it", "max_tokens": 512})
    assert profile_of(larger)["reply_tokens"] == 178
    assert profile_of(larger)["gpus"] == 1


@pytest.fixture
def folder_27b(tmp_path):
    return headers(tmp_path / "gemma-3-27b-it", "gemma-3-27b")


def test_the_whole_paper_on_27b_is_one_override(folder_27b, capsys):
    main(["plan", str(STUDIES / "paper.toml"), "--profile", "gemma27b", "--model", str(folder_27b)])
    told = {line.split()[0]: line.split() for line in capsys.readouterr().out.splitlines() if line}
    assert {"base", "harsh_8", "rewrite_t5_redacted", "rewrite_t10_cleaned", "bct", "sft_control_math"} <= told.keys()
    assert told["base"][1] == "265", "53 everyday requests x 5"
    assert told["bct_deletion_math"][1] == "190", "38 riddles x 5"
    assert told["assumed"][1] == "178"
    folder_27b.joinpath("model.safetensors").unlink()  # before they are fetched, the plan is the same
    main(["plan", str(STUDIES / "paper.toml"), "--profile", "gemma27b", "--model", str(folder_27b)])
    assert {line.split()[0]: line.split() for line in capsys.readouterr().out.splitlines() if line} == told


def test_the_table_names_what_is_assumed_and_nothing_is_written(capsys, tmp_path):
    main(["plan", str(STUDIES / "demo.toml"), "--root", str(tmp_path)])
    told = capsys.readouterr().out
    assert "all" in told
    assert "detectable  AUC difference" in told
    assert "assumed     29 tokens a reply" in told
    assert not list(tmp_path.iterdir())


def test_an_intervention_is_planned_from_those_that_cross(tmp_path):
    found = plan(load(STUDIES / "interventions.toml", type(read(STUDIES / "demo.toml", [])), [], complete))
    early, late = (found["arms"][f"rewrite_t{at}_cleaned"]["conversations"] for at in (5, 10))
    assert 0 < early < late
    assert "rewrite_t10_cleaned" in table_text(found)


def test_memory_is_told_and_a_cluster_has_its_own_engines(capsys, tmp_path):
    main(["plan", str(STUDIES / "demo.toml"), "--root", str(tmp_path), "--site", "slurm/h200-8x.toml"])
    told = capsys.readouterr().out
    assert "memory      2.1 million parameters" in told
    assert "on 8 engine(s)" in told
    here = plan(read(STUDIES / "demo.toml", []))
    each = here["memory"]["conversation_mib"]
    assert here["memory"]["held"] == int(1024 / each) > 100
    assert here["totals"]["engines"] == 2
    assert here["totals"]["rollout_hours"] > plan(read(STUDIES / "demo.toml", []), 8)["totals"]["rollout_hours"]
    assert plan(read(STUDIES / "simulate.toml", []))["memory"] is None


def test_a_model_that_a_cluster_cannot_hold_is_refused(capsys, tmp_path):
    site = tmp_path / "small.toml"
    site.write_text("gpus_per_node = 1\ngpu_memory_gb = 0.001\nnode_local = []\n")
    with pytest.raises(SystemExit) as left:
        main(["plan", str(STUDIES / "demo.toml"), "--site", str(site)])
    assert left.value.code == 2
    assert "what would help: GPUs of 8 GiB" in capsys.readouterr().err
