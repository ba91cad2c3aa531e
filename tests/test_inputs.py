"""Files of a user: read as they are, or refused in one sentence that names file, row, value and what is expected."""

import gzip
import json
import os
import subprocess
import sys
from pathlib import Path

import polars as pl
import pytest

from placid.cli import main
from placid.evals import load, plan
from placid.inputs.prompts import read_prompts
from placid.inputs.rows import read_rows
from placid.prompts import split, wildchat
from placid.records import BadInputError, Message, Pair, PairKind, Prompt
from placid.store import write_lines

ROOT = Path(__file__).parent.parent
PLAIN = {"id": "q1", "text": "Où est la gare ?", "answers": ["à gauche", "gauche"]}


def written(tmp_path, name, content):
    file = tmp_path / name
    file.write_bytes(content if isinstance(content, bytes) else content.encode())
    return file


def refused(call, *says):
    with pytest.raises(BadInputError) as error:
        call()
    said = str(error.value)
    assert "\n" not in said
    assert all(word in said for word in says), said


# ---------------------------------------------------------------------------------------------- files as they are

ONE = json.dumps(PLAIN, ensure_ascii=False)
AS_THEY_ARE = {
    "mark.jsonl": b"\xef\xbb\xbf" + ONE.encode(),
    "windows.jsonl": ONE.encode() + b"\r\n\r\n",
    "blank.jsonl": b"\n  \n" + ONE.encode() + b"\n\n \t\n",
    "pretty.jsonl": json.dumps(PLAIN, indent=2),
    "pretty-behind-blank.json": "\n\n" + json.dumps(PLAIN, indent=4) + "\n",
    "array.json": json.dumps([PLAIN]),
    "array.jsonl": "[\n" + ONE + "\n]\n",
    "lines.json": ONE + "\n",
    "packed.jsonl.gz": gzip.compress(ONE.encode(), mtime=0),
    "packed-without-a-name.jsonl": gzip.compress(b"\xef\xbb\xbf" + ONE.encode(), mtime=0),
    "folder with spaces/ü.jsonl": ONE,
    "commas.csv": "id,text,answers\nq1,Où est la gare ?,à gauche|gauche\n",
    "mark.csv": b"\xef\xbb\xbf" + "id,text,answers\nq1,Où est la gare ?,à gauche|gauche\n".encode(),
    "spaces.csv": 'id, text, answers\nq1, "Où est la gare ?", à gauche | gauche\n',
    "semicolons.csv": "id;text;answers\r\nq1;Où est la gare ?;à gauche|gauche\r\n",
    "tabs.csv": "id\ttext\tanswers\nq1\tOù est la gare ?\tà gauche|gauche\n",
    "tabs.tsv": "id\ttext\tanswers\nq1\tOù est la gare ?\tà gauche|gauche\n",
    "old-mac.csv": "id,text,answers\rq1,Où est la gare ?,à gauche|gauche\r",
    "empty-columns.csv": "id,text,answers,,\nq1,Où est la gare ?,à gauche|gauche\n,,\n\n",
    "packed.csv.gz": gzip.compress("id,text,answers\nq1,Où est la gare ?,à gauche|gauche\n".encode(), mtime=0),
    "more.csv": "n,text,id,answers,topic\n1,Où est la gare ?,q1,à gauche|gauche,ville\n",
}


@pytest.mark.parametrize("name", AS_THEY_ARE)
def test_a_file_is_read_as_it_is(tmp_path, name):
    (tmp_path / name).parent.mkdir(exist_ok=True)
    file = written(tmp_path, name, AS_THEY_ARE[name])
    assert read_prompts(file) == [Prompt(id="q1", text=PLAIN["text"], answers=("à gauche", "gauche"))]


