"""Runs from Python: frames, one conversation, scores from elsewhere, a study by a call, and the notebook."""

import importlib
import json
import subprocess
import sys

import polars as pl
import pytest

import placid
from placid.api import KEY, flat, literal
from placid.config import parse_overrides
from placid.records import BadInputError
from test_study import ROOT, config


@pytest.fixture(scope="module", autouse=True)
def no_pictures():
    """Figures are drawn as one word: they are most of a small study's time, and not what is looked at here."""
    from matplotlib.figure import Figure

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Figure, "savefig", lambda self, file, **_: file.write(b"drawn"))
        yield


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A simulated run of 4 prompts x 1 sample x 3 turns in three arms."""
    folder = tmp_path_factory.mktemp("api")
    return placid.study(config(folder), samples=1, turns=3)


def test_a_run_is_frames_joined_on_the_documented_key(run):
    turns, scores = run.turns(), run.scores()
    assert run.arms == ["accept", "base", "base_nohatch"]
    assert run.config["turns"] == 3
    assert turns.height == scores.height == len(turns.select(KEY).unique())
    assert turns.join(scores, on=KEY, how="anti").is_empty()
    assert run.summary["n_prompts"] == 4


def test_a_conversation_has_a_column_of_scores_for_every_judge(run):
    prompt = run.turns()["prompt_id"][0]
    talk = run.conversation("base", prompt)
    assert talk["turn"].to_list() == list(range(1, talk.height + 1))
    assert set(run.judges) <= set(talk.columns)
    with pytest.raises(BadInputError, match="holds 0 conversations"):
        run.conversation("base", prompt, sample=7)
    with pytest.raises(BadInputError, match="holds 0 conversations"):
        run.conversation("base", prompt, condition="harsh")


def test_scores_from_elsewhere_are_a_judge_of_their_own(run):
    before = run.scores()
    mine = run.turns().filter(arm="base").select(*KEY, score=pl.col("turn").cast(pl.Float64) / 2)
    mine = mine.with_columns(score=pl.when(pl.col("turn") == 2).then(None).otherwise("score"))
    assert run.add_scores(mine, "ann") == "human-ann"
    assert sorted(run.scores("human-ann")["score"].unique()) == [0.5, 1.5]
    assert run.scores().equals(before), "the report's judge stays the one that is meant"
    columns = run.conversation("base", mine["prompt_id"][0]).columns
    assert {"human-ann", before["judge_id"][0]} <= set(columns)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"score": pl.lit(11.0)}, "0 to 10"),
        ({"turn": pl.lit(99)}, "holds no turn 99"),
        ({"arm": pl.lit("elsewhere")}, "holds no turn"),
    ],
)
def test_scores_that_fit_no_turn_are_refused_whole(run, change, words):
    frame = run.turns().head(2).select(*KEY, score=pl.lit(3.0)).with_columns(**change)
    with pytest.raises(BadInputError, match=words):
        run.add_scores(frame, "eve")
    assert "human-eve" not in run.judges


def test_a_missing_run_report_or_judge_is_one_sentence(run, tmp_path):
    with pytest.raises(BadInputError, match="no run directory"):
        placid.Run(tmp_path)
    with pytest.raises(BadInputError, match="graded nothing"):
        run.scores("gemini-0000")
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(BadInputError, match="placid report"):
        _ = placid.Run(tmp_path).summary


def test_overrides_are_those_of_the_command_line(tmp_path):
    given = {"name": "a b", "train": {"seeds": 3}, "hatch": False, "at": [5, 10], "prompts": tmp_path / "p.jsonl"}
    words = [f"--{key}={literal(value)}" for key, value in flat(given)]
    assert dict(parse_overrides(words)) == {
        "name": "a b", "train.seeds": 3, "hatch": False, "at": [5, 10], "prompts": str(tmp_path / "p.jsonl")
    }  # fmt: skip
    with pytest.raises(BadInputError, match="smaples"):
        placid.study(config(tmp_path), smaples=2)
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    "code",
    [
        "from placid import Run, study",
        "import placid.study.stages; from placid import study",
        "from placid.study import settings; import placid; study = placid.study",
    ],
)
def test_study_can_be_called_whatever_was_imported_before(code):
    done = subprocess.run([sys.executable, "-c", f"{code}; print(callable(study))"], capture_output=True, text=True)
    assert done.stdout == "True\n", done.stderr


def test_importing_placid_loads_nothing_heavy():
    code = "import sys, placid; print([m for m in ('numpy', 'polars', 'torch', 'pydantic') if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "[]\n"
    assert importlib.resources.files("placid").joinpath("py.typed").is_file()
    with pytest.raises(AttributeError, match="no attribute 'Runs'"):
        _ = placid.Runs


def test_every_cell_of_the_notebook_runs(tmp_path, monkeypatch):
    for name in ("configs", "checkpoints"):
        (tmp_path / name).symlink_to(ROOT / name)
    monkeypatch.chdir(tmp_path)
    cells = json.loads((ROOT / "docs/notebook.ipynb").read_text(encoding="utf-8"))["cells"]
    names = {}
    for cell in cells:
        if cell["cell_type"] == "code":
            exec("".join(cell["source"]), names)
    assert names["by_turn"].filter(arm="base", turn=1)["n"].item() == 30
    assert names["run"].turns()["sample"].max() == 1, "it grew"
