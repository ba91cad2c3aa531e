"""The instruct-only control: distinct rows as long as there are any, as many tokens as wanted, or a refusal."""

import json
import random
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import settings as quick
from hypothesis import strategies as some

from placid import store
from placid.cli import main
from placid.pairs import ControlError, PairsSettings, build
from placid.pairs.control import characters, different, match
from placid.records import Message, Pair, PairKind
from placid.report.rows import row_lines, training_rows
from test_pairs import PROMPTS, write_run
from test_study import CONFIG, ROOT


def instruct(lengths):
    """One row for each number of characters (at least 9)."""
    return [
        Pair(
            kind=PairKind.INSTRUCT,
            prompt_id=f"i{n}",
            messages=(Message(role="user", content=f"{n:06d}"),),
            target="y" * max(3, length - 6),
        )
        for n, length in enumerate(lengths)
    ]


def uses(rows):
    return Counter(row.prompt_id for row in rows)


def mean(rows):
    return sum(map(characters, rows)) / len(rows)


@pytest.mark.parametrize("tilt", [0.7, 1.0, 1.6])
@pytest.mark.parametrize("seed", [0, 1])
def test_rows_are_distinct_and_meet_the_total_wherever_so_many_can(tilt, seed):
    rng = random.Random(seed)
    rows = instruct([min(4000, int(rng.lognormvariate(5.6, 0.8))) for _ in range(2000)])
    total = int(300 * mean(rows) * tilt)
    control = match(rows, 300, total, seed, characters)
    assert set(uses(control).values()) == {1}
    assert len(control) == 300
    assert abs(sum(map(characters, control)) - total) <= 1e-3 * total


def test_the_sample_leans_no_more_than_it_must():
    """Five percent more than the average: not the longest rows, but about as many short ones as there are."""
    rng = random.Random(3)
    rows = instruct([min(4000, int(rng.lognormvariate(5.6, 0.8))) for _ in range(2000)])
    control = match(rows, 400, int(400 * mean(rows) * 1.05), 0, characters)
    middle = sorted(map(characters, rows))[1000]
    below = sum(characters(row) < middle for row in control)
    assert 0.4 * 400 < below < 0.6 * 400


def test_rows_too_short_for_both_give_more_rows_until_the_tokens_are_there():
    rng = random.Random(1)
    contexts = [min(14_000, max(400, int(rng.lognormvariate(8.3, 0.7)))) for _ in range(200)]
    rows = instruct([min(4000, max(20, int(rng.lognormvariate(5.6, 0.8)))) for _ in range(4000)])
    control = match(rows, 400, sum(contexts), 0, characters)
    assert len(control) > 400
    assert set(uses(control).values()) == {1}
    assert sum(map(characters, control)) == pytest.approx(sum(contexts), rel=1e-3)


@pytest.mark.parametrize(("number", "wanted"), [(7, 20), (30, 100), (50, 51), (40, 80)])
def test_too_few_rows_repeat_equally_often(number, wanted):
    rows = instruct(range(100, 100 + number))
    control = match(rows, wanted, int(wanted * mean(rows)), 0, characters)
    counts = uses(control).values()
    assert len(control) == wanted
    assert len(counts) == number
    assert max(counts) - min(counts) <= 1


@pytest.mark.parametrize(("number", "wanted", "total"), [(50, 100, 1_000_000), (120, 100, 1_000_000), (50, 50, 60_000)])
def test_less_than_95_percent_is_refused_with_the_ways_out(number, wanted, total):
    rows = instruct([1000] * number)
    with pytest.raises(
        ControlError, match=r"% of the wanted tokens .*pairs.instruct; about .*pairs.control = \"rows\""
    ):
        match(rows, wanted, total, 0, characters)


@quick(max_examples=60, deadline=None)
@given(some.lists(some.integers(9, 5000), min_size=1, max_size=60), some.integers(1, 80), some.floats(0.1, 3))
def test_whatever_the_lengths(lengths, wanted, factor):
    rows = instruct(lengths)
    total = max(1, int(sum(lengths) / len(lengths) * wanted * factor))
    try:
        control = match(rows, wanted, total, 0, characters)
    except ControlError:
        times, rest = divmod(max(wanted, len(rows)), len(rows))
        most = times * sum(lengths) + sum(sorted(lengths)[len(rows) - rest :])
        assert most < total
        return
    counts = uses(control)
    assert len(control) >= wanted
    assert max(counts.values()) - min([*counts.values()] if len(counts) == len(rows) else [0]) <= 1
    assert sum(map(characters, control)) >= 0.95 * total