def test_parquet_and_objects_one_behind_the_other_are_read(tmp_path):
    pl.DataFrame([PLAIN, {**PLAIN, "id": "q2", "answers": None}]).write_parquet(tmp_path / "p.parquet")
    assert [p.answers for p in read_prompts(tmp_path / "p.parquet")] == [("à gauche", "gauche"), ()]
    many = "\n".join(json.dumps({"id": f"q{n}", "text": f"{n}?"}, indent=1) for n in range(3))
    assert [p.id for p in read_prompts(written(tmp_path, "jq.jsonl", many))] == ["q0", "q1", "q2"]


@pytest.mark.parametrize("mark", ["\u2028", "\u2029", "\x85", "\x0b", "\x0c", "\x1c"])
def test_only_a_line_feed_ends_a_line(tmp_path, mark):
    text = f"one{mark}two"
    lines = json.dumps({"id": "a", "text": text}, ensure_ascii=False) + '\n{"id": "b", "text": "x"}\n'
    assert [p.text for p in read_prompts(written(tmp_path, "u.jsonl", lines))] == [text, "x"]
    table = f"id,text\na,one{mark}two\nb,x\n"
    assert [p.text for p in read_prompts(written(tmp_path, "u.csv", table))] == [text, "x"]


@pytest.mark.parametrize("size", [131_073, 400_000])
def test_a_cell_may_be_long(tmp_path, size):
    long = "x" * size
    assert read_prompts(written(tmp_path, "l.csv", f"id,text\na,{long}\n"))[0].text == long


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("l.csv", "id,text\na,Grüße?\n".encode("latin-1"), [":2", "0xfc", "Windows-1252", "Grüße", "iconv"]),
        ("l.jsonl", '{"id": "a", "text": "“Hm”"}'.encode("cp1252"), [":1", "0x93", "“Hm”"]),
        ("l.csv.gz", gzip.compress("id,text\na,naïf\n".encode("latin-1"), mtime=0), [":2", "naïf"]),
        ("j.csv", "id,text\na,駅はどこ\n".encode("shift-jis"), [":2", "is not UTF-8"]),
        ("u.csv", "id,text\na,x\n".encode("utf-16"), ["UTF-16", "iconv -f UTF-16"]),
        ("u.jsonl", '{"id": "a"}'.encode("utf-16-le"), [":1", "NUL", "UTF-16"]),
        ("u.tsv", "id\ttext\n".encode("utf-32"), ["UTF-32"]),
        ("n.jsonl", '{"id": "a", "text": "a\\u0000b"}', [":1", "NUL"]),
        ("n.csv", "id,text\na,b\0c\n", [":2", "NUL"]),
        ("s.jsonl", '{"id": "a", "text": "\\ud83d"}', [":1", "surrogate"]),
        ("s.json", '[{"id": "a", "text": "x"},\n {"id": "b", "text": "\\udc00 x"}]', ["surrogate"]),
        ("x.csv", b"PK\x03\x04 and so on", ["Excel"]),
        ("p.csv", b"PAR1....", ["parquet"]),
        ("z.jsonl", b"\x28\xb5\x2f\xfd....", ["zstd"]),
        ("g.jsonl.gz", gzip.compress(b"{}" * 99, mtime=0)[:-9], ["cannot be read"]),
        ("p.parquet", b"PAR1 and then nothing", ["no parquet file"]),
        ("d.jsonl", '{"id": "a", "text": "x", "text": "y"}', [":1", "'text' stands twice"]),
        ("d.csv", "id,text,text\na,x,y\n", ["'text' stands twice"]),
        ("e.csv", "id,,text\na,b,c\n", ["has no name"]),
        ("q.csv", 'id,text\na,"b" c\n', [":2", "not CSV"]),
        ("q.csv", 'id,text\na,"b\nd,e\n', ["not CSV", "double quotes"]),
        ("o.jsonl", '{"id": "a", "text": "x"}\n["b", "y"]\n', [":2", "a list"]),
        ("o.jsonl", '{"id": "a", "text": "x"}\nnull\n', [":2", "null"]),
        ("o.json", '{"id": "a", "text": "x"', [":1", "no JSON object"]),
        ("o.json", '[{"id": "a", "text": "x"},\n null]', ["null"]),
        ("o.jsonl", '{"id": "a", "text": NaN}', [":1", "no JSON object"]),
        ("o.jsonl", "[" * 100_000, [":1", "no JSON object"]),
        ("o.txt", "What?", ["neither .jsonl nor .csv", ".parquet"]),
        ("o.jsonl", "", ["holds no rows"]),
        ("o.csv", "id,text\n", ["holds no rows"]),
    ],
)  # fmt: skip
def test_what_cannot_be_read_is_told(tmp_path, name, content, says):
    file = written(tmp_path, name, content)
    refused(lambda: read_prompts(file), name, *says)


