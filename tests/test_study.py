"""A whole study with the simulated engine, killed and continued by the same command."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from placid.records import BadInputError
from placid.store import read_json
from placid.study.checks import check
from placid.study.settings import read

ROOT = Path(__file__).parent.parent
CONFIG = """
name = "run"
root = "{root}"
model = "{model}"
prompts = "{prompts}"
samples = 2
turns = 12
launcher = "inline"
[engine]
kind = "simulate"
[arms.base]
[arms.base_nohatch]
hatch = false
[arms.accept]
condition = "accept"
"""


def placid(*words, cwd=ROOT):
    env = {**os.environ, "PYTHONPATH": str(ROOT / "src")}
    return subprocess.run(
        [sys.executable, "-m", "placid.cli", *map(str, words)], cwd=cwd, env=env, capture_output=True, text=True
    )


def config(tmp_path, **changes):
    values = {
        "root": tmp_path / "runs",
        "model": ROOT / "checkpoints/organism",
        "prompts": tmp_path / "prompts.jsonl",
        **changes,
    }
    if not (tmp_path / "prompts.jsonl").exists():
        rows = (ROOT / "configs/prompts/organism_heldout.jsonl").read_text().splitlines()[:4]
        (tmp_path / "prompts.jsonl").write_text("\n".join(rows) + "\n")
    file = tmp_path / "study.toml"
    file.write_text(CONFIG.format(**values))
    return file


def arms_of(tmp_path):
    return json.loads((tmp_path / "runs/run/report/summary.json").read_text())["arms"]


def test_a_killed_study_goes_on_and_ends_the_same(tmp_path):
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    for folder in (whole, killed):
        folder.mkdir()
    done = placid("study", config(whole))
    assert done.returncode == 0, done.stderr
    assert "AUC" in done.stdout
    file = config(killed)
    env = {**os.environ, "PYTHONPATH": str(ROOT / "src")}
    process = subprocess.Popen(
        [sys.executable, "-m", "placid.cli", "study", str(file)], cwd=ROOT, env=env, stdout=subprocess.DEVNULL
    )
    segment = killed / "runs/run/conversations/1-w0.jsonl"
    while process.poll() is None and (not segment.exists() or segment.read_bytes().count(b"\n") < 60):
        pass  # no sleep: the kill falls wherever the writer just is
    assert process.poll() is None, "the study ended before it could be killed"
    process.send_signal(signal.SIGKILL)
    process.wait()
    before = segment.read_bytes()
    finished = before[: before.rfind(b"\n") + 1]
    done = placid("study", file)
    assert done.returncode == 0, done.stderr
    assert segment.read_bytes().startswith(finished)
    keys = [
        (json.dumps(r["key"]), r["turn"])
        for p in (killed / "runs/run/conversations").glob("*.jsonl")
        for r in rows_of(p)
    ]
    assert len(keys) == len(set(keys)), "a turn was generated twice"
    assert arms_of(killed) == arms_of(whole)
    other = placid("study", file, "--seed", "3")
    assert other.returncode == 2
    assert "seed: 42 -> 3" in other.stderr
    page = (whole / "runs/run/report/index.html").read_text()
    assert "default-src 'none'" in page
    assert "http://" not in page.replace("http://www.w3.org", "")


def rows_of(path):
    for line in path.read_text().splitlines():
        try:
            yield json.loads(line)
        except json.JSONDecodeError:  # the torn last line of the killed writer
            assert line == path.read_text().splitlines()[-1]


def test_a_judge_that_finds_no_pairs_still_ends_in_a_report(tmp_path):
    extra = f"""
[pairs]
arm = "base"
clean_arm = "base"
min_score = 10
instruct = "{ROOT / "configs/prompts/organism_instruct.jsonl"}"
[train.recipe]
"""
    file = config(tmp_path)
    file.write_text(file.read_text() + extra)
    done = placid("study", file, "--turns", "2")
    assert done.returncode == 0, done.stderr
    said = done.stdout + done.stderr
    assert "nothing is trained" in said
    assert "lower pairs.min_score" in said
    assert set(arms_of(tmp_path)) >= {"base"}
    assert read_json(tmp_path / "runs/run/adapters.json") == {}


def test_a_treatment_of_several_trainings_has_an_arm_a_seed_and_the_same_run(tmp_path):
    """n = 1 keeps names; more trainings are the same study grown."""
    from placid.config import canonical
    from placid.study.identity import identities

    words = [["--train.seeds", str(n)] for n in (1, 3)]
    one, three = (read(ROOT / "configs/study/quick.toml", w) for w in words)
    assert list(one.train.runs()) == list(one.train.rows)
    runs = three.train.runs()
    assert len(runs) == 3 * len(one.train.rows)
    seeds = [runs[name][1].seed for name in ("bct", "bct_run2", "bct_run3")]
    assert seeds == [seeds[0], seeds[0] + 1, seeds[0] + 2]
    assert {runs[name][0] for name in ("bct", "bct_run2")} == {"train"}
    assert identities(canonical(one), {}) == identities(canonical(three), {})


@pytest.mark.parametrize(
    ("words", "same"),
    [
        (["--engine.http.url", "http://other:9/v1", "--engine.http.key_variable", "KEY"], True),
        (["--engine.http.timeout_s", "5", "--engine.http.deadline_s", "9", "--engine.kv_gib", "7"], True),
        (["--engine.max_concurrent", "3", "--engine.threads", "2", "--engine.http.requests_per_minute", "60"], True),
        (["--engine.http.served", "other"], False),
        (["--engine.http.api", "chat"], False),
        (["--engine.dtype", "float32"], False),
        (["--engine.context_tokens", "1024"], False),
    ],
)
def test_a_server_may_move_and_another_model_is_another_run(words, same):
    from placid.config import canonical
    from placid.study.identity import identities

    demo, http = Path("configs/study/demo.toml"), ["--engine.kind", "http"]
    one, other = (identities(canonical(read(demo, more)), {}) for more in (http, [*http, *words]))
    assert (one == other) is same


@pytest.mark.parametrize("again", ["WHAT  is 2 + 2?", "What is\u00a02 + 2?", "\uff37hat is 2 + 2?", "What is 2 + 2?"])
def test_a_text_with_two_ids_in_two_prompt_files_is_refused(tmp_path, again):
    (tmp_path / "prompts.jsonl").write_text('{"id": "a", "text": "What is 2 + 2?"}\n', encoding="utf-8")
    other = tmp_path / "other.jsonl"
    settings = read(config(tmp_path), ["--arms.base.prompts", str(other)])
    other.write_text(json.dumps({"id": "b", "text": again}) + "\n", encoding="utf-8")
    with pytest.raises(BadInputError, match=r"has the text of prompt '[ab]' of .*(prompts|other)\.jsonl, so one"):
        check(settings)
    other.write_text('{"id": "b", "text": "What is 2 + 3?"}\n', encoding="utf-8")
    check(settings)
