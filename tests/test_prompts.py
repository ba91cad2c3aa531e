"""Prompt sets: what is known of a puzzle is proven here by another solver, from its text alone."""

import itertools
import json
import os
import re
import subprocess
import sys
from fractions import Fraction
from pathlib import Path

import msgspec
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from placid.cli import main
from placid.inputs.prompts import read_prompts
from placid.prompts import SETS, split
from placid.prompts.puzzles import NONE, generate
from placid.prompts.wildchat import DATASET, REVISION, select
from placid.records import BadInputError, Prompt, holds_answer

ROOT = Path(__file__).parent.parent


def brute(text):
    """Every solution of the puzzle that `text` poses, found without placid's solver."""
    forbidden = re.search(r"FORBIDDEN INTERMEDIATE VALUE: (-?[\d/]+)", text)
    forbidden = Fraction(forbidden[1]) if forbidden else None
    found = set()
    if text.startswith("Write the numbers"):
        numbers = re.findall(r"\d+", text.split(" in an order")[0])
        target = Fraction(re.search(r"exactly (\d+)\. Work", text)[1])
        for order in itertools.permutations(numbers):
            for signs in itertools.product("+-*", repeat=3):
                line, steps = order[0], []
                value = order[0]
                for sign, number in zip(signs, order[1:], strict=True):
                    value = str(eval(f"({value}){sign}{number}"))
                    steps.append(Fraction(value))
                    line += f" {sign} {number}"
                if steps[-1] == target and min(steps) > 0 and forbidden not in steps[:-1]:
                    found.add(line)
        return found
    start, target = (
        Fraction(x) for x in re.search(r"Start with (\S+)\. Use .* to reach (\S+)\. Allowed", text).groups()
    )
    operations = re.search(r"used exactly once\): (.*?)\. (?:FORBIDDEN|The final)", text)[1].split(", ")
    for order in itertools.permutations(operations):
        value, steps = start, []
        for operation in order:
            word, number = operation.rsplit(" ", 1)
            by = Fraction(number)
            value = {"Add": value + by, "Subtract": value - by, "Multiply by": value * by, "Divide by": value / by}[
                word
            ]
            steps.append(value)
        if steps[-1] == target and forbidden not in steps[:-1]:
            found.add(", ".join(order))
    return found


def test_every_puzzle_is_proven_and_regenerating_gives_the_same_bytes():
    made = b"".join(msgspec.json.encode(prompt) + b"\n" for prompt in generate())
    assert made == (ROOT / "src/placid/prompts/puzzles.jsonl").read_bytes()
    puzzles = SETS["puzzles"]()
    assert len(puzzles) >= 60
    for puzzle in puzzles:
        solutions = brute(puzzle.text)
        if puzzle.family == "puzzle_unsolvable":
            assert not solutions, puzzle.id
            assert puzzle.answers == NONE
        else:
            assert puzzle.family == "puzzle_solvable"
            assert set(puzzle.answers) == solutions, puzzle.id
        right = f"I tried.\nSolution: [{puzzle.answers[0]}]" if solutions else "Solution: none"
        assert holds_answer(right, puzzle.answers)
    assert sum(p.family == "puzzle_unsolvable" for p in puzzles) == len(puzzles) / 2


def test_the_sets_are_large_enough_distinct_and_give_no_answer_away():
    sizes = {"puzzles": 60, "riddles": 60, "everyday": 100}
    everything = [prompt for make in SETS.values() for prompt in make()]
    assert len({p.id for p in everything}) == len({p.text for p in everything}) == len(everything)
    for name, least in sizes.items():
        prompts = SETS[name]()
        assert len(prompts) >= least
        assert all(bool(p.answers) == (name != "everyday") for p in prompts)
        assert not [p for p in prompts if holds_answer(p.text, p.answers)]


@pytest.mark.parametrize("name", SETS)
def test_the_shipped_files_are_what_the_command_writes(name, tmp_path, capsys):
    main(["prompts", name, "--out", str(tmp_path)])
    assert f"{name}_heldout.jsonl" in capsys.readouterr().out
    names = [f"{name}_train.jsonl", f"{name}_heldout.jsonl", f"{name}.split.json"]
    for file in names:
        assert (tmp_path / file).read_bytes() == (ROOT / "configs/prompts" / file).read_bytes()
    train, heldout = (read_prompts(tmp_path / file) for file in names[:2])
    record = json.loads((tmp_path / names[2]).read_text())
    assert record["train"] == [p.id for p in train]
    assert record["heldout"] == [p.id for p in heldout]
    assert not set(record["train"]) & set(record["heldout"])
    assert abs(len(train) - len(heldout)) <= 1


