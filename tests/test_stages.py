"""The order of stages is written once: everything that shows or runs them loops over the same list."""

import json
import tomllib
from pathlib import Path

import pytest

from placid.cli import all_commands
from placid.jobs import stages as jobs_of
from placid.plan import plan
from placid.records import BadInputError
from placid.study import stages
from placid.study.settings import read
from test_study import ROOT, config, placid

STUDIES = sorted((ROOT / "configs/study").glob("*.toml"))
TOY = """
from pathlib import Path

from placid.study.stages import Estimate, Stage


def count(study):
    turns = sum(1 for file in study.run_dir.segments() for _ in file.open("rb"))
    (study.run_dir.path / "count.txt").write_text(str(turns), encoding="utf-8")


def missing(study):
    return "" if (study.run_dir.path / "count.txt").is_file() else "a count"


STAGE = Stage(
    "count", "count", "how many turns there are", count, missing, estimate=lambda *_: Estimate(calls=12345)
)
BEFORE = "report"
"""


@pytest.fixture
def toy(tmp_path, monkeypatch):
    """A stage in a file of the user's own."""
    file = tmp_path / "count.py"
    file.write_text(TOY)
    monkeypatch.setenv("PLACID_STAGES", str(file))
    return file


def test_a_stage_of_the_users_own_stands_in_help_plan_jobs_run_and_status(toy, tmp_path):
    assert placid("--help").stdout.count("how many turns there are") == 1
    study = config(tmp_path)
    planned = placid("plan", study).stdout
    assert "12,345" in planned.partition("\ncount")[2].splitlines()[0]
    order = [stage.name for stage in jobs_of(read(study, []))]
    assert order == ["rollout", "count", "report"]
    text = placid(
        "submit", "count", study, "--site", ROOT / "slurm/a100-4x.toml", "--dry-run", "--site.node_local", "[]",
        "--site.gpus_per_node", 0,
    )  # fmt: skip
    assert text.returncode == 0, text.stderr
    assert "# placid count of " in text.stdout
    assert f"PLACID_STAGES={toy}" in text.stdout
    done = placid("study", study)
    assert done.returncode == 0, done.stderr
    run = tmp_path / "runs/run"
    assert int((run / "count.txt").read_text()) == json.loads(placid("status", run, "--json").stdout)["turns"]
    assert "count done" in placid("status", run).stdout
    (run / "count.txt").unlink()
    assert placid("count", study).returncode == 0
    assert (run / "count.txt").is_file()


@pytest.mark.parametrize("text", ["", "STAGE = 3", "STAGE = None\nBEFORE = 'report'", "raise ValueError"])
def test_a_file_that_is_no_stage_is_refused(text, tmp_path, monkeypatch):
    file = tmp_path / "broken.py"
    file.write_text(text)
    monkeypatch.setenv("PLACID_STAGES", str(file))
    with pytest.raises(BadInputError, match=r"broken\.py"):
        stages.every_stage()


@pytest.mark.parametrize("file", STUDIES, ids=lambda file: file.stem)
def test_a_plan_names_every_stage_that_the_study_runs(file):
    settings = read(file, [])
    if not (settings.model / "config.json").is_file():
        settings = read(file, ["--model", "checkpoints/organism"])
    names = [stage.name for stage in stages.stages_of(settings)]
    assert list(stages.estimates(settings, plan(settings))) == names
    assert names[0] == "rollout"
    assert names[-1] == "report"
    assert ("eval" in names) == bool(settings.evals)
    assert [job.name for job in jobs_of(settings) if job.name not in names] == []


def test_a_plan_counts_the_questions_of_the_evals():
    settings = read(ROOT / "configs/study/transfer.toml", [])
    from placid.evals import load_all
    from placid.evals.running import check

    rows = check(load_all(settings.evals))
    asks = {ask.name for each in rows.values() for row in each.rows for ask in row.asks.values()}
    planned = plan(settings)["evals"]
    assert planned["asks"] == len(asks) * (1 + len(settings.train.runs()))
    assert stages.estimates(settings, plan(settings))["eval"].turns == planned["replies"] > 0


def test_every_stage_has_a_command_and_the_docs_list_them_in_order():
    commands = all_commands([])
    assert {stage.command for stage in stages.STAGES} <= commands.keys()
    table = (ROOT / "docs/stages.md").read_text(encoding="utf-8")
    rows = [line.split("|")[1].strip().strip("`") for line in table.splitlines() if line.startswith("| `")]
    assert rows == [stage.name for stage in stages.STAGES]
    assert all(f"| {stage.help} |" in table for stage in stages.STAGES)


def test_the_arguments_of_stage_commands_belong_to_stages():
    texts = tomllib.loads((Path(stages.__file__).parents[1] / "cli.toml").read_text(encoding="utf-8"))
    assert texts["stages"].keys() <= {stage.command for stage in stages.STAGES}