def test_rows_that_say_the_same_under_other_ids_are_one(tmp_path):
    once = instruct(range(40, 160))
    rows = [*once, *(Pair(**{**store_fields(row), "prompt_id": f"again-{row.prompt_id}"}) for row in once)]
    assert different(rows) == once
    store.write_lines(tmp_path / "instruct.jsonl", rows)
    run = write_run(tmp_path, [[0, 6, 7, 8]] * 20, clean=[0])
    numbers = build(PairsSettings(instruct=tmp_path / "instruct.jsonl", val_share=0), run, PROMPTS, "j")
    assert numbers["control_rows"] == numbers["control_distinct"] + numbers["control_repeated"] == 120
    assert numbers["control_repeated"] == 0


def store_fields(row):
    return {"kind": row.kind, "messages": row.messages, "target": row.target}


def test_the_papers_control_has_a_row_for_each_bct_row_and_the_report_says_which(tmp_path):
    store.write_lines(tmp_path / "instruct.jsonl", instruct([30] * 200))
    run = write_run(tmp_path, [[0, 6, 7, 8]] * 20, clean=[0])
    settings = PairsSettings(instruct=tmp_path / "instruct.jsonl", val_share=0, control="rows")
    numbers = build(settings, run, PROMPTS, "j")
    assert numbers["control_rows"] == numbers["control_distinct"] == numbers["train_pairs"] == 60
    config = {"train": {"rows": {"bct": "train", "sft_control": "sft_control", "other": "dpo"}}}
    rows = training_rows(run.path, config)
    assert [(row["arm"], row["rows"], row["distinct"], row["repeated"]) for row in rows] == [
        ("bct", 120, 120, 0), ("sft_control", 60, 60, 0),
    ]  # fmt: skip
    assert rows[1]["share"] == numbers["control_size"] / numbers["train_size"]
    assert rows[1]["row_ratio"] == 0.5
    bct, control = row_lines(rows)
    assert "120 rows: 120 distinct, 0 repeats" in bct
    assert "in 0.50 times as many rows" in control
    assert "the paper's control" in control


@pytest.mark.parametrize("lengths", [[30] * 200, [12, 14, 30]])
def test_a_control_that_nothing_trains_on_is_refused_to_nobody(tmp_path, caplog, lengths):
    store.write_lines(tmp_path / "instruct.jsonl", instruct(lengths))
    run = write_run(tmp_path, [[0, 6, 7, 8]] * 20, clean=[0])
    settings = PairsSettings(instruct=tmp_path / "instruct.jsonl", val_share=0)
    with pytest.raises(ControlError):
        build(settings, run, PROMPTS, "j")
    numbers = build(settings, run, PROMPTS, "j", controlled=False)
    assert (numbers["control_rows"], numbers["train_pairs"]) == (0, 60)
    assert "sft_control.jsonl is left empty, as nothing trains on it" in caplog.text
    assert (run.path / "pairs/sft_control.jsonl").read_text() == ""
    assert training_rows(run.path, {"train": {"rows": {"bct": "train"}}})[0]["rows"] == 120


EXTRA = """
[pairs]
arm = "base"
clean_arm = "base_nohatch"
instruct = "{instruct}"
min_score = 2
"""


def test_a_refused_control_costs_no_rollout_and_either_way_out_is_open(tmp_path, capsys):
    """In a run directory whose rollouts are held: other instruct rows, or the paper's control, are the same run."""
    heldout = (ROOT / "configs/prompts/organism_heldout.jsonl").read_text().splitlines()[:6]
    (tmp_path / "prompts.jsonl").write_text("\n".join(heldout) + "\n")
    short, more = tmp_path / "short.jsonl", tmp_path / "more.jsonl"
    store.write_lines(short, instruct([40] * 200))
    store.write_lines(more, instruct([400] * 4000))
    file = tmp_path / "study.toml"
    values = {"root": tmp_path / "runs", "model": ROOT / "checkpoints/organism", "prompts": tmp_path / "prompts.jsonl"}
    file.write_text(CONFIG.format(**values) + EXTRA.format(instruct=short))
    main(["rollout", str(file)])
    segments = sorted((tmp_path / "runs/run/conversations").glob("*"))
    with pytest.raises(SystemExit) as left:
        main(["pairs", str(file)])
    assert left.value.code == 2
    shown = capsys.readouterr().err
    assert "of the wanted tokens" in shown
    assert "Traceback" not in shown
    main(["pairs", str(file), "--pairs.instruct", str(more)])
    made = tmp_path / "runs/run/pairs/dropped.json"
    assert json.loads(made.read_text())["control_repeated"] == 0
    capsys.readouterr()
    main(["pairs", str(file), "--pairs.control", "rows"])
    assert "kept as they were made (control: 'tokens' -> 'rows'" in capsys.readouterr().out
    made.unlink()
    main(["pairs", str(file), "--pairs.control", "rows"])
    told = json.loads(made.read_text())
    assert told["control_rows"] == told["train_pairs"]
    assert sorted((tmp_path / "runs/run/conversations").glob("*")) == segments
    assert (tmp_path / "runs/run/pairs/sft_control.jsonl").read_text().count("\n") == told["control_rows"]