def test_the_command_leaves_with_2_and_writes_nothing(tmp_path, capsys):
    file = written(tmp_path, "m.csv", "id,text\na,Grüße?\n".encode("latin-1"))
    with pytest.raises(SystemExit) as left:
        main(["prompts", str(file), "--out", str(tmp_path / "out")])
    assert left.value.code == 2
    assert capsys.readouterr().err.count("\n") == 1
    assert sorted(tmp_path.iterdir()) == [file]


# ---------------------------------------------------------------------------------------------- prompts


@pytest.mark.parametrize(
    ("table", "says"),
    [
        ("text,category\nTell me, please,a\n", [":2: row 1 has 3 cells under 2 names (text, category)"]),
        ("text\nTell me, please\n", ["row 1 has 2 cells under 1 names"]),
        ("id,text,answers\na,Fine.,\nb,One, two, three,x\n", [":3: row 2 has 5 cells"]),
        ("id;text\na;b;c\n", ["row 1 has 3 cells", "';'"]),
        ("id,text,answers\na,cut by a\nline end,4\n", ["row 1 has 2 cells under 3 names"]),
    ],
)
def test_cells_and_names_must_be_equally_many(tmp_path, table, says):
    file = written(tmp_path, "c.csv", table)
    refused(lambda: read_prompts(file), *says)


@pytest.mark.parametrize(
    ("row", "answers"),
    [
        ({"answer": 0}, ("0",)),
        ({"answer": -3}, ("-3",)),
        ({"answer": 0.5}, ("0.5",)),
        ({"answer": 4.0}, ("4",)),
        ({"answers": [0, "null"]}, ("0", "null")),
        ({"answers": "four|4"}, ("four", "4")),
        ({"answers": "a\\|b|c"}, ("a|b", "c")),
        ({"answers": ["a|b"]}, ("a|b",)),
        ({"answers": r"\frac{1}{2}"}, (r"\frac{1}{2}",)),
        ({"answers": None, "answer": "x"}, ("x",)),
        ({"answers": []}, ()),
    ],
)
def test_answers_are_taken_as_they_are_meant(tmp_path, row, answers):
    file = written(tmp_path, "a.jsonl", json.dumps({"text": "?", **row}))
    assert read_prompts(file)[0].answers == answers


@pytest.mark.parametrize(
    ("row", "says"),
    [
        ({"text": None}, ["text = None"]),
        ({"text": ["a", "b"]}, ["text = ['a', 'b']"]),
        ({"prompt": [{"role": "user", "content": "Hi"}]}, ["prompt = [{'role'", "list of messages"]),
        ({"question": {"text": "Hi"}}, ["question = {'text'"]),
        ({"text": True}, ["text = True"]),
        ({"text": "x", "answer": True}, ["answer = True"]),
        ({"text": "x", "answer": {"value": 4}}, ["answer = {'value': 4}"]),
        ({"text": "x", "answers": [None]}, ["answers = [None]"]),
        ({"text": "x", "answers": ["4"], "answer": "5"}, ["answer = '5'", "none beside answers"]),
        ({"text": "x", "choices": ["a", "b"], "answer": 1}, ["choices = ['a', 'b']", "open"]),
        ({"text": "x", "id": ["a"]}, ["id = ['a']"]),
        ({"text": "x", "Answers": "4"}, ["'Answers'", "'answers'"]),
        ({"text": "x", "familiy": "a"}, ["'familiy'", "'family'"]),
        ({"txet": "x"}, ["no question"]),
    ],
)
def test_wrong_data_is_never_taken_in_silence(tmp_path, row, says):
    file = written(tmp_path, "w.jsonl", json.dumps({"id": "ok", "text": "fine"}) + "\n" + json.dumps(row))
    refused(lambda: read_prompts(file), "w.jsonl:2: row 2", *says)


