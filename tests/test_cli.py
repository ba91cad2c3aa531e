"""The front door: stages one by one, help, exit codes, and what is refused before anything is written."""

import json
import runpy
import subprocess
import sys
from pathlib import Path

import pytest

import placid.judge
from placid.cli import all_commands, clean, main
from placid.config import describe
from placid.organism.settings import OrganismSettings
from placid.records import BadInputError
from placid.study.checks import check
from placid.study.settings import StudySettings, read

STUDIES = sorted(Path("configs/study").glob("*.toml"))
INSTRUCT = "configs/prompts/organism_instruct.jsonl"


@pytest.fixture
def small(tmp_path):
    """Words of a tiny simulated study below `tmp_path`."""
    prompts = tmp_path / "prompts.jsonl"
    rows = Path("configs/prompts/organism_heldout.jsonl").read_text().splitlines()[:2]
    prompts.write_text("\n".join(rows) + "\n")
    return [
        "configs/study/simulate.toml",
        *("--root", f"{tmp_path}/runs", "--checkpoints", f"{tmp_path}/checkpoints"),
        *("--prompts", str(prompts), "--samples", "1", "--turns", "3"),
    ]


def left(*words):
    """The exit code of a command."""
    with pytest.raises(SystemExit) as exit_:
        main([str(word) for word in words])
    return exit_.value.code


@pytest.mark.parametrize("file", STUDIES, ids=lambda p: p.stem)
def test_a_shipped_study_is_whole_and_named_after_its_file(file):
    settings = read(file, [])
    check(settings)
    assert settings.name == file.stem
    assert file.read_text().startswith("# ")


def test_every_key_of_a_study_says_what_it_means():
    assert [key for key, _, text in describe(StudySettings) if not text] == []


@pytest.mark.parametrize("command", [name for name, told in all_commands([]).items() if told["takes"] == "config"])
def test_help_lists_every_key_with_its_default(command, capsys):
    assert left(command, "--help") == 0
    shown = capsys.readouterr().out
    kind = OrganismSettings if command == "organism" else StudySettings
    missing = [key for key, _, _ in describe(kind) if f"  {key} = " not in shown and f"  [{key}]" not in shown]
    assert not missing


@pytest.mark.parametrize(
    ("command", "flags"),
    [("plan", ["--site"]), ("judge", ["--follow"]), ("train", ["--rows", "--out"]), ("report", ["--against"]),
     ("compare", ["--bridge", "--out"]), ("export", ["--to"]), ("status", ["--watch", "--json"]),
     ("import", ["--out", "--tag"]), ("submit", ["--site", "--dry-run", "--sweep"]), ("fetch", ["--to", "--revision"]),
     ("doctor", ["--site"])],
)  # fmt: skip
def test_help_names_every_flag_of_a_command(command, flags, capsys):
    assert left(command, "--help") == 0
    shown = capsys.readouterr().out.partition("keys of")[0].partition("options:")[2]
    assert all(f"  {flag}" in shown for flag in flags), shown


@pytest.mark.parametrize("words", [("--site=slurm/h200-8x.toml",), ("--site", "slurm/h200-8x.toml")])
def test_a_flag_takes_its_value_after_a_space_or_an_equals_sign(words, capsys):
    main(["plan", "configs/study/demo.toml", *words])
    assert "8 engine(s) a node" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("judge", "configs/study/demo.toml", "--follow=true"), "--follow"),
        (("status", "runs/none", "--watch=yes"), "--watch"),
        (("verify", "runs/none", "--follow"), "verify takes no --follow"),
    ],
)
def test_a_wrong_flag_is_refused_in_few_words(words, says, capsys):
    assert left(*words) == 2
    shown = capsys.readouterr().err
    assert says in shown
    assert len(shown) < 200


def test_the_stages_one_by_one_are_the_study(small, tmp_path, capsys):
    for stage in ("rollout", "judge", "report"):
        main([stage, *small, "--name", "steps"])
    main(["study", *small, "--name", "whole"])
    numbers = [json.loads((tmp_path / f"runs/{name}/report/summary.json").read_text()) for name in ("steps", "whole")]
    assert numbers[0] == numbers[1]
    assert set(numbers[0]["arms"]) == {"base", "base_nohatch", "accept"}
    shown = capsys.readouterr().out
    assert "AUC" in shown
    assert f"page     {tmp_path}/runs/whole/report/index.html" in shown
    for name, stages in (("steps", ["rollout", "judge", "report"]), ("whole", ["study"])):
        attempts = [tmp_path / f"runs/{name}/attempts/{k + 1}/status.json" for k in range(len(stages))]
        assert [json.loads(file.read_text())["stage"] for file in attempts] == stages
    log = (tmp_path / "runs/whole/attempts/1/log.txt").read_text()
    assert "rollout: 6/6 conversations" in log
    manifest = json.loads((tmp_path / "runs/whole/manifest.json").read_text())
    assert {"commit", "versions", "host", "inputs", "command"} <= manifest.keys()


