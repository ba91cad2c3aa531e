"""placid verify and repair: damaged lines, two writers, a run of schema 1, a run that was moved."""

import json
import shutil
from pathlib import Path

import msgspec
import pytest

from placid.cli import main
from placid.records import BadInputError, End, Finish, Key, Prompt, Turn, Verdict
from placid.store import RunDir, read_json, read_lines, write_json
from placid.store.repair import QUARANTINE, repair, verify

ROOT = Path(__file__).parent.parent
GOLDEN = ROOT / "tests" / "golden" / "schema1" / "run"
KEY = Key("base", "neutral", "p", 0)


def turn(number, reply="said", key=KEY, **changes):
    return Turn(
        key=key, turn=number, user="u", reply=reply, reply_ids=(7,), finish=Finish.STOP, prompt_tokens=1, seed=1,
        cached_tokens=0, **changes,
    )  # fmt: skip


def run_of(path, **segments):
    """Launch → its turns."""
    run = RunDir(path)
    run.begin({}, {}, {})
    for launch, turns in segments.items():
        with run.segment(f"{launch.removeprefix('a')}-w0") as segment:
            segment.append(*turns)
    return run


def told(run):
    return {key: [(t.turn, t.reply) for t in run.index().turns(key)] for key in run.index()}


def lines_of(folder):
    return sorted(line for file in folder.rglob("*.jsonl") for line in file.read_bytes().splitlines())


def test_a_sound_run_has_no_problem_and_nothing_to_repair(tmp_path):
    run = run_of(tmp_path, a1=[turn(1), turn(2, end=End.FINISHED)])
    before = lines_of(tmp_path)
    assert list(verify(tmp_path)) == list(repair(tmp_path)) == []
    assert lines_of(tmp_path) == before
    assert not (run.path / QUARANTINE).exists()


@pytest.mark.parametrize(("at", "kept"), [(0, []), (1, [1]), (2, [1, 2])])
def test_a_damaged_line_is_moved_aside_with_what_followed_it(tmp_path, at, kept):
    run = run_of(tmp_path, a1=[turn(1), turn(2), turn(3)])
    with run.verdict_segment("j", "0001") as segment:
        segment.append(*(Verdict(key=KEY, turn=number, judge_id="j", score=1.0) for number in (1, 2, 3)))
    file = run.segments()[0]
    lines = file.read_bytes().splitlines(keepends=True)
    lines[at] = lines[at].replace(b'"said"', b'"sait"')
    file.write_bytes(b"".join(lines))
    (problem,) = verify(tmp_path)
    assert problem == f"{file}:{at + 1}: damaged: it does not fit its checksum"
    with pytest.raises(BadInputError, match="placid repair RUN"):
        told(run)
    before = lines_of(tmp_path)
    first, *_ = repair(tmp_path)
    assert first.startswith(problem)
    assert [number for number, _ in told(run).get(KEY, [])] == kept
    assert sorted(number for _, number in run.verdicts("j")) == kept  # what is said again is judged again
    assert lines_of(tmp_path) == before  # moved, not deleted
    assert list(verify(tmp_path)) == list(repair(tmp_path)) == []


def test_equal_doubled_turns_are_one_without_a_word(tmp_path):
    run = run_of(tmp_path, a1=[turn(1), turn(2)], a2=[turn(2), turn(3)])
    assert told(run) == {KEY: [(1, "said"), (2, "said"), (3, "said")]}
    assert run.index().numbers(KEY) == [1, 2, 3]
    assert list(verify(tmp_path)) == []


def test_an_engines_cache_makes_no_difference(tmp_path):
    run = run_of(tmp_path, a1=[turn(1)], a2=[msgspec.structs.replace(turn(1), cached_tokens=1)])
    assert told(run) == {KEY: [(1, "said")]}