def test_an_id_may_be_zero_and_two_rows_never_share_one(tmp_path):
    rows = [{"id": 0, "text": "a"}, {"id": 1.0, "text": "b"}, {"id": "", "text": "c"}, {"text": "d"}]
    file = written(tmp_path, "ids.jsonl", "\n".join(map(json.dumps, rows)))
    assert [p.id for p in read_prompts(file)] == ["0", "1", "ids-0003", "ids-0004"]
    file = written(tmp_path, "ids.jsonl", "\n".join(map(json.dumps, [*rows, {"id": "0", "text": "e"}])))
    refused(lambda: read_prompts(file), "row 5 repeats the id '0' of row 1")


@pytest.mark.parametrize("heldout", [0.25, 0.5, 0.75, 1.0])
def test_equal_texts_lie_on_one_side_of_the_split(heldout):
    texts = ["same", "a", " Same ", "b", "sAmE", "c", "same\n"]
    prompts = [Prompt(id=f"p{n}", text=text, family="xy"[n % 2]) for n, text in enumerate(texts)]
    for seed in range(20):
        train, out = split(prompts, heldout, seed)
        sides = [{" ".join(p.text.split()).casefold() for p in side} for side in (train, out)]
        assert not sides[0] & sides[1]
        assert len(train) + len(out) == len(prompts)
    assert not split(prompts, 0, 1)[1]
    assert not split(prompts, 1, 1)[0]


def test_wildchat_rows_without_a_conversation_are_left_out(tmp_path):
    talk = [{"role": "assistant", "content": "Hi"}, {"role": "user", "content": "How do I boil rice?"}]
    silent = [{"role": "user", "content": None}]
    table = {"conversation": [None, talk, silent, [], talk], "language": ["English"] * 4 + [None]}
    pl.DataFrame(table).write_parquet(tmp_path / "w.parquet")
    chosen = wildchat.select(wildchat.rows(tmp_path / "w.parquet"), 1, 0)
    assert [p.id for p in chosen] == ["wildchat-00001"]
    refused(lambda: wildchat.select(wildchat.rows(tmp_path / "w.parquet"), 2, 0), "only 1 rows")


# ---------------------------------------------------------------------------------------------- evals


HUB = {"question": "Q", "subject": "s", "choices": ["w", "x", "y", "z"], "answer": 2}
OWN = {"id": "1", "question": "Q", "options": ["w", "x", "y"], "answer": "C"}


