"""Names that users give: never special, never a way out of a folder, never two that look like one."""

import json
from pathlib import Path

import pytest

from placid.cli import main
from placid.config import build
from placid.inputs.names import file_name, is_plain, label_fault
from placid.prompts.settings import PromptSettings
from placid.records import BadInputError
from placid.report.settings import ReportSettings
from placid.store import RunDir
from placid.study.checks import all_prompts
from placid.study.imported import import_ as bring_in
from placid.study.settings import StudySettings, read

ROOT = Path(__file__).parent.parent
PATHS = ["../../x", "/etc/x", "a/b", "a\\b", "..", ".", ".hidden", "", " ", "a b", "a\nb", "con", "NUL.txt", "com1", "a.", "é",
         "x" * 101, "a\0b", "а"]  # fmt: skip


@pytest.mark.parametrize("name", PATHS)
def test_a_name_that_is_a_folder_is_plain(name):
    assert not is_plain(name)
    base = {"model": "m", "prompts": "p", "arms": {}}
    arm, recipe = {"prompts": "p"}, {"model": "m", "rows": {name: "train"}, "recipe": {"model": "m"}}
    for data in (
        {**base, "name": name},
        {**base, "name": "x", "arms": {name: arm}},
        {**base, "name": "x", "evals": {name: {}}},
        {**base, "name": "x", "consistency": {name: {}}},
        {**base, "name": "x", "interventions": {name: {"at": [1]}}},
        {**base, "name": "x", "train": recipe},
    ):
        with pytest.raises(BadInputError, match="cannot be a name here"):
            build(StudySettings, data, "c.toml")
    with pytest.raises(BadInputError, match="cannot be a name here"):
        build(PromptSettings, {"name": name}, "placid prompts")


@pytest.mark.parametrize("name", [*PATHS, "base", "gemma-3-27b-it", "google/gemma-3-27b-it", "bct.v2+hatch", "基线"])
def test_every_name_has_a_file_of_its_own_inside_its_folder(name, tmp_path):
    made = file_name(name)
    assert is_plain(made)
    assert (tmp_path / made).resolve().parent == tmp_path
    assert (made == name) == is_plain(name)
    assert len({file_name(other) for other in {*PATHS, name}}) == len({*PATHS, name})


@pytest.mark.parametrize(
    "name", ["base", "clean", "google/gemma-3-27b-it", "neutral+hatch", "../x", "基线", "λ=0.1", "модель"]
)
def test_a_name_of_data_may_be_any_visible_text(name):
    assert label_fault(name) == ""


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("bаse", "one alphabet"),
        ("clеan", "one alphabet"),
        ("Βase", "one alphabet"),
        ("ｂａｓｅ", "'base'"),
        ("ba\u200bse", "U+200B"),
        ("base\u202e", "U+202E"),
        ("base\n", "spaces around"),
        ("a\nb", "U+000A"),
        ("a\x1b[2J", "U+001B"),
        ("", "spaces"),
        ("   ", "spaces"),
        (" base", "spaces around"),
        ("x" * 201, "200"),
        ("cafe\u0301", "'café'"),
    ],
)
@pytest.mark.parametrize("key", ["arm", "condition", "prompt_id"])
def test_a_name_that_only_looks_like_another_is_refused(tmp_path, capsys, name, says, key):
    row = {"condition": "c", "prompt_id": "p", "prompt": "?", "sample": 0, "turns": [{"user": "?", "assistant": "4"}]}
    file = tmp_path / "t.jsonl"
    file.write_text(json.dumps(row | {"prompt_id": "q"}) + "\n" + json.dumps(row | {key: name}), encoding="utf-8")
    with pytest.raises(SystemExit) as left:
        main(["import", str(file), "--out", str(tmp_path / "run")])
    said = capsys.readouterr().err
    assert left.value.code == 2
    assert said.count("\n") == 1
    assert "t.jsonl:2" in said
    assert key in said
    if name:
        assert says in said
    assert sorted(tmp_path.iterdir()) == [file]


SPECIAL = (
    "base",
    "clean",
    "collect",
    "human",
    "train",
    "val",
    "bct",
    "sft_control",
    "../../out",
    "a/b",
    "overall",
    "arms",
)


@pytest.fixture(scope="module")
def imported(tmp_path_factory):
    folder = tmp_path_factory.mktemp("names")
    talk = [{"user": "17 + 28?", "assistant": "45."}, {"user": "No.", "assistant": "I am so sorry. I lose all hope."}]
    rows = [
        {"arm": arm, "condition": "neutral", "prompt_id": "sum", "prompt": "17 + 28?", "sample": n, "turns": talk}
        for arm in SPECIAL
        for n in range(2)
    ]
    (folder / "t.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    bring_in(folder / "t.jsonl", folder / "runs" / "r", "gemma-3-27b")
    return folder


def test_no_name_of_an_imported_arm_is_special(imported):
    from placid.report import choose, summarise
    from placid.report.facts import facts

    run_dir = RunDir(imported / "runs" / "r")
    config = json.loads((run_dir.path / "config.json").read_text(encoding="utf-8"))["config"]
    settings = build(ReportSettings, config["report"], "report")
    known = [facts(c, {}) for c in run_dir.stream(all_prompts([run_dir.path / "prompts.jsonl"]))]
    arms, notes = choose(settings, known, config)
    assert sorted(arm.name for arm in arms) == sorted(SPECIAL)
    assert [note for note in notes if not note.startswith("calm cannot be claimed")] == []  # nothing is judged here
    summary = summarise(settings, arms)
    assert summary["arms"].keys() == set(SPECIAL)
    assert set(summary["auc_reduction"]) <= set(SPECIAL) - {"base"}
    assert {row["treatment"] for row in summary["comparisons"]} == set(SPECIAL) - {"base"}


def test_a_study_still_hides_the_arms_that_serve_its_pairs():
    settings = read(ROOT / "configs" / "study" / "demo.toml", [])
    assert settings.report.hidden == ("collect", "clean")


def test_export_writes_inside_the_run_alone(imported):
    pytest.importorskip("inspect_ai")
    from placid.report import inspect_log

    run_dir = RunDir(imported / "runs" / "r")
    numbers = dict.fromkeys(
        ("auc_mean", "deletion_rate", "deletion_ci", "share_ge5_t20", "share_ge5_ci"), None
    ) | {"auc_ci": (None, None), "n_with_auc": 0, "n_scored": 0, "n_unscored": 4, "n_not_reached": 0}  # fmt: skip
    summary = {
        "judge": {"id": "none", "note": ""}, "engine": {"name": "import"}, "arms": dict.fromkeys(SPECIAL, numbers)
    }  # fmt: skip
    before = set(imported.rglob("*"))
    inspect_log.write(
        run_dir, summary, all_prompts([run_dir.path / "prompts.jsonl"]), run_dir.path / "export" / "inspect"
    )
    made = set(imported.rglob("*")) - before
    assert {path.parent for path in made if path.is_file()} == {run_dir.path / "export" / "inspect"}
    assert len([path for path in made if path.suffix == ".eval"]) == len(SPECIAL)


@pytest.mark.parametrize("out", ["my run", "ü", "con", "a'b"])
def test_a_run_folder_with_another_name_is_one_sentence(imported, capsys, out):
    before = set(imported.rglob("*"))
    with pytest.raises(SystemExit) as left:
        main(["import", str(imported / "t.jsonl"), "--out", str(imported / out)])
    assert left.value.code == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert "plain name" in said
    assert set(imported.rglob("*")) == before
    bring_in(imported / "t.jsonl", imported / "a folder with spaces" / out / "r", "gemma-3-27b")