@pytest.mark.parametrize(
    ("segments", "expected"),
    [
        ({"a1": [turn(1), turn(2), turn(3)], "a2": [turn(2, "other"), turn(3, "else")]}, ["said", "other", "else"]),
        # the loser was further than the winner
        ({"a9": [turn(1), turn(2), turn(3), turn(4)], "a10": [turn(2, "other")]}, ["said", "other"]),
        # equal at first, then not
        (
            {"a1": [turn(1), turn(2), turn(3, "x")], "a2": [turn(2), turn(3, "y"), turn(4)]},
            ["said", "said", "y", "said"],
        ),
        ({"a1": [turn(1, "x")], "a2": [turn(1, "y")], "a3": [turn(1, "z"), turn(2)]}, ["z", "said"]),
    ],
)
def test_of_two_writers_the_later_launch_stands(tmp_path, segments, expected):
    run = run_of(tmp_path, **segments)
    before = lines_of(tmp_path)
    (problem,) = verify(tmp_path)
    assert "two different turns" in problem
    assert "w0.jsonl" in problem
    (line,) = repair(tmp_path)
    assert line.startswith(str(KEY))
    assert [reply for _, reply in told(run)[KEY]] == expected
    assert lines_of(tmp_path) == before
    assert list(verify(tmp_path)) == list(repair(tmp_path)) == []


def test_a_repair_that_is_killed_between_two_files_loses_nothing_and_doubles_nothing(tmp_path, monkeypatch):
    run_of(tmp_path, a1=[turn(1), turn(2)], a2=[turn(2, "other")])
    before = lines_of(tmp_path)
    write, count = Path.replace, iter(range(99))

    def dies(self, target):
        if str(target).endswith("1-w0.jsonl") and next(count) == 1:
            raise KeyboardInterrupt
        return write(self, target)

    monkeypatch.setattr(Path, "replace", dies)
    with pytest.raises(KeyboardInterrupt):
        list(repair(tmp_path))
    list(repair(tmp_path))
    assert lines_of(tmp_path) == before


def test_a_damaged_table_and_a_damaged_adapter_are_found(tmp_path):
    from placid.store import hashes_of
    from placid.store.tables import compact

    run = run_of(tmp_path / "run", a1=[turn(1)])
    compact(run)
    adapter = tmp_path / "ckpt" / "step_3"
    adapter.mkdir(parents=True)
    (adapter / "adapter_model.safetensors").write_bytes(b"weights")
    write_json(adapter / "manifest.json", {"sha256": hashes_of(adapter)})
    write_json(run.path / "adapters.json", {"bct": str(adapter)})
    assert list(verify(run.path)) == []
    for file in (run.path / "tables" / "turns.parquet", adapter / "adapter_model.safetensors"):
        data = bytearray(file.read_bytes())
        data[-3] ^= 4
        file.write_bytes(data)
        assert [problem.split(" is damaged")[0] for problem in verify(run.path)] == [str(file)]
        data[-3] ^= 4
        file.write_bytes(data)
    data[-3] ^= 4
    (run.path / "tables" / "turns.parquet").write_bytes(data)
    assert compact(run)  # not "up to date"
    assert list(verify(run.path)) == []


def test_no_run_is_named(tmp_path, capsys):
    for command in ("verify", "repair"):
        with pytest.raises(SystemExit) as end:
            main([command, str(tmp_path)])
        assert end.value.code == 2
        assert "no run directory" in capsys.readouterr().err


def test_verify_leaves_with_one_and_a_line_a_problem(tmp_path, capsys):
    run = run_of(tmp_path, a1=[turn(1)])
    main(["verify", str(tmp_path)])
    file = run.segments()[0]
    file.write_bytes(file.read_bytes().replace(b"said", b"sold"))
    (tmp_path / "manifest.json").write_text("{")
    with pytest.raises(SystemExit) as end:
        main(["verify", str(tmp_path)])
    assert end.value.code == 1
    assert [line.split(": ")[0].split(" is")[0] for line in capsys.readouterr().out.splitlines()] == [
        f"{tmp_path} is as it was written".split(" is")[0], str(tmp_path / "manifest.json"), f"{file}:1",
    ]  # fmt: skip


@pytest.fixture
def former(tmp_path, monkeypatch):
    """A run that the last placid of schema 1 made."""
    monkeypatch.chdir(ROOT)
    shutil.copytree(GOLDEN, tmp_path / "run")
    return tmp_path / "run"


def test_a_run_of_schema_1_is_refused_with_the_command_that_converts_it(former, capsys):
    with pytest.raises(SystemExit) as end:
        main(["judge", str(former)])
    assert end.value.code == 2
    assert "schema 1, of a former placid; `placid repair RUN` converts" in capsys.readouterr().err