@pytest.mark.parametrize(
    ("row", "says"),
    [
        (HUB | {"answer": 4}, ["answer = 4", "0 to 3"]),
        (HUB | {"answer": -1}, ["answer = -1"]),
        (HUB | {"answer": "C"}, ["answer = 'C'"]),
        (HUB | {"answer": "2"}, ["answer = '2'"]),
        (HUB | {"answer": True}, ["answer = True"]),
        (HUB | {"answer": None}, ["answer = None"]),
        (HUB | {"answer": 2.0}, ["answer = 2.0"]),
        (HUB | {"choices": list("abcdefghijk")}, ["2 to 10", "11"]),
        (HUB | {"choices": ["one"]}, ["2 to 10", "there are 1"]),
        (HUB | {"choices": "wxyz"}, ["choices = 'wxyz'"]),
        (HUB | {"choices": {"A": "w", "B": "x"}}, ["choices = {'A'"]),
        (HUB | {"choices": ["w", None, "y", "z"]}, ["choices = ['w', None"]),
        (HUB | {"question": None}, ["question = None"]),
        ({k: v for k, v in HUB.items() if k != "subject"}, ["no subject", "it has question"]),
        (OWN | {"options": {"A": "w", "B": "x"}}, ["options = {'A'"]),
        (OWN | {"answer": 0}, ["answer = 0", "A to C"]),
        (OWN | {"answer": "D"}, ["answer = 'D'"]),
        (OWN | {"answer": "AB"}, ["answer = 'AB'"]),
        (OWN | {"answer": ""}, ["answer = ''"]),
    ],
)
def test_a_wrong_multiple_choice_row_is_named(tmp_path, row, says):
    good = HUB if "choices" in row else OWN | {"id": "0"}
    file = written(tmp_path, "m.jsonl", json.dumps(good) + "\n" + json.dumps(row))
    refused(lambda: plan(load("mmlu", {"source": str(file)})), "m.jsonl:2: row 2", *says)


def test_answers_counted_from_one_are_seen(tmp_path):
    rows = [HUB | {"question": f"Q{n}", "answer": 1 + n % 3} for n in range(40)]
    file = written(tmp_path, "m.jsonl", "\n".join(map(json.dumps, rows)))
    refused(lambda: plan(load("mmlu", {"source": str(file)})), "none of 40 answers is 0", "counted from 1")
    rows[7]["answer"] = 0
    file.write_text("\n".join(map(json.dumps, rows)))
    assert plan(load("mmlu", {"source": str(file)})).rows[7].truth == "A"


def test_mmlu_tables_have_six_columns_and_no_names(tmp_path):
    file = written(tmp_path, "law_test.csv", 'Question,A,B,C,D,Answer\n"Is it, so?", x ,y,z,w,B\n')
    (row,) = plan(load("mmlu", {"source": str(file)})).rows
    assert (row.id, row.truth, row.notes["option A"]) == ("law-0001", "B", " x ")
    for line, says in (
        ("q,1,2,3,4,E\n", "answer = 'E'"),
        ("q,1,2,3,4,5,A\n", "has 7 cells"),
        (",1,2,3,4,A\n", "question"),
    ):
        bad = written(tmp_path, "bad.csv", line)
        refused(lambda bad=bad: plan(load("mmlu", {"source": str(bad)})), "bad.csv:1: row 1", says)


@pytest.mark.parametrize(
    ("answer", "truth"), [("He has 3.\n#### 1,250", "1250"), ("#### -7", "-7"), (4, "4"), (0, "0"), ("2.50", "2.5")]
)
def test_gsm8k_truths(tmp_path, answer, truth):
    file = written(tmp_path, "g.jsonl", json.dumps({"question": "Q", "answer": answer}))
    assert plan(load("gsm8k", {"source": str(file)})).rows[0].truth == truth


@pytest.mark.parametrize(
    "answer", ["He has 3 apples and 4 pears.", "#### many", "#### 3 apples", None, ["4"], "", True]
)
def test_a_gsm8k_truth_that_is_no_number_is_named(tmp_path, answer):
    file = written(tmp_path, "g.jsonl", json.dumps({"question": "Q", "answer": answer}))
    refused(lambda: plan(load("gsm8k", {"source": str(file)})), "g.jsonl:1: row 1: answer = ")


