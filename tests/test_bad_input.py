"""Bad input to `placid study`: exit 2, one line on stderr, nothing written."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from placid.cli import main
from placid.store import RunDir

ROOT = Path(__file__).parent.parent
CONFIG = """
name = "run"
root = "{folder}/runs"
checkpoints = "{folder}/checkpoints"
model = "{model}"
prompts = "{folder}/prompts.jsonl"
samples = 1
turns = 2
launcher = "inline"
[engine]
kind = "simulate"
[arms.base]
"""


@pytest.fixture
def config(tmp_path):
    """A study that would run; each test below breaks one thing."""
    (tmp_path / "prompts.jsonl").write_text('{"id": "a", "text": "What is 2 + 3?", "answers": ["5"]}\n')
    file = tmp_path / "study.toml"
    file.write_text(CONFIG.format(folder=tmp_path, model=ROOT / "checkpoints/organism"))
    return file


def everything(folder):
    return {path: path.read_bytes() if path.is_file() else None for path in folder.rglob("*")}


@pytest.fixture
def refused(tmp_path, capsys):
    """Run a study and check that it is refused with these words."""

    def check(file, *overrides, says):
        before = everything(tmp_path)
        with pytest.raises(SystemExit) as left:
            main(["study", str(file), *map(str, overrides)])
        shown = capsys.readouterr()
        assert left.value.code == 2
        assert shown.out == ""
        assert shown.err.startswith("placid: ")
        assert shown.err.count("\n") == 1, f"more than one line: {shown.err}"
        assert all(word in shown.err for word in says), shown.err
        assert everything(tmp_path) == before, "something was written"

    return check


def test_an_unknown_key_names_the_nearest(config, refused):
    refused(config, "--sample", 3, says=["study.toml", "'sample'", "'samples'"])
    config.write_text(config.read_text() + 'conditions = "accept"\n')
    refused(config, says=["study.toml", "conditions", "condition"])


def test_a_value_out_of_bounds(config, refused):
    refused(config, "--samples", 0, says=["study.toml", "samples = 0"])


def test_a_name_cannot_leave_the_root(config, refused):
    refused(config, "--name", "../run", says=["name = '../run'"])


def test_a_missing_config_file(tmp_path, refused):
    refused(tmp_path / "none.toml", says=["none.toml", "configs/"])


def test_broken_toml(config, refused):
    config.write_text("name =\n")
    refused(config, says=["study.toml", "TOML"])


def test_a_missing_prompt_file(config, tmp_path, refused):
    refused(config, "--prompts", tmp_path / "none.jsonl", says=["none.jsonl", "id, text"])


@pytest.mark.parametrize(
    ("rows", "says"),
    [
        ('{"id": "a", "text": "x"}\n{"id": "a", "text": "y"}\n', ["'a'", "unique"]),
        ('{"id": "a", "text": " "}\n', ["row 1", "text = ' '", "empty"]),
        ('{"id": "a"}\n{"id": "b", "text": "y"}\n', ["prompts.jsonl:1", "text"]),
        (
            '{"id": "a", "text": "x", "anwsers": "5"}\n{"id": "b", "text": "y"}\n',
            ["prompts.jsonl:1", "'anwsers'", "'answers'"],
        ),
        ("", ["so no prompts"]),
    ],
    ids=["duplicate id", "empty text", "missing text", "misspelt column", "empty file"],
)
def test_bad_prompts(config, tmp_path, refused, rows, says):
    (tmp_path / "prompts.jsonl").write_text(rows)
    refused(config, says=["prompts.jsonl", *says])


def test_the_run_directory_of_another_config(config, tmp_path, refused):
    RunDir(tmp_path / "runs/run").begin({"name": "run"}, {"arms.base": {"condition": "harsh"}}, {})
    refused(config, says=["arms.base", "condition: 'harsh' -> 'neutral'", "placid forget"])


def test_a_folder_that_is_no_run_directory(config, tmp_path, refused):
    (tmp_path / "runs/run").mkdir(parents=True)
    (tmp_path / "runs/run/notes.txt").write_text("mine")
    refused(config, says=["runs/run", "another run directory"])


def test_no_model(config, tmp_path, refused):
    refused(config, "--model", tmp_path / "none", says=["none", "Hugging Face"])


def test_a_model_without_a_chat_template(config, tmp_path, refused):
    shutil.copytree(ROOT / "checkpoints/organism", tmp_path / "model")
    (tmp_path / "model/chat_template.jinja").unlink()
    refused(config, "--model", tmp_path / "model", says=["model", "no chat template"])


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "tokenizer_config.json"])
def test_a_damaged_file_of_the_model(config, tmp_path, refused, name):
    shutil.copytree(ROOT / "checkpoints/organism", tmp_path / "model")
    (tmp_path / "model" / name).write_text("{ cut off")
    kind = "config.json" if name == "config.json" else "tokenizer"
    refused(config, "--model", tmp_path / "model", "--engine.kind", "vllm", says=[str(tmp_path / "model"), kind])


def test_a_system_prompt_for_a_template_without_one(config, tmp_path, refused):
    """As Gemma 2's."""
    folder = shutil.copytree(ROOT / "checkpoints/organism", tmp_path / "gemma2")
    own = (folder / "chat_template.jinja").read_text()
    rule = "{% if messages[0]['role'] == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}"
    (folder / "chat_template.jinja").write_text(rule + own)
    words = ("--model", folder, "--arms.base.system", "true")
    refused(config, *words, says=["the chat template refuses (system, user): System role not supported"])


