"""One run holds the replies of one served model, by the name that its answers carry."""

import json
from pathlib import Path

import pytest

import test_http_faults
from placid.engine.served import ServedModel
from placid.records import BadInputError, PausedError
from placid.rollout import run
from placid.rollout.settings import RolloutSettings
from placid.store import RunDir, read_json, write_lines
from test_http_faults import ALL, MODEL, PROMPTS, answer, error, json_of, server

quick = test_http_faults.quick


def hold(folder, script):
    """Go on with the run; `script` gives the n-th answer."""
    write_lines(folder / "prompts.jsonl", PROMPTS)
    numbers = iter(range(10**6))
    with server(ALL, lambda _: script(next(numbers))) as (url, _):
        engine = {"kind": "http", "max_concurrent": 1, "http": {"url": url, "deadline_s": 0.2}}
        arms = {"base": {"prompts": folder / "prompts.jsonl", "samples": 1, "turns": 2, "hatch": False}}
        settings = {"model": MODEL, "launcher": "inline", "max_tokens": 32, "engine": engine, "arms": arms}
        run_dir = RunDir(folder / "run")
        run(RolloutSettings.model_validate(settings), run_dir, run_dir.new_attempt())
    return run_dir


def named(model):
    return json_of({**answer(), "model": model})


@pytest.mark.parametrize(("first", "second"), [("a-2026-01", "a-2026-09"), ("m", "m@fp8"), ("org/a", "org/b")])
def test_another_model_at_a_later_launch_is_refused_with_both_names(tmp_path, first, second):
    with pytest.raises(PausedError):
        hold(tmp_path, lambda n: named(first) if n < 3 else error(503, "gone"))
    spoken = {key: len(RunDir(tmp_path / "run").index().turns(key)) for key in RunDir(tmp_path / "run").index()}
    with pytest.raises(BadInputError) as refused:
        hold(tmp_path, lambda n: named(second))
    assert f"'{first}'" in str(refused.value)
    assert f"'{second}'" in str(refused.value)
    index = RunDir(tmp_path / "run").index()
    assert {key: len(index.turns(key)) for key in index} == spoken, "nothing of the other model is kept"
    index = hold(tmp_path, lambda n: named(first)).index()
    assert len(index.ends) == len(PROMPTS)


def test_a_model_that_changes_midway_stops_the_run(tmp_path):
    with pytest.raises(BadInputError, match=r"'m-new'.*'m-old'"):
        hold(tmp_path, lambda n: named("m-old" if n < 2 else "m-new"))


def test_an_answer_that_names_no_model_is_taken_for_the_one_asked(tmp_path):
    def script(n):
        body = answer()
        del body["model"]
        return json_of(body)

    assert len(hold(tmp_path, script).index().ends) == len(PROMPTS)
    assert read_json(tmp_path / "run/served.json") == {"asked": "m", "answered": "m"}


def test_the_address_and_version_of_each_attempt_are_kept_and_a_change_is_told(tmp_path, caplog):
    with pytest.raises(PausedError):
        hold(tmp_path, lambda n: named("m") if n < 2 else error(503, "gone"))
    hold(tmp_path, lambda n: named("m"))
    engines = [
        json.loads(file.read_text())["rollout"]["engine"]
        for file in sorted(tmp_path.glob("run/attempts/*/status.json"))
    ]
    assert [engine["endpoint"].startswith("http://127.0.0.1:") for engine in engines] == [True, True]
    assert engines[0] != engines[1]
    assert "attempts before this one were answered by" in caplog.text


def test_of_two_processes_the_first_answer_counts(tmp_path):
    one, other = ServedModel(tmp_path / "served.json"), ServedModel(tmp_path / "served.json")
    one.check("m", "m-1")
    other.check("m", "m-1")
    with pytest.raises(BadInputError, match="m-2"):
        other.check("m", "m-2")
    with pytest.raises(BadInputError, match="m-2"):
        ServedModel(tmp_path / "served.json").check("m", "m-2")
    assert [file.name for file in Path(tmp_path).iterdir()] == ["served.json"]


@pytest.mark.parametrize("at", [5, 22, 40, 75])
def test_a_flipped_bit_in_served_json_is_a_sentence(tmp_path, at):
    file = tmp_path / "run" / "served.json"
    ServedModel(file).check("m", "m-1")
    data = bytearray(file.read_bytes())
    data[at] ^= 1
    file.write_bytes(data)
    with pytest.raises(BadInputError, match=r"served\.json is damaged"):
        ServedModel(file).check("m", "m-1")


def test_a_served_json_of_a_former_placid_is_read(tmp_path):
    (tmp_path / "served.json").write_text('{"asked": "m", "answered": "m-1"}')
    ServedModel(tmp_path / "served.json").check("m", "m-1")
    with pytest.raises(BadInputError, match="m-2"):
        ServedModel(tmp_path / "served.json").check("m", "m-2")
