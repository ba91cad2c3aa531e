"""placid.store: what a reader finds after a kill, and who owns a run directory."""

from pathlib import Path
from tempfile import TemporaryDirectory

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from placid.inputs.prompts import read_prompts
from placid.records import BadInputError, End, Finish, Key, Prompt, Turn, Verdict
from placid.store import (
    Index,
    InvalidRecordError,
    Lines,
    RunDir,
    Segment,
    read_json,
    read_lines,
    write_atomic,
    write_json,
    write_lines,
)  # fmt: skip

KEY = Key("base", "neutral", "p", 0)


def turn(n, key=KEY):
    return Turn(
        key=key, turn=n, user="u", reply="r\né\u2028", reply_ids=(7,), finish=Finish.STOP, prompt_tokens=1,
        cached_tokens=0, seed=1,
    )  # fmt: skip


def segment_of(tmp_path, *turns):
    file = tmp_path / "a.jsonl"
    with Segment(file) as segment:
        segment.append(*turns)
    return file


def test_what_is_written_is_read(tmp_path):
    assert list(read_lines(segment_of(tmp_path, turn(1), turn(2)), Turn)) == [turn(1), turn(2)]


def test_a_torn_last_line_is_dropped_wherever_it_tears(tmp_path, caplog):
    file = segment_of(tmp_path, turn(1), turn(2))
    whole = file.read_bytes()
    second = whole.index(b"\n") + 1
    for size in range(second + 1, len(whole) - 1):
        file.write_bytes(whole[:size])
        assert list(read_lines(file, Turn)) == [turn(1)]
    assert "a.jsonl:2: dropped a torn last line" in caplog.text


@pytest.mark.parametrize("bad", [b"nonsense", b'{"turn": 1}', b"\xff\xfe"])
def test_a_bad_line_elsewhere_is_refused_with_file_and_line(tmp_path, bad):
    file = segment_of(tmp_path, turn(1), turn(2))
    first, second, _ = file.read_bytes().split(b"\n")
    file.write_bytes(b"\n".join([first, bad, second, b""]))
    with pytest.raises(BadInputError, match=r"a\.jsonl:2: not a Turn"):
        list(read_lines(file, Turn))


def test_a_complete_bad_last_line_is_refused_too(tmp_path):
    file = segment_of(tmp_path, turn(1))
    file.write_bytes(file.read_bytes() + b"nonsense\n")
    with pytest.raises(BadInputError, match=r"a\.jsonl:2"):
        list(read_lines(file, Turn))


@pytest.mark.parametrize("tail", [b"\0" * 4096, b'{"schema":1,"key"' + b"\0" * 100])
def test_a_tail_of_nul_bytes_is_dropped_like_any_torn_line(tmp_path, caplog, tail):
    """What a file system leaves that grew the file and lost the data."""
    file = segment_of(tmp_path, turn(1), turn(2))
    file.write_bytes(file.read_bytes() + tail)
    assert list(read_lines(file, Turn)) == [turn(1), turn(2)]
    assert f"a.jsonl:3: dropped a torn last line ({len(tail)} bytes)" in caplog.text


@pytest.mark.parametrize("schema", [3, 99])
@pytest.mark.parametrize("more", [b"", b',"tokens":5'], ids=["same fields", "other fields"])
def test_another_schema_is_refused_by_its_number(tmp_path, schema, more):
    file = segment_of(tmp_path, turn(1))
    file.write_bytes(file.read_bytes().replace(b'"schema":2', f'"schema":{schema}'.encode() + more))
    with pytest.raises(BadInputError, match=rf"a\.jsonl:1: schema {schema}, this placid reads 2"):
        list(read_lines(file, Turn))


def test_a_segment_has_one_writer(tmp_path):
    run = RunDir(tmp_path)
    with run.segment("1-w0") as segment:
        segment.append(turn(1))
        with pytest.raises(FileExistsError):
            run.segment("1-w0")
    with pytest.raises(FileExistsError):  # nor is a finished one opened again
        run.segment("1-w0")


