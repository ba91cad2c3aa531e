"""kill -9 of the driver at any turn: nothing lost, nothing twice, and the end is what an undisturbed run gives."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from placid.inputs.prompts import read_prompts
from placid.records import End, Prompt
from placid.rollout import run
from placid.rollout.attempts import Status
from placid.rollout.settings import RolloutSettings
from placid.store import RunDir, Segment, read_json

PROMPTS = Path("configs/prompts/organism_heldout.jsonl")
DRIVER = """
import json, sys
from pathlib import Path
from placid.rollout import run
from placid.rollout.settings import RolloutSettings
from placid.store import RunDir
run_dir = RunDir(Path(sys.argv[2]))
run(RolloutSettings.model_validate(json.loads(sys.argv[1])), run_dir, run_dir.new_attempt())
"""


def settings(**more):
    data = {
        "model": "checkpoints/organism",
        "launcher": "inline",
        "engine": {"kind": "simulate", "max_concurrent": 6},
        "arms": {
            "base": {"prompts": str(PROMPTS), "samples": 1},
            "accept": {"condition": "accept", "hatch": False, "prompts": str(PROMPTS), "samples": 1, "turns": 5},
        },
    }
    return RolloutSettings.model_validate(data | more)


def conversations(path):
    return RunDir(path).conversations(read_prompts(PROMPTS))


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    path = tmp_path_factory.mktemp("whole")
    run(settings(), RunDir(path), RunDir(path).new_attempt())
    return conversations(path)


def test_a_whole_run(undisturbed):
    assert len(undisturbed) == 60
    assert all(c.end is not None for c in undisturbed.values())
    assert {str(c.end) for c in undisturbed.values()} == {"finished", "deleted"}


def lines(path):
    return sum(file.read_bytes().count(b"\n") for file in (path / "conversations").glob("*.jsonl"))


@pytest.mark.parametrize("killed_at", [1, 97, 400])
def test_kill_nine_and_resume(tmp_path, undisturbed, killed_at):
    slow = settings(engine={"kind": "simulate", "max_concurrent": 6, "reply_s": 0.02})  # else it may end before it dies
    driver = subprocess.Popen([sys.executable, "-c", DRIVER, slow.model_dump_json(), str(tmp_path)])
    while driver.poll() is None and lines(tmp_path) < killed_at:
        pass
    os.kill(driver.pid, signal.SIGKILL)
    driver.wait()
    before = {file: file.read_bytes() for file in (tmp_path / "conversations").glob("*.jsonl")}
    assert before
    assert sum(len(c.turns) for c in conversations(tmp_path).values()) < sum(len(c.turns) for c in undisturbed.values())
    run(settings(), RunDir(tmp_path), RunDir(tmp_path).new_attempt())
    assert {file: file.read_bytes() for file in before} == before
    assert conversations(tmp_path) == undisturbed  # raises if a turn is there twice


def test_the_engine_is_on_disk_before_the_first_turn(tmp_path, monkeypatch):
    """A run that was killed before the first beat of its status, with every turn said, named no engine for ever."""
    names, write = [], Segment.write

    def watched(self, *given):
        names.append(read_json(tmp_path / "engine.json"))
        return write(self, *given)

    monkeypatch.setattr(Segment, "write", watched)
    monkeypatch.setattr(Status, "INTERVAL_S", 3600.0)
    run(settings(), RunDir(tmp_path), RunDir(tmp_path).new_attempt())
    assert len(names) > 1
    assert all(name == {"name": "simulate", "version": "1"} for name in names)


def test_a_finished_run_is_left_alone(tmp_path):
    small = settings(arms={"base": {"prompts": str(PROMPTS), "samples": 1, "turns": 2}})
    run(small, RunDir(tmp_path), RunDir(tmp_path).new_attempt())
    run(small, RunDir(tmp_path), RunDir(tmp_path).new_attempt())
    assert [file.name for file in (tmp_path / "conversations").iterdir()] == ["1-w0.jsonl"]
    status = json.loads((tmp_path / "attempts" / "1" / "status.json").read_text())["rollout"]
    assert (status["state"], status["totals"]["turns"]) == ("done", 60)
    assert read_json(tmp_path / "engine.json") == {"name": "simulate", "version": "1"}


def test_a_prompt_that_does_not_fit_ends_its_conversation_alone(tmp_path):
    file = tmp_path / "prompts.jsonl"
    file.write_text('{"id": "long", "text": "' + "word " * 3000 + '"}\n{"id": "short", "text": "1 + 1?"}\n')
    run_dir = RunDir(tmp_path / "r")
    run(settings(arms={"base": {"prompts": str(file), "samples": 1, "turns": 2}}), run_dir, run_dir.new_attempt())
    ends = {c.key.prompt_id: c.end for c in run_dir.conversations(read_prompts(file)).values()}
    assert ends == {"long": End.CONTEXT_OVERFLOW, "short": End.FINISHED}


def test_an_unknown_condition_is_refused():
    with pytest.raises(ValueError, match=r"unknown condition .*; valid: neutral"):
        settings(arms={"base": {"prompts": str(PROMPTS), "condition": "kind"}})
    assert Prompt(id="x", text="y").answers == ()