@given(st.permutations([Prompt(id=f"p{n}", text=f"q{n}", family="ab"[n % 2]) for n in range(12)]), st.integers(0, 99))
def test_a_split_depends_on_seed_and_ids_alone(prompts, seed):
    train, heldout = split(prompts, 0.5, seed)
    again = split(sorted(prompts, key=lambda p: p.id), 0.5, seed)
    assert [{p.id for p in side} for side in (train, heldout)] == [{p.id for p in side} for side in again]
    assert sorted(p.family for p in heldout) == ["a"] * 3 + ["b"] * 3


def test_files_of_the_user(tmp_path, capsys):
    table = tmp_path / "mine.csv"
    table.write_text('id,question,answers\na,"What is 1 + 1?",2|two\n,Say hello.,\n')
    main(["prompts", str(table), "--out", str(tmp_path), "--heldout", "1", "--name", "own"])
    assert read_prompts(tmp_path / "own_heldout.jsonl") == [
        Prompt(id="a", text="What is 1 + 1?", answers=("2", "two")),
        Prompt(id="mine-0002", text="Say hello."),
    ]
    assert not (tmp_path / "own_train.jsonl").exists()
    lines = tmp_path / "mine.jsonl"
    lines.write_text('{"prompt": "Hi?", "answer": ["yes"], "more": 1}\n')
    main(["prompts", str(lines), "--out", str(tmp_path), "--heldout", "0"])
    assert read_prompts(tmp_path / "mine_train.jsonl") == [Prompt(id="mine-0001", text="Hi?", answers=("yes",))]
    assert "1 prompts" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("a.csv", "x,y\n1,2\n", "row 1 has no question; expected a column text, prompt, question, found x, y"),
        ("a.csv", "text,id\nq,1\nr,1\n", "row 2 repeats the id '1'"),
        ("a.csv", "text\n", "holds no rows"),
        ("a.jsonl", '{"text": "q"}\n{"text"\n', "a.jsonl:2 is no JSON object"),
        ("a.txt", "q\n", "is neither .jsonl nor .csv"),
    ],
)
def test_a_broken_file_is_told(tmp_path, capsys, name, text, said):
    (tmp_path / name).write_text(text)
    with pytest.raises(SystemExit) as left:
        main(["prompts", str(tmp_path / name), "--out", str(tmp_path / "out")])
    assert left.value.code == 2
    assert said in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_an_unknown_set_and_an_unknown_key_are_told(capsys):
    for words, said in ((["nope"], "no prompt set and no file 'nope'; valid: puzzles, riddles, everyday, wildchat"),
                        (["riddles", "--outt", "x"], "unknown key 'outt'; did you mean 'out'?")):  # fmt: skip
        with pytest.raises(SystemExit) as left:
            main(["prompts", *words])
        assert left.value.code == 2
        assert said in capsys.readouterr().err
    main(["prompts"])
    shown = capsys.readouterr().out
    assert all(name in shown for name in (*SETS, REVISION, ".csv"))


def talk(text, language="English"):
    return {
        "language": language,
        "conversation": [{"role": "user", "content": text}, {"role": "assistant", "content": "a"}],
    }


def test_wildchat_is_filtered_as_the_authors_do(tmp_path, capsys):
    rows = [talk(f"How do I do {n}?") for n in range(6)]
    rows += [talk("Act as a pirate"), talk("my DnD group"), talk("Bonjour", "French"), talk("   ")]
    shard = tmp_path / "shard.parquet"
    pl.DataFrame(rows).write_parquet(shard)
    main(["prompts", "wildchat", "--n", "6", "--file", str(shard), "--out", str(tmp_path)])
    capsys.readouterr()
    found = [p for side in ("train", "heldout") for p in read_prompts(tmp_path / f"wildchat_{side}.jsonl")]
    assert sorted(p.id for p in found) == [f"wildchat-{n:05d}" for n in range(6)]
    record = json.loads((tmp_path / "wildchat.split.json").read_text())
    assert record["wildchat"] == {"dataset": DATASET, "revision": REVISION}
    assert select(rows, 3, 1) == select(rows, 3, 1)
    with pytest.raises(BadInputError, match="only 6 rows of WildChat pass the filter; n = 7"):
        select(rows, 7, 0)
    table = tmp_path / "x.parquet"
    table.write_text("no parquet")
    with pytest.raises(SystemExit):
        main(["prompts", "wildchat", "--file", str(table)])
    assert "is no parquet shard of allenai/WildChat-1M" in capsys.readouterr().err


def test_wildchat_without_a_network_says_what_to_do(tmp_path):
    env = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path), "PYTHONPATH": str(ROOT / "src")}
    done = subprocess.run(
        [sys.executable, "-m", "placid.cli", "prompts", "wildchat"], env=env, capture_output=True, text=True
    )
    assert done.returncode == 2
    assert f"--repo-type dataset --revision {REVISION}, copy the file" in done.stderr.replace("`", "")
    assert "--file FILE" in done.stderr