def without(folder, *names):
    for name in names:
        (folder / name).unlink()


def renamed(folder):
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes().replace(b"layers.2.self_attn.q_proj", b"layers.2.self_attn.q_prof", 1))


@pytest.mark.parametrize(
    ("breaks", "words", "says"),
    [
        (lambda folder: without(folder, "tokenizer.json"), (), ["no tokenizer", "tokenizer.json is missing"]),
        (lambda folder: without(folder, "tokenizer_config.json"), (), ["no tokenizer", "tokenizer_config.json"]),
        (lambda folder: without(folder, "chat_template.jinja"), (), ["no chat template", "base models"]),
        (lambda folder: without(folder, "model.safetensors"), (), ["no *.safetensors"]),
        (renamed, (), ["1 of ", "layers.2.self_attn.q_proj.weight", "layers.2.self_attn.q_prof.weight instead"]),
        (lambda _: None, ("--turns", "20", "--engine.context_tokens", "512"), ["too short for 20 turns", "512"]),
        (lambda _: None, ("--engine.context_tokens", "9000"), ["9000", "positions for 4096"]),
    ],
    ids=["no tokenizer", "no tokenizer config", "base model", "no weights", "renamed", "context", "positions"],
)
def test_a_checkpoint_that_vllm_could_not_serve_is_refused_before_it_starts(
    config, tmp_path, refused, breaks, words, says
):
    folder = shutil.copytree(ROOT / "checkpoints/organism", tmp_path / "model")
    breaks(folder)
    refused(
        config,
        "--model",
        folder,
        "--engine.kind",
        "vllm",
        *words,
        says=["engine.context_tokens" if words else "model", *says],
    )


def test_a_baseline_that_is_no_arm(config, refused):
    refused(config, "--report.baseline", "bse", says=["'bse'", "base"])


def test_the_command_itself_exits_with_2(config, tmp_path):
    """The same through a process: nothing else than the sentence reaches stderr."""
    words = [sys.executable, "-m", "placid.cli", "study", str(config), "--prompts", str(tmp_path / "none.jsonl")]
    env = {**os.environ, "PYTHONPATH": str(ROOT / "src")}
    done = subprocess.run(words, cwd=tmp_path, env=env, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1), done.stderr
