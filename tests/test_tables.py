"""placid.store.tables: what is compacted is what the segments say, whatever they are; and it is rebuildable."""

import errno
import threading
from pathlib import Path
from tempfile import TemporaryDirectory

import msgspec
import numpy as np
import polars as pl
import pytest
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st
from zarr.storage import _local

from placid.cli import main
from placid.records import BadInputError, End, EvidenceMatch, Finish, Key, Origin, Turn, Unscored, Verdict
from placid.store import RunDir, tables
from placid.store.tables import compact
from table_reader import read_turns

KEY = Key("base", "neutral", "p", 0)
WORDS = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
KEYS = st.builds(Key, st.sampled_from(["base", "bct"]), st.just("neutral"), st.sampled_from("pq"), st.integers(0, 3))


def turn(n, key=KEY, **more):
    told = {
        "user": "u", "reply": "12.", "reply_ids": (7, 8), "finish": Finish.STOP, "prompt_tokens": 5, "cached_tokens": 2,
        "seed": 1, **more,
    }  # fmt: skip
    return Turn(key=key, turn=n, **told)


@st.composite
def conversations(draw):
    """Turns of any content under some keys, in any order."""
    told = []
    for key in draw(st.sets(KEYS, min_size=1, max_size=4)):
        for n in range(1, draw(st.integers(1, 4)) + 1):
            ids = tuple(draw(st.lists(st.integers(0, 262143), max_size=5)))
            values = [float(draw(st.floats(-50, 0))) for _ in ids]
            told.append(turn(
                n, key, user=draw(WORDS), system=draw(WORDS), reply=draw(WORDS), reply_ids=ids,
                logprobs=draw(st.sampled_from([None, tuple(values)])), finish=draw(st.sampled_from(list(Finish))),
                answers=tuple(draw(st.lists(WORDS, max_size=2))), seed=draw(st.integers(0, 2**63 - 1)),
                end=draw(st.sampled_from([None, *End])),
                origin=draw(st.sampled_from([None, Origin(key=KEY, turn=3, rewrite="cleaned")])),
            ))  # fmt: skip
    return draw(st.permutations(told))


@settings(deadline=None, max_examples=25)  # each example writes files: how long that takes is the disk's business
@given(conversations(), st.data())
def test_the_tables_are_the_segments(told, data):
    with TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        patch.setattr(tables, "PART", 3)
        patch.setattr(tables, "SHARD", 8)
        patch.setattr(tables, "CHUNK", 4)
        run = RunDir(Path(folder))
        for name, part in (("1-w0", told[::2]), ("2-w0", told[1::2])):
            with run.segment(name) as segment:
                segment.append(*part)
        marks = {}
        for name in ("0001", "0002"):  # the later file's verdict stands
            with run.verdict_segment("j", name) as segment:
                for t in told:
                    score = data.draw(st.sampled_from([None, Unscored.PARSE, 0.0, 7.25]))
                    if score is not None:
                        scored = {"unscored": score} if isinstance(score, Unscored) else {"score": score}
                        marks[t.key, t.turn] = Verdict(key=t.key, turn=t.turn, judge_id="j", evidence=t.reply, **scored)
                        segment.append(marks[t.key, t.turn])
        assert compact(run)
        assert list(read_turns(run.path)) == sorted(told, key=lambda t: (t.key, t.turn))
        check_scores(run.path / "tables", marks)
        assert not [path for path in (run.path / "tables").iterdir() if path.name.startswith(".")]


def check_scores(folder, marks):
    """The matrix and the table hold the same scores, and nan means: there is none."""
    turns, verdicts = (pl.read_parquet(folder / f"{name}.parquet") for name in ("turns", "verdicts"))
    rows = {
        Key(*row[1:]): row[0] for row in turns.select("conversation", "arm", "condition", "prompt_id", "sample").rows()
    }
    assert sorted(rows, key=rows.get) == sorted(rows)
    found = {
        (Key(r["arm"], r["condition"], r["prompt_id"], r["sample"]), r["turn"]): r
        for r in verdicts.iter_rows(named=True)
    }
    assert {place: (r["score"], r["unscored"], r["evidence"]) for place, r in found.items()} == {
        place: (v.score, v.unscored, v.evidence) for place, v in marks.items()
    }
    group = zarr.open_group(folder / "tokens.zarr", mode="r")
    assert group["offsets"].shape == (turns.height + 1,)
    if "scores" in group and "j" in group["scores"]:
        scores = group["scores/j"][:]
        wanted = np.full(scores.shape, np.nan)
        for (key, n), v in marks.items():
            wanted[rows[key], n - 1] = np.nan if v.score is None else v.score
        np.testing.assert_array_equal(scores, wanted)