def test_a_run_of_schema_1_is_converted_and_goes_on(former):
    old = [json.loads(line) for line in (former / "conversations" / "1-w0.jsonl").read_text().splitlines()]
    main(["repair", str(former)])
    turns = list(read_lines(former / "conversations" / "1-w0.jsonl", Turn))
    assert [json.loads(msgspec.json.encode(t)) | {"schema": 1} for t in turns] == old
    assert list(verify(former)) == list(repair(former)) == []
    verdicts = {file: file.read_bytes() for file in former.glob("verdicts/*/*.jsonl")}
    main(["judge", str(former)])
    main(["judge", str(former)])
    after = {file: file.read_bytes() for file in former.glob("verdicts/*/*.jsonl")}
    assert verdicts.items() < after.items()  # what stands there is kept ...
    assert len(after) == 2  # ... beside this version's judge, which graded each turn once
    config = STUDY.format(
        root=former.parent, prompts="tests/golden/schema1/prompts.jsonl", model="checkpoints/organism"
    )
    study = former.parent / "study.toml"
    study.write_text(config)
    main(["rollout", str(study)])  # the same study, though its root is another and keys were added since
    assert len(list((former / "conversations").iterdir())) == 1


STUDY = """
name = "run"
root = "{root}"
model = "{model}"
prompts = "{prompts}"
samples = 1
turns = 4
logprobs = true
launcher = "inline"
[engine]
kind = "simulate"
[arms.base]
[arms.accept]
condition = "accept"
"""


def test_a_moved_run_opens_from_anywhere_however_its_files_are_spelt(tmp_path, monkeypatch):
    """Copied to another place, its model behind a link, its prompts renamed, from another folder."""
    monkeypatch.chdir(ROOT)
    prompts = tmp_path / "first" / "prompts.jsonl"
    prompts.parent.mkdir()
    shutil.copy(ROOT / "tests" / "golden" / "schema1" / "prompts.jsonl", prompts)
    study = tmp_path / "study.toml"
    study.write_text(STUDY.format(root=tmp_path / "first", prompts=prompts, model="checkpoints/organism"))
    main(["rollout", str(study)])
    shutil.move(tmp_path / "first", tmp_path / "second")
    (tmp_path / "second" / "prompts.jsonl").rename(tmp_path / "asked.jsonl")
    (tmp_path / "model").symlink_to(ROOT / "checkpoints" / "organism")
    monkeypatch.chdir(tmp_path)
    main(["judge", "second/run"])
    study.write_text(STUDY.format(root="second", prompts="./asked.jsonl", model=f"../{tmp_path.name}/model"))
    main(["rollout", "study.toml"])
    assert len(list((tmp_path / "second" / "run" / "conversations").iterdir())) == 1
    (tmp_path / "asked.jsonl").write_text(msgspec.json.encode(Prompt(id="tea", text="another")).decode() + "\n")
    with pytest.raises(SystemExit) as end:
        main(["rollout", "study.toml"])
    assert end.value.code == 2


def test_a_template_that_prints_the_date_prints_that_of_the_first_launch(tmp_path, monkeypatch):
    """On every later day, in every process."""
    monkeypatch.chdir(ROOT)
    monkeypatch.setenv("PLACID_TODAY", "")
    model = tmp_path / "model"
    shutil.copytree(ROOT / "checkpoints" / "organism", model)
    template = model / "chat_template.jinja"
    template.write_text(
        "{{ bos_token }}{{ strftime_now('%d %B %Y') }} " + template.read_text().replace("{{ bos_token }}", "", 1)
    )
    prompts = "tests/golden/schema1/prompts.jsonl"
    study = tmp_path / "study.toml"
    study.write_text(STUDY.format(root=tmp_path, prompts=prompts, model=model))
    main(["rollout", str(study), "--turns", "2"])
    run = tmp_path / "run"
    manifest = read_json(run / "manifest.json")
    assert manifest["date"][:4] >= "2024"
    write_json(run / "manifest.json", manifest | {"date": "1999-12-31T23:59:59"})
    shutil.rmtree(run / "conversations")
    seen = []
    monkeypatch.setattr("placid.engine.simulate.SimulateEngine.reply", spy(seen))
    with pytest.raises(SystemExit, match="1"):
        main(["rollout", str(study), "--turns", "2"])
    from placid.render import Renderer

    assert {Renderer(model).decode(ids)[:16] for ids in seen} == {"31 December 1999"}


def spy(seen):
    async def reply(_self, request):
        seen.append(request.prompt_ids)
        raise RuntimeError("enough was seen")

    return reply
