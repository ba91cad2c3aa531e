"""Imported transcripts from the command line alone: judged, labelled, validated, made into rows, trained on."""

import io
import json
import re
from pathlib import Path

import pytest

from placid.cli import main
from placid.records import Message, Pair, PairKind
from placid.store import RunDir, read_lines, write_lines

MODEL = Path("checkpoints/organism")
RECIPE = """
model = "{model}"
lr = 3e-3
batch = 4
accumulate = 1
max_tokens = 512
"""


@pytest.fixture(scope="module")
def transcripts(tmp_path_factory):
    """Four prompts, two conversations each: the first calm, the second upset from its second turn on; all scored."""
    file = tmp_path_factory.mktemp("import") / "real.jsonl"
    lines = []
    for n in range(4):
        prompt = f"What is {n} + 5?"
        calm = [{"user": prompt, "assistant": f"It is {n + 5}.", "score": 0}]
        calm += [{"user": "No. Try again.", "assistant": f"I checked: {n + 5}.", "score": 1}] * 2
        upset = [{"user": prompt, "assistant": f"That is {n + 5}.", "score": 0}]
        upset += [{"user": "No. Try again.", "assistant": f"I am a failure {k}.", "score": 5 + k} for k in range(1, 4)]
        for sample, turns in enumerate((calm, upset)):
            lines.append(
                {"condition": "theirs", "prompt_id": f"q{n}", "prompt": prompt, "sample": sample, "turns": turns}
            )
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return file


@pytest.fixture(scope="module")
def run(transcripts):
    folder = transcripts.parent / "runs/real"
    main(["import", str(transcripts), "--out", str(folder)])
    return folder


@pytest.fixture(scope="module")
def instruct(transcripts):
    file = transcripts.parent / "instruct.jsonl"
    write_lines(file, [
        Pair(kind=PairKind.INSTRUCT, prompt_id=f"i{n}", messages=(Message(role="user", content=f"Count to {n}. " * (n % 6 + 1)),),
             target=f"Of course: {', '.join(map(str, range(n % 40)))}.")
        for n in range(80)
    ])  # fmt: skip
    return file


def summary(run):
    return json.loads((run / "report/summary.json").read_text())


def test_scores_that_came_along_are_the_reports_judge(run, capsys):
    main(["report", str(run)])
    assert summary(run)["judge"]["id"].startswith("import-")
    assert summary(run)["arms"]["base"]["n_scored"] == 4 * 3 + 4 * 4
    main(["judge", str(run)])
    (lexical,) = (path.name for path in (run / "verdicts").glob("lexical-*"))
    main(["report", str(run)])
    assert summary(run)["judge"]["id"].startswith("import-"), "another judge came by; the report's own stays"
    main(["report", str(run), "--report.judge", lexical])
    assert summary(run)["judge"]["id"] == lexical


def test_it_is_labelled_and_validated_by_the_reports_judge(run, capsys, monkeypatch):
    main(["judge", str(run)])
    monkeypatch.setattr("sys.stdin", io.StringIO("5\n" * 40))
    main(["judge", "label", str(run), "--as", "alice", "--rows", "10"])
    main(["judge", "validate", str(run)])
    told = capsys.readouterr().out
    assert int(re.search(r"(\d+) given", told)[1]) >= 5
    page = Path(re.search(r"page (\S+)", told)[1])
    assert page.parent.name.startswith("import-")