def filled(folder):
    run = RunDir(folder)
    with run.segment("1-w0") as segment:
        segment.append(turn(1, answers=("12",)), turn(2, end=End.DELETED))
    with run.verdict_segment("j", "0001") as segment:
        segment.append(
            Verdict(
                key=KEY, turn=1, judge_id="j", score=3.0, scale=(0.0, 100.0), evidence="12",
                evidence_match=EvidenceMatch.EXACT, on_topic=True,
            ),
            Verdict(key=KEY, turn=9, judge_id="j", score=3.0),
        )  # fmt: skip
    return run


def contents(folder):
    return {path.relative_to(folder): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def test_it_is_done_again_only_when_the_segments_changed_and_gives_the_same(tmp_path, capsys, caplog):
    run = filled(tmp_path)
    assert compact(run)
    assert "1 verdicts in" in caplog.text, "a verdict on a turn that is not there"
    first = contents(tmp_path / "tables")
    assert not compact(run)
    main(["compact", str(tmp_path)])
    assert "(up to date)" in capsys.readouterr().out
    (tmp_path / "tables/source.json").unlink()
    assert compact(run)
    assert contents(tmp_path / "tables") == first, "to the byte"
    with run.segment("2-w0") as segment:
        segment.append(turn(1, msgspec.structs.replace(KEY, sample=1)))
    assert compact(run)
    frame = pl.read_parquet(tmp_path / "tables/turns.parquet")
    assert frame["conversation"].to_list() == [0, 0, 1]
    assert frame["right"].to_list() == [True, None, None]


def test_every_field_of_a_verdict_is_there(tmp_path):
    compact(filled(tmp_path))
    (row,) = pl.read_parquet(tmp_path / "tables/verdicts.parquet").iter_rows(named=True)
    named = {"arm", "condition", "prompt_id", "sample", "conversation", "scale_low", "scale_high"}
    assert set(row) == {*Verdict.__struct_fields__, *named} - {"schema", "key", "scale"}
    assert (row["score"], row["scale_high"], row["evidence_match"], row["on_topic"]) == (3.0, 100.0, "exact", True)
    assert set(Turn.__struct_fields__) - {"schema", "key", "reply_ids"} <= set(
        pl.read_parquet_schema(tmp_path / "tables/turns.parquet")
    )


def test_a_damaged_or_empty_run_leaves_the_old_tables(tmp_path):
    with pytest.raises(BadInputError, match="nothing to compact"):
        compact(RunDir(tmp_path / "none"))
    run = filled(tmp_path / "run")
    compact(run)
    before = contents(run.path / "tables")
    with run.segment("2-w0") as segment:
        segment.append(turn(2))
    with pytest.raises(BadInputError, match="two different turns 2"):
        compact(run)
    assert contents(run.path / "tables") == before
    with pytest.raises(BadInputError, match="placid compact"):
        list(read_turns(tmp_path / "none"))


@pytest.mark.parametrize("number", [errno.EIO, errno.ENOSPC])
def test_a_write_of_zarr_that_fails_leaves_no_file_of_its_other_threads(tmp_path, monkeypatch, number):
    """The other writes of the same call go on only after the failed one was told to the main thread."""
    run = RunDir(tmp_path)
    with run.segment("1-w0") as segment:
        segment.append(*(turn(1, Key("base", "neutral", "p", n)) for n in range(30)))
    with run.verdict_segment("j", "1") as segment:
        segment.append(
            *(Verdict(key=Key("base", "neutral", "p", n), turn=1, judge_id="j", score=1.0) for n in range(30))
        )
    noticed, over, files, real = threading.Event(), threading.Event(), [], _local._put

    def put(path, value, exclusive=False):
        if path.suffix == ".json" or "scores" not in path.parts:
            return real(path, value, exclusive)
        files.append(path)
        if len(files) == 1:
            raise OSError(number, "no")
        noticed.wait(30)
        try:
            return real(path, value, exclusive)
        finally:
            over.set()

    await_zarr = tables._await_zarr
    monkeypatch.setattr(_local, "_put", put)
    monkeypatch.setattr(tables, "_await_zarr", lambda: (noticed.set(), await_zarr()))
    monkeypatch.setattr(tables, "CHUNK", 4)
    monkeypatch.setattr(tables, "SHARD", 8)
    with pytest.raises(OSError, match="no"):
        compact(run)
    noticed.set()
    assert len(files) > 1
    assert over.wait(30)
    assert not list(tmp_path.rglob("*.tmp"))
    assert not (tmp_path / "tables").exists()
