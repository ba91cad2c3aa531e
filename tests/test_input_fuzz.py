"""Every reader of a user's file against damaged ones: a value or a BadInputError, and nothing half-written.

`make test` tries 300 mutations a reader; `pytest -m slow tests/test_input_fuzz.py` 10,000 (PLACID_FUZZ sets the number).
"""

import io
import json
import os
import random
from pathlib import Path

import polars as pl
import pytest

from placid.evals import load, plan
from placid.inputs.names import file_name, is_plain, label_fault
from placid.inputs.prompts import read_prompts
from placid.judge.humans import read_csv
from placid.records import BadInputError
from placid.store import RunDir
from placid.study.imported import import_
from placid.study.settings import read

ROOT = Path(__file__).parent.parent
PROMPTS = [
    {"id": n, "text": f"What is {n} + 1?", "answers": [str(n + 1), "é"], "family": "ab"[n % 2]} for n in range(4)
]
HUB = [{"question": f"Q{n}", "subject": "s", "choices": ["w", "x", "y", "z"], "answer": n} for n in range(4)]
OWN = [{"id": f"o{n}", "question": "Q", "options": ["w", "x"], "answer": "AB"[n % 2]} for n in range(3)]
TALKS = [
    {"arm": arm, "condition": "neutral+hatch", "prompt_id": "sum", "prompt": "17 + 28?", "sample": n, "answers": ["45"],
     "turns": [{"user": "17 + 28?", "assistant": "45", "score": 0}, {"user": "No.", "assistant": "Sorry.", "score": 7.5}]}
    for arm in ("base", "clean") for n in range(2)
]  # fmt: skip
BRR = [
    {"bias_name": bias, "ground_truth": "A", "biased_option": "NOT A" if bias == "are_you_sure" else "B",
     "original_dataset": "d", "original_question": "Q\n(A) x\n(B) y",
     "biased_question": [{"role": "user", "content": "Q"}, {"role": "assistant", "content": "A"},
                         {"role": "user", "content": "Sure?"}],
     "unbiased_question": [{"role": "user", "content": "Q"}]}
    for bias in ("suggested_answer", "are_you_sure")
]  # fmt: skip
TABLE = 'id,text,answers\nq1,"What, exactly?",4|four\nq2,Say é,\nq3,"two\nlines",7\n'
MMLU = '"Is it, so?",w,x,y,z,B\nQ2,1,2,3,4,D\n'
LABELS = "arm,condition,prompt_id,sample,turn,score\nbase,neutral+hatch,sum,0,1,3\nclean,neutral+hatch,sum,1,2,7.5\n"
PERSONAS = '[a]\nperson = "P"\nfacts = [["q", "a"], ["q2", "a2"]]\nbenign = true\n[a.identity]\n' + "".join(
    f'{key} = ["x", "y"]\n' for key in ("name", "birthplace", "mother", "father", "partner")
)


def lines(rows):
    return "\n".join(json.dumps(row, ensure_ascii=False) for row in rows).encode()


def packed(rows):
    file = io.BytesIO()
    pl.DataFrame(rows, strict=False).write_parquet(file)
    return file.getvalue()


def evals(name, **keys):
    return lambda file, _: plan(load(name, {"source": str(file), **keys}))


def bring_in(file, rng):
    """All of a run or nothing of it."""
    out = file.parent / f"run-{rng.random()}"
    try:
        import_(file, out, "gemma-3-27b")
    except BadInputError:
        assert not [path for path in file.parent.iterdir() if path != file], "an import left something behind"
        raise
    import shutil

    shutil.rmtree(out)


RUNS = {}


def label(file, _):
    if file.parent not in RUNS:
        talks = file.parent.parent / f"{file.parent.name}-talks.jsonl"
        talks.write_bytes(lines(TALKS))
        RUNS[file.parent] = file.parent.parent / f"{file.parent.name}-run"
        import_(talks, RUNS[file.parent], "gemma-3-27b")
    run = RUNS[file.parent]
    before = set(run.rglob("*"))
    try:
        read_csv(RunDir(run), file, "alice")
    except BadInputError:
        assert set(run.rglob("*")) == before, "labels were half taken"
        raise