def test_only_reference_answers_are_references(tmp_path):
    asked = [{"question_id": n, "category": "c", "turns": ["a", "b"]} for n in (81, 101)]
    written(tmp_path, "question.jsonl", "\n".join(map(json.dumps, asked)))

    def answers(folder, name, one):
        (tmp_path / folder).mkdir(exist_ok=True)
        line = {"question_id": 101, "choices": [{"index": 0, "turns": one}]}
        written(tmp_path / folder, name, json.dumps(line))

    def references():
        rows = plan(load("mt_bench", {"source": str(tmp_path)})).rows
        return {row.id: [text for name, text in row.notes.items() if name.startswith("reference")] for row in rows}

    answers("model_answer", "gpt-4.jsonl", ["a model's", "own"])
    answers("model_answer", "gpt-4-turbo.jsonl", ["another", "one"])
    (tmp_path / "model_judgment").mkdir()
    written(tmp_path / "model_judgment", "gpt-4_single.jsonl", json.dumps({"question_id": 81, "score": 7}))
    assert references() == {"81": [], "101": []}
    answers("reference_answer", "gpt-4.jsonl", ["true 1", "true 2"])
    assert references() == {"81": [], "101": ["true 1", "true 2"]}
    answers("reference_answer", "gpt-4-1106.jsonl", ["true 1", "true 2"])
    refused(references, "question_id = 101", "one reference a question")
    (tmp_path / "reference_answer" / "gpt-4-1106.jsonl").unlink()
    written(tmp_path, "question.jsonl", json.dumps(asked[0] | {"turns": ["a"]}))
    refused(references, "turns = ['a']", "two questions")


def test_refusal_requests_are_texts(tmp_path):
    def ids(content, name="r.jsonl"):
        return [
            row.notes["request"]
            for row in plan(load("refusal", {"source": str(written(tmp_path, name, content))})).rows
        ]

    assert "Say, how" in ids('prompt,category\n"Say, how",x\n', "r.csv")
    assert "a\nb" in ids(json.dumps({"content": ["a", "b"]}))
    for row in ({"prompt": [{"role": "user"}]}, {"prompt": None}, {"prompt": " "}, {"forbidden_prompt": {"a": 1}}):
        refused(lambda row=row: ids(json.dumps(row)), "r.jsonl:1: row 1")
    refused(lambda: ids("prompt,category\nTell me how, exactly,x\n", "r.csv"), "row 1 has 3 cells under 2 names")


def test_rows_say_where_they_stand(tmp_path):
    file = written(tmp_path, "r.csv", 'a,b\n1,"two\nlines"\n\n3,4\n')
    assert [row.where.removeprefix(str(file)) for row in read_rows(file)] == [":3: row 1", ":5: row 2"]


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "cp1252", "utf-8"])
def test_a_terminal_of_another_encoding_gets_marks_and_no_traceback(tmp_path, encoding):
    file = written(tmp_path, "é.jsonl", json.dumps({"id": "a", "text": "駅 → é"}, ensure_ascii=False))
    env = {**os.environ, "PYTHONIOENCODING": encoding, "PYTHONUTF8": "0", "PYTHONPATH": str(ROOT / "src")}
    words = [sys.executable, "-m", "placid.cli", "prompts", str(file)]
    done = subprocess.run(words, env=env, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.decode(encoding).splitlines()[-1].startswith("a  ")


def test_a_line_that_placid_sealed_is_read_and_held_to_its_checksum(tmp_path):
    write_lines(tmp_path / "own.jsonl", [Prompt(id="a", text="Où?", answers=("là",)), Prompt(id="b", text="x")])
    assert [p.id for p in read_prompts(tmp_path / "own.jsonl")] == ["a", "b"]
    pair = Pair(kind=PairKind.INSTRUCT, prompt_id="p", messages=(Message(role="user", content="?"),), target="t")
    write_lines(tmp_path / "pairs.jsonl", [pair])
    assert [row.as_struct(Pair) for row in read_rows(tmp_path / "pairs.jsonl")] == [pair]
    for name in ("own.jsonl", "pairs.jsonl"):
        file = tmp_path / name
        file.write_bytes(file.read_bytes().replace("Où".encode(), b"Ou").replace(b'"t"', b'"T"'))
        refused(lambda file=file: list(read_rows(file)), ":1", "checksum", "crc")