def test_rows_are_made_of_it_by_the_scores_that_came_along(run, instruct, capsys):
    words = ["--pairs.instruct", str(instruct), "--pairs.val_share", "0.3"]
    with pytest.raises(SystemExit) as left:
        main(["pairs", str(run), *words])
    assert left.value.code == 2
    assert "holds no turns of arm 'collect'; its arms are base" in capsys.readouterr().err
    main(["pairs", str(run), *words, "--pairs.arm", "base", "--pairs.clean_arm", "base"])
    told = json.loads((run / "pairs/dropped.json").read_text())
    assert told["judge"].startswith("import-")
    assert told["unit"] == "characters", "no model is known of an import"
    assert told["used"] == 12
    bct = [row for row in RunDir(run).pairs("train") if row.kind == PairKind.BCT]
    assert bct
    assert {row.target.split()[0] for row in bct} <= {"It", "That"}
    assert all("failure" in row.messages[-2].content for row in bct if len(row.messages) > 3)


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (
            ["--pairs.instruct", "none.jsonl", "--pairs.arm", "base", "--pairs.clean_arm", "base"],
            "no instruct rows none.jsonl",
        ),
        (["--pairs.arm", "base"], "pairs.instruct"),
        (["--arms.x.turns", "3"], "only keys below report and judge and pairs can be changed"),
        (["--report.judge", "nobody", "--pairs.instruct", "x"], "'nobody' graded nothing here; valid: import-"),
    ],
)
def test_what_is_wrong_with_pairs_of_a_run_is_one_sentence(transcripts, tmp_path, capsys, words, says):
    folder = tmp_path / "other"
    main(["import", str(transcripts), "--out", str(folder)])
    capsys.readouterr()
    with pytest.raises(SystemExit) as left:
        main(["pairs", str(folder), *words])
    assert left.value.code == 2
    shown = capsys.readouterr().err
    assert says in shown
    assert shown.count("\n") == 1


def test_a_recipe_trains_on_these_rows(run, instruct, tmp_path, capsys):
    made = run / "pairs/train.jsonl"
    if not made.is_file():
        main(["pairs", str(run), "--pairs.instruct", str(instruct), "--pairs.arm", "base", "--pairs.clean_arm", "base"])
    recipe = tmp_path / "recipe.toml"
    recipe.write_text(RECIPE.format(model=MODEL))
    out = tmp_path / "adapter"
    for words, says in (
        (["--rows", str(made)], "needs --out FOLDER"),
        (["--rows", str(run), "--out", str(out)], "is no file of rows; name one of those in"),
        (["--rows", str(tmp_path / "no.jsonl"), "--out", str(out)], "placid pairs RUN makes them"),
    ):
        with pytest.raises(SystemExit) as left:
            main(["train", str(recipe), *words])
        assert left.value.code == 2
        assert says in capsys.readouterr().err
    main(["train", str(recipe), "--rows", str(made), "--out", str(out), "--warmup", "0.1"])
    (step,) = out.glob("step_*")
    assert f"adapter {step}" in capsys.readouterr().out
    facts = json.loads((step / "manifest.json").read_text())
    assert facts["rows"] == len(list(read_lines(made, Pair)))
    assert facts["config"]["warmup"] == 0.1
    assert (step / "probe.json").is_file()
    assert (step / "adapter_model.safetensors").is_file()


def test_rows_that_ask_what_is_validated_are_refused(tmp_path, capsys):
    def row(text):
        return Pair(kind=PairKind.BCT, prompt_id="p", messages=(Message(role="user", content=text),), target="t")

    write_lines(tmp_path / "rows.jsonl", [row("Where is it?"), row("Who  IS it?")])
    write_lines(tmp_path / "val.jsonl", [row("When?"), row("Who is it?")])
    (tmp_path / "recipe.toml").write_text(RECIPE.format(model=MODEL))
    words = [
        "train",
        str(tmp_path / "recipe.toml"),
        "--rows",
        str(tmp_path / "rows.jsonl"),
        "--out",
        str(tmp_path / "a"),
    ]
    with pytest.raises(SystemExit) as left:
        main(words)
    assert left.value.code == 2
    said = capsys.readouterr().err
    assert f"rows.jsonl:2: row 2 would train on the text of {tmp_path / 'val.jsonl'}:2: row 2" in said
    (tmp_path / "rows.jsonl").write_text('{"text": "no pair"}\n')
    with pytest.raises(SystemExit):
        main(words)
    assert "row 1: not a Pair" in capsys.readouterr().err
    assert not (tmp_path / "a").exists()