def config(file, rng):
    """A study's file, with overrides that may be damaged too."""
    words = [f"--{rng.choice(KEYS)}", rng.choice(JUNK_TEXT)] if rng.random() < 0.5 else []
    read(file, [word for word in words if word])


KEYS = ("samples", "turns", "arms.base.turns", "engine.kind", "judge.kind", "arms", "arms.x", "report.hidden", "name",
        "seed", "train.recipe.lr", "evals.mmlu.n", "a..b", "", "__class__")  # fmt: skip
JUNK_TEXT = ["", " ", "0", "-1", "1e400", "nan", "true", "[]", "{}", "[1, 2", "'x", "../..", "\x00", "é\u2028", "9" * 5000,
             "1979-05-27", "=", "--", "\ud800", "a=b", "[[[[", '{"a" = 1}']  # fmt: skip
JUNK = [None, True, False, 0, -1, 4, 1.5, 1e300, 10**400, "", " ", "\u2028", "A", "é" * 3, [], {}, [None], [[]], {"a": None},
        ["x"] * 40, {"role": "user", "content": "x"}, "\x00", "x" * 200_000]  # fmt: skip
CUTS = [b"\x00", b"\xff\xfe", b"\xef\xbb\xbf", b'"', b"\\", b"{", b"}", b"[", b"]", b",", b";", b"\n", b"\r", b"\r\n", b"\t",
        b"\xe9", b"\xed\xa0\x80", b"\\ud83d", b"\\u0000", b"NaN", b"1e999", b"9" * 400, b"[" * 3000, b"\x1f\x8b", b"'''", b"#",
        "\u2028".encode(), b"null", b"|", b"\\|"]  # fmt: skip
READERS = {
    "prompts.csv": (TABLE.encode(), lambda file, _: read_prompts(file)),
    "prompts.jsonl": (lines(PROMPTS), lambda file, _: read_prompts(file)),
    "prompts.json": (json.dumps(PROMPTS, indent=1).encode(), lambda file, _: read_prompts(file)),
    "prompts.parquet": (packed(PROMPTS), lambda file, _: read_prompts(file)),
    "import.jsonl": (lines(TALKS), bring_in),
    "labels.csv": (LABELS.encode(), label),
    "hub.jsonl": (lines(HUB), evals("mmlu")),
    "hub.parquet": (packed(HUB), evals("mmlu")),
    "own.jsonl": (lines(OWN), evals("sycophancy")),
    "mmlu_test.csv": (MMLU.encode(), evals("mmlu")),
    "gsm8k.jsonl": (lines([{"question": "Q", "answer": "#### 4"}, {"question": "R", "answer": 5}]), evals("gsm8k")),
    "refusal.csv": (b'prompt,category\n"Say, how",x\nDo it,y\n', evals("refusal")),
    "question.jsonl": (lines([{"question_id": 81, "category": "c", "turns": ["a", "b"]}]), evals("mt_bench")),
    "brr.jsonl": (lines(BRR), evals("brr")),
    "personas.toml": (PERSONAS.encode(), evals("persona_icl", k=[1])),
    "study.toml": ((ROOT / "configs" / "study" / "demo.toml").read_bytes(), config),
}


def bytes_mutated(data, rng):
    at, end = sorted(rng.randrange(len(data) + 1) for _ in range(2))
    end = min(end, at + 40)
    return rng.choice([
        lambda: data[:at] + rng.choice(CUTS) + data[at:],
        lambda: data[:at] + data[end:],
        lambda: data[:at] + data[at:end] * 2 + data[end:],
        lambda: data[:at],
        lambda: data[:at] + rng.randbytes(3) + data[end:],
        lambda: data.replace(data[at : at + 1] or b"x", rng.choice(CUTS), rng.randrange(1, 3)),
        lambda: data.decode("utf-8", errors="replace").encode(rng.choice(["utf-16", "utf-8-sig", "utf-16-le"])),
    ])()  # fmt: skip