def test_a_failure_is_told_once_and_kept(small, tmp_path, monkeypatch):
    def broken(*_):
        raise RuntimeError("the judge fell over")

    monkeypatch.setattr(placid.judge, "run", broken)
    with pytest.raises(RuntimeError) as error:
        main(["study", *small])
    log = tmp_path / "runs/simulate/attempts/1/log.txt"
    assert str(log) in error.value.__notes__[0]
    assert log.read_text().count("RuntimeError: the judge fell over") == 1


def test_an_interrupt_leaves_with_75(small, monkeypatch, capsys):
    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(placid.judge, "run", interrupted)
    assert left("study", *small) == 75
    assert "the same command goes on" in capsys.readouterr().err


TRAINED = ("--arms.collect.turns", "3", "--arms.clean.turns", "1", "--pairs.instruct", INSTRUCT)


@pytest.mark.parametrize(
    ("command", "more", "says"),
    [
        ("judge", (), ("no run in", "placid rollout")),
        ("report", (), ("no run in",)),
        ("pairs", (), ("no run in",)),
        ("train", (), ("no run in",)),
        ("rollout", ("--arms.base.turn", "3"), ("'arms.base.turn'", "did you mean 'arms.base.turns'")),
        ("rollout", ("--report.baseline", "bass"), ("'bass' is no arm", "base_nohatch")),
        ("rollout", ("--judge.lexicon", "none.toml"), ("none.toml",)),
        ("rollout", ("--model", "none"), ("no model in none",)),
        ("rollout", ("--workers", "2"), ("workers = 2", "ray")),
        ("rollout", ("--engine.kind", "replay"), ("engine.recorded",)),
        ("rollout", ("--arms.base.adapter", "none"), ("no adapter in none",)),
        ("study", ("--train.recipe.lr", "1e-3"), ("[pairs]",)),
        ("study", ("--pairs.instruct", "none.jsonl"), ("pairs.arm", "'collect' is no arm")),
        ("study", (*TRAINED, "--train.rows.bct", "trian"), ("'trian'", "sft_control")),
        ("study", (*TRAINED, "--train.rows.base", "train"), ("train.rows: base", "already")),
        ("study", (*TRAINED, "--train.recipe.model", "other"), ("train.recipe.model", "leave the key out")),
        (
            "study",
            (*TRAINED, "--engine.kind", "vllm", "--train.recipe.lora.targets", '["q_prj"]'),
            ("lora.targets", "no q_prj", "q_proj"),
        ),
        ("study", ("--samples",), ("--samples", "no value")),
    ],
)
def test_refused_before_anything_is_written(small, tmp_path, capsys, command, more, says):
    before = sorted(tmp_path.rglob("*"))
    assert left(command, *small, *more) == 2
    shown = capsys.readouterr().err
    assert shown.count("\n") == 1
    assert all(word in shown for word in says), shown
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize("command", ["study", "plan", "train"])
@pytest.mark.parametrize("recipe", sorted(Path("configs/train").glob("*.toml")), ids=lambda p: p.stem)
def test_a_recipe_is_no_study(recipe, command, capsys):
    assert left(command, recipe, "--name", "mine") == 2
    says = f"placid: {recipe} is a training recipe, no study; copy its keys below [train.recipe] of a study\n"
    assert capsys.readouterr().err == says


def test_a_stage_that_the_study_does_not_have(small, capsys):
    main(["rollout", *small])
    for command, section in (("pairs", "[pairs]"), ("train", "[train]")):
        assert left(command, *small) == 2
        assert f"no {section} section" in capsys.readouterr().err


def test_a_run_of_another_config_is_not_touched(small, tmp_path, capsys):
    main(["rollout", *small])
    before = sorted((path, path.stat().st_mtime_ns) for path in tmp_path.rglob("*"))
    for command in ("rollout", "judge", "report"):
        assert left(command, *small, "--seed", "7") == 2
        assert "seed: 42 -> 7" in capsys.readouterr().err
    assert sorted((path, path.stat().st_mtime_ns) for path in tmp_path.rglob("*")) == before


def test_model_text_cannot_steer_a_terminal():
    assert clean("a\x1b[31mb\x07\u202ec\n") == "a[31mbc\n"


def test_launch_names_the_stages_in_order(capsys):
    launch = runpy.run_path("launch/study.py")
    assert launch["main"](["configs/study/demo.toml", "--dry-run"]) == 0
    commands = [line.split() for line in capsys.readouterr().out.splitlines() if not line.startswith("#")]
    names = ["rollout", "judge", "pairs", "train", "rollout", "judge", "report"]
    assert [words[3] for words in commands] == names
    assert all(words[:3] == [sys.executable, "-m", "placid.cli"] for words in commands)
    assert set(names) < all_commands([]).keys()


def test_no_such_config():
    with pytest.raises(BadInputError, match="configs/"):
        read(Path("none.toml"), [])


def test_a_reader_that_has_seen_enough_is_no_failure():
    said = subprocess.run(
        ["bash", "-o", "pipefail", "-c", f"{sys.executable} -m placid.cli conditions | head -1"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert "Traceback" not in said.stderr
    assert "BrokenPipe" not in said.stderr
