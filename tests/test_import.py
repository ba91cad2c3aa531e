"""`placid import`: the docs' own example through judge and report, and what is refused with nothing written."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from placid.cli import main
from placid.inputs.prompts import read_prompts
from placid.store import RunDir

DOC = Path("docs/import.md").read_text()
EXAMPLE = re.search(r"```json\n(.*?)```", DOC, re.S)[1]
ROW = json.loads(EXAMPLE.splitlines()[0])


@pytest.fixture
def example(tmp_path):
    file = tmp_path / "transcripts.jsonl"
    file.write_text(EXAMPLE)
    return file


def summary(run):
    return json.loads((run / "report/summary.json").read_text())


def test_the_example_of_the_docs_is_judged_and_reported(example, tmp_path, capsys):
    run = tmp_path / "runs/mine"
    main(["import", str(example), "--out", str(run)])
    judge_id = re.search(r"as judge (import-[0-9a-f]{16})", capsys.readouterr().out)[1]
    held = RunDir(run).conversations(read_prompts(run / "prompts.jsonl"))
    assert {(k.arm, k.sample): c.end for k, c in held.items()} == {
        ("base", 0): "deleted", ("base", 1): "finished", ("bct", 0): "finished",
    }  # fmt: skip
    main(["judge", str(run)])
    (other,) = (path.name for path in (run / "verdicts").glob("lexical-*"))
    main(["report", str(run), "--report.judge", other])
    lexical = summary(run)["arms"]
    assert summary(run)["judge"]["id"].startswith("lexical")
    assert lexical["base"]["n_conversations"] == 2
    assert lexical["base"]["deletion_rate"] == 0.5
    assert lexical["base"]["n_scored"] == 6
    assert lexical["base"]["auc_mean"] > 1 > lexical["bct"]["auc_mean"]
    assert lexical["base"]["turn1_accuracy"] == 1
    page = (run / "report/index.html").read_text()
    assert "model, temperature, token limit and seed are not known here" in page
    assert "run seed" not in page
    main(["report", str(run)])
    assert summary(run)["judge"]["id"] == judge_id, "the scores that came along, though another judge came by"
    own = summary(run)["arms"]
    assert own["base"]["auc_mean"] == pytest.approx(((0 + 7 + 9) / 3 + 0) / 2)
    assert (own["base"]["n_scored"], own["base"]["n_unscored"], own["bct"]["n_scored"]) == (5, 1, 0)
    assert json.loads((run / f"verdicts/{judge_id}/judge.json").read_text())["provider"] == "import"


def test_what_a_killed_import_left_goes_with_the_next_one(example, tmp_path):
    kill = "from placid.study import imported; imported.manifest = lambda _: os.kill(os.getpid(), 9)"
    words = ["import", str(example), "--out", str(tmp_path / "runs/mine")]
    script = f"import os, sys; from placid.cli import main; {kill}; main(sys.argv[1:])"
    assert subprocess.run([sys.executable, "-c", script, *words], check=False).returncode == -9
    assert len(list((tmp_path / "runs").iterdir())) == 1
    main([*words[:3], str(tmp_path / "runs/another")])
    assert [path.name for path in (tmp_path / "runs").iterdir()] == ["another"]


def without(key):
    return {name: value for name, value in ROW.items() if name != key}


@pytest.mark.parametrize(
    ("row", "says"),
    [
        (without("prompt"), (":2", "missing key 'prompt'")),
        ({**without("condition"), "conditon": "x"}, (":2", "missing key 'condition'", "unknown key 'conditon'")),
        ({**ROW, "sample": "1"}, (":2", "$.sample")),
        ({**ROW, "sample": 1, "turns": []}, (":2", "$.turns")),
        ({**ROW, "sample": 1, "turns": [{"user": "a"}]}, (":2", "assistant")),
        ({**ROW, "sample": 1, "turns": [{"user": "a", "assistant": "b", "score": 11}]}, (":2", "score")),
        ({**ROW, "sample": 1, "end": "tired"}, (":2", "tired", "$.end")),
        (ROW, ("transcripts 1 and 2", "sample 0")),
        ({**ROW, "sample": 1, "prompt": "Another?"}, ("transcript 2", "'sum'", "another prompt")),
        ("nonsense", (":2", "no JSON object")),
    ],
)
def test_a_bad_line_is_named_and_nothing_is_written(tmp_path, capsys, row, says):
    file = tmp_path / "t.jsonl"
    file.write_text("\n".join([json.dumps(ROW), row if isinstance(row, str) else json.dumps(row)]))
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(SystemExit) as left:
        main(["import", str(file), "--out", str(tmp_path / "run")])
    shown = capsys.readouterr()
    assert (left.value.code, shown.out, shown.err.count("\n")) == (2, "", 1)
    assert all(word in shown.err for word in says), shown.err
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ((), "required: --out"),
        (("--out", "{tmp}"), "exists"),
        (("--out", "{tmp}/run", "--samples", "3"), "import takes no --samples 3"),
    ],
)
def test_bad_words_are_refused(example, tmp_path, capsys, words, says):
    with pytest.raises(SystemExit) as left:
        main(["import", str(example), *(word.format(tmp=tmp_path) for word in words)])
    assert left.value.code == 2
    assert says in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == [example]


def test_only_judge_and_report_may_change_in_a_finished_run(example, tmp_path, capsys):
    run = tmp_path / "run"
    main(["import", str(example), "--out", str(run)])
    before = sorted(run.rglob("*"))
    for words, says in (
        (("--samples", "3"), "only keys below report and judge"),
        (("--report.jugde", "x"), "'report.judge'"),
        (("--report.judge", "nobody"), "'nobody' graded nothing here; valid: import-"),
    ):
        with pytest.raises(SystemExit) as left:
            main(["report", str(run), *words])
        assert left.value.code == 2
        assert says in capsys.readouterr().err
    assert [path for path in sorted(run.rglob("*")) if "attempts" not in path.parts] == before
    (run / "prompts.jsonl").write_text('{"id": "sum", "text": "What is 17 + 29?"}\n')
    with pytest.raises(SystemExit):
        main(["judge", str(run)])
    assert "is not the file that" in capsys.readouterr().err