def test_a_line_that_is_not_yet_synced_is_there_and_is_synced_once(tmp_path, monkeypatch):
    synced = []
    monkeypatch.setattr("placid.store.segment.os.fsync", synced.append)
    with Segment(tmp_path / "a.jsonl") as segment:
        segment.append(Prompt(id="a", text="x"), sync=False)
        assert [prompt.id for prompt in read_lines(segment.path, Prompt)] == ["a"]
        assert not synced
        segment.sync()
        segment.sync()
        assert len(synced) == 1
        segment.append(Prompt(id="b", text="x"), sync=False)
    assert len(synced) == 2  # by closing it


def test_an_idle_writer_leaves_no_file(tmp_path):
    with RunDir(tmp_path).segment("1-w0"):
        pass
    assert not list(tmp_path.rglob("*.jsonl"))


def test_a_run_directory_is_free_until_it_has_begun(tmp_path):
    run = RunDir(tmp_path / "run")
    assert run.free()
    run.begin({"a": {"b": 1}}, {"arms.base": {"seed": 1}}, {})
    assert not run.free()
    assert read_json(run.path / "config.json") == {"config": {"a": {"b": 1}}, "identities": {"arms.base": {"seed": 1}}}


def test_a_folder_of_something_else_is_not_taken(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(BadInputError, match=r"holds no config\.json"):
        RunDir(tmp_path).free()
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


def test_attempts_are_numbered(tmp_path):
    run = RunDir(tmp_path)
    assert [run.new_attempt().name for _ in range(11)] == [str(n) for n in range(1, 12)]


def test_conversations_are_put_together_across_segments(tmp_path):
    run, prompts = RunDir(tmp_path), [Prompt(id="p", text="q")]
    for name, number in (("1-w0", 2), ("2-w0", 1)):
        with run.segment(name) as segment:
            segment.append(turn(number))
    assert run.conversations(prompts)[KEY].turns == (turn(1), turn(2))
    with run.segment("3-w0") as segment:
        segment.append(msgspec.structs.replace(turn(2), reply="another"))
    with pytest.raises(BadInputError, match=r"two different turns 2 .*1-w0\.jsonl.*3-w0\.jsonl.*placid repair"):
        run.conversations(prompts)


def test_a_missing_turn_is_refused(tmp_path):
    with RunDir(tmp_path).segment("1-w0") as segment:
        segment.append(turn(1), turn(3))
    with pytest.raises(BadInputError, match=r"holds turns \[1, 3\]; expected 1\.\.n"):
        RunDir(tmp_path).conversations([Prompt(id="p", text="q")])


KEYS = st.builds(Key, st.sampled_from(["base", "bct"]), st.just("neutral"), st.sampled_from("pq"), st.integers(0, 3))


@settings(deadline=None)  # each example writes files: how long that takes is the disk's business
@given(st.dictionaries(KEYS, st.integers(1, 5), min_size=1), st.randoms())
def test_an_index_finds_every_turn_in_any_order_and_any_file(lengths, shuffle):
    spoken = [turn(n, key) for key, length in lengths.items() for n in range(1, length + 1)]
    shuffle.shuffle(spoken)
    with TemporaryDirectory() as folder:
        run = RunDir(Path(folder))
        for name, part in (("1-w0", spoken[::2]), ("1-w1", spoken[1::2])):
            with run.segment(name) as segment:
                segment.append(*part)
        index = run.index()
        assert list(index) == sorted(lengths)
        assert {key: [t.turn for t in index.turns(key)] for key in index} == {
            key: list(range(1, length + 1)) for key, length in lengths.items()
        }
        assert all(t.key == key for key in index for t in index.turns(key))
        told = list(run.stream([Prompt(id="p", text="q")]))
        assert [c.key for c in told] == sorted(key for key in lengths if key.prompt_id == "p")


def test_an_index_knows_the_ends_and_names_a_damaged_line(tmp_path):
    run = RunDir(tmp_path)
    with run.segment("1-w0") as segment:
        segment.append(turn(1), msgspec.structs.replace(turn(2), end=End.DELETED))
    index = run.index()
    assert (index.ends, KEY in index, len(index)) == ({KEY: End.DELETED}, True, 1)
    file = tmp_path / "conversations" / "1-w0.jsonl"
    file.write_bytes(file.read_bytes().replace(b'"turn":2,"user":"u"', b'"turn":2,"user":7  '))
    with pytest.raises(BadInputError, match=r"1-w0\.jsonl:2: damaged"):
        run.index().turns(KEY)


def test_verdicts_are_found_by_key_and_turn(tmp_path):
    run = RunDir(tmp_path)
    for writer, score in (("1", 3.0), ("2", 4.0)):
        with run.verdict_segment("j", writer) as segment:
            segment.append(Verdict(key=KEY, turn=1, judge_id="j", score=score))
    assert run.verdicts("j")[KEY, 1].score == 4
    assert run.verdicts("other") == {}


@pytest.mark.parametrize(
    ("prompts", "message"),
    [
        ([], "holds no rows, so no prompts"),
        ([Prompt(id="a", text=" ")], "p.jsonl:1: row 1: text = ' '; expected .*neither empty"),
        ([Prompt(id="a", text="x"), Prompt(id="a", text="y")], "p.jsonl:2: row 2 repeats the id 'a' of row 1"),
    ],
)
def test_bad_prompts_are_refused(tmp_path, prompts, message):
    write_lines(tmp_path / "p.jsonl", prompts)
    with pytest.raises(BadInputError, match=message):
        read_prompts(tmp_path / "p.jsonl")


def test_an_atomic_write_leaves_nothing_beside_it(tmp_path):
    file = tmp_path / "deep" / "a.json"
    for data in (b"1", b"2"):
        write_atomic(file, data)
        assert file.read_bytes() == data
    assert list(file.parent.iterdir()) == [file]


def test_a_growing_run_is_taken_in_look_by_look(tmp_path):
    """Each look gives the conversations with new turns; a line that is still being written waits for the next."""
    run_dir = RunDir(tmp_path)
    keys = [Key("base", "neutral", "p", n) for n in range(2)]

    def turn(key, number, end=None):
        return Turn(key=key, turn=number, user="u", reply=f"r{number}", reply_ids=(1,), finish=Finish.STOP, prompt_tokens=1,
                    cached_tokens=0, seed=1, end=end)  # fmt: skip

    index = run_dir.index()
    assert index.refresh(run_dir.segments()) == []
    one = run_dir.segment("1")
    assert one.append(turn(keys[0], 1), turn(keys[0], 2))[0][0] == 0
    assert index.refresh(run_dir.segments()) == [keys[0]]
    assert index.refresh(run_dir.segments()) == []
    line = Lines().line(turn(keys[0], 3, End.FINISHED))
    with run_dir.segments()[0].open("ab") as file:
        file.write(line[:40])
        file.flush()
        assert index.refresh(run_dir.segments()) == []
        file.write(line[40:])
    with run_dir.segment("2") as two:
        two.append(turn(keys[1], 1))
    assert index.refresh(run_dir.segments()) == keys
    assert index.numbers(keys[0]) == [1, 2, 3]
    assert index.ends == {keys[0]: End.FINISHED}
    assert [len(turns) for turns in index.walk(keys)] == [3, 1]
    one.close()


def test_no_flipped_bit_of_a_line_is_read(tmp_path, caplog):
    """Not one of a record, of its checksum, or of the ends of the lines."""
    file = segment_of(tmp_path, turn(1), turn(2))
    whole = file.read_bytes()
    for bit in range(0, 8 * len(whole), 5):
        file.write_bytes(flipped(whole, bit))
        with pytest.raises(BadInputError, match=r"a\.jsonl:[12]: "):
            list(read_lines(file, Turn))
        with pytest.raises(BadInputError, match=r"a\.jsonl:[12]: "):
            Index([file])
    assert not caplog.text


def test_what_changes_between_the_index_and_the_walk_is_noticed(tmp_path):
    file = segment_of(tmp_path, turn(1), turn(2))
    whole = file.read_bytes()
    index = Index([file])
    assert index.turns(KEY) == (turn(1), turn(2))
    for changed in [*(flipped(whole, bit) for bit in range(0, 8 * len(whole), 5)), whole[:-30], b""]:
        file.write_bytes(changed)
        with pytest.raises(BadInputError, match=r"a\.jsonl:[12]: "):
            index.turns(KEY)
    file.write_bytes(whole)
    assert index.turns(KEY) == (turn(1), turn(2))


def flipped(data, bit):
    changed = bytearray(data)
    changed[bit // 8] ^= 1 << bit % 8
    return bytes(changed)


def test_no_flipped_bit_of_a_json_file_is_read(tmp_path):
    file = tmp_path / "adapters.json"
    value = {"bct": "checkpoints/ü/step_3", "loss": [1.5, None], "checks": "a"}
    write_json(file, value)
    whole = file.read_bytes()
    assert read_json(file) == value
    for bit in range(0, 8 * len(whole), 5):
        file.write_bytes(flipped(whole, bit))
        with pytest.raises(BadInputError, match=r"adapters\.json is damaged.*makes it again"):
            read_json(file)


@pytest.mark.parametrize("value", [{}, {"a": {}}, {"a": "}"}, [1], [], {"checksum_of": 1}])
def test_json_with_and_without_a_checksum_is_read(tmp_path, value):
    write_json(tmp_path / "a.json", value)
    assert read_json(tmp_path / "a.json") == value
    write_json(tmp_path / "a.json", value, checksum=False)
    assert read_json(tmp_path / "a.json") == value


@pytest.mark.parametrize(
    "changes",
    [
        {"cached_tokens": 12.5},
        {"prompt_tokens": "12"},
        {"prompt_tokens": -1},
        {"prompt_tokens": 2**31},
        {"cached_tokens": None},
        {"reply_ids": (True,)},
        {"reply_ids": (1.5,)},
        {"reply_ids": (2**31,)},
        {"reply_ids": (-1,)},
        {"reply_ids": "ab"},
        {"logprobs": (float("nan"),)},
        {"logprobs": (float("-inf"),)},
        {"logprobs": ("-1",)},
        {"reply": None},
        {"reply": "half a pair \ud800"},
        {"finish": "because"},
        {"seed": 2**64},
        {"turn": 0},
        {"turn": True},
        {"answers": ("a", 1)},
        {"key": "base"},
        {"user": object()},
    ],
)
def test_what_no_reader_would_take_is_never_written(tmp_path, changes):
    with Segment(tmp_path / "a.jsonl") as segment:
        segment.append(turn(1))
        with pytest.raises(InvalidRecordError, match="not a Turn: "):
            segment.append(turn(2), msgspec.structs.replace(turn(3), **changes))
        assert segment.append(turn(2))[0][0] == len(Lines().line(turn(1)))
    assert list(read_lines(tmp_path / "a.jsonl", Turn)) == [turn(1), turn(2)]
    with pytest.raises(InvalidRecordError):
        write_lines(tmp_path / "b.jsonl", [msgspec.structs.replace(turn(3), **changes)])
    assert not (tmp_path / "b.jsonl").exists()


def test_as_many_log_probabilities_as_tokens():
    with pytest.raises(ValueError, match="2 log-probabilities of 1 tokens"):
        msgspec.structs.replace(turn(1), logprobs=(-1.0, -1.0))