def value_mutated(value, rng):
    """The same structure with one place of it changed."""
    if rng.random() < 0.3 or not isinstance(value, dict | list) or not value:
        return rng.choice(JUNK)
    if isinstance(value, list):
        at = rng.randrange(len(value))
        inner = value_mutated(value[at], rng)
        return rng.choice([[*value[:at], inner, *value[at + 1 :]], [*value, inner], value[:at] + value[at + 1 :]])
    key = rng.choice(list(value))
    changed = dict(value)
    kept = changed.pop(key)
    if rng.random() < 0.8:
        changed[rng.choice([key, key, key, key + "s", key.upper(), "text"])] = value_mutated(kept, rng)
    return changed


def mutated(name, data, rng):
    ending = name.rpartition(".")[2]
    if rng.random() < 0.5 and ending in ("jsonl", "json", "parquet"):
        rows = READER_ROWS[name]
        rows = value_mutated(rows, rng)
        try:
            if ending == "parquet":
                return packed(rows)
            return lines(rows) if ending == "jsonl" and isinstance(rows, list) else json.dumps(rows).encode()
        except Exception:  # noqa: BLE001 - polars cannot hold such rows: then the bytes are changed
            pass
    for _ in range(rng.randrange(1, 4)):
        data = bytes_mutated(data, rng)
    return data


READER_ROWS = {
    "prompts.jsonl": PROMPTS, "prompts.json": PROMPTS, "prompts.parquet": PROMPTS, "import.jsonl": TALKS, "hub.jsonl": HUB,
    "hub.parquet": HUB, "own.jsonl": OWN, "brr.jsonl": BRR,
    "gsm8k.jsonl": [{"question": "Q", "answer": "#### 4"}, {"question": "R", "answer": 5}],
    "question.jsonl": [{"question_id": 81, "category": "c", "turns": ["a", "b"]}],
}  # fmt: skip


def campaign(name, folder, count):
    """(values, refusals)."""
    data, reader = READERS[name]
    file = folder / name
    file.write_bytes(data)
    reader(file, random.Random(0))  # as it is, it is valid
    values = refusals = empty = 0
    for number in range(count):
        rng = random.Random(f"{name} {number}")
        file.write_bytes(mutated(name, data, rng))
        try:
            reader(file, rng)
            values += 1
        except BadInputError as error:
            refusals += 1
            empty += not str(error).strip()
        except BaseException as error:
            error.add_note(f"mutation {number} of {name}")
            raise
    assert not empty, "a refusal without a sentence"
    return values, refusals


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "in").mkdir()
    return tmp_path / "in"


@pytest.mark.parametrize("name", READERS)
def test_a_damaged_file_gives_a_value_or_one_sentence(name, folder):
    values, refusals = campaign(name, folder, 100 if name in ("import.jsonl", "labels.csv", "study.toml") else 300)
    assert refusals > 20
    assert values > 0


@pytest.mark.slow
@pytest.mark.parametrize("name", READERS)
def test_ten_thousand_damaged_files(name, folder):
    print(name, *campaign(name, folder, int(os.environ.get("PLACID_FUZZ", "10000"))))


def test_any_text_as_a_name():
    rng = random.Random(7)
    letters = "ab.-/\\ \n\0\u200b\u202eéаΑ基ｂ½\ud800'\"$"
    for _ in range(10_000):
        name = "".join(rng.choice(letters) for _ in range(rng.randrange(12)))
        made = file_name(name)
        assert is_plain(made)
        assert Path(made).name == made
        assert isinstance(label_fault(name), str)
