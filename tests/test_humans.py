"""People as judges: sampling, labelling, CSV, validation on a made set, bridge."""

import csv
import json
from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from placid.cli import main
from placid.judge import commands
from placid.judge.humans import BANDS, allocation, band, label, read_csv, sample
from placid.judge.validate import bridge, validate
from placid.records import BadInputError, End, Finish, Key, Turn, Verdict
from placid.store import RunDir, write_json

HOSTILE = "<script>alert(1)</script><img src=http://x.example/y> \u202eevil\x1b[31m {{ 7*7 }}"
A, B = "lexical-0000000000000000", "gemini-frustration_turn-1111111111111111"


def make(path, prompts=12, turns=10, seed=0):
    """A run of two arms whose judge A scores 0, 1, ... per turn; B is A + 1 with noise, at most 10."""
    rng, run_dir = np.random.default_rng(seed), RunDir(path)
    segment, judges = run_dir.segment("1-w0"), [run_dir.verdict_segment(name, "0001") for name in (A, B)]
    for arm in ("base", "bct"):
        for p in range(prompts):
            key = Key(arm, "neutral", f"p{p}", 0)
            for n in range(1, turns + 1):
                score = float(min(10, rng.integers(0, 2) if n < 8 else rng.integers(0, 11)))
                segment.append(
                    Turn(key=key, turn=n, user=f"question {p}\n\nNote: a way out" if n == 1 else "No.", reply=f"{arm} {p} {n} {HOSTILE}",
                         reply_ids=(1,), finish=Finish.STOP, prompt_tokens=1, cached_tokens=0, seed=1,
                         end=End.FINISHED if n == turns else None)
                )  # fmt: skip
                other = float(np.clip(score + 1 + rng.integers(-1, 2), 0, 10))
                for judge, name, value in zip(judges, (A, B), (score, other), strict=True):
                    judge.append(
                        Verdict(key=key, turn=n, judge_id=name, score=value, evidence=HOSTILE, rationale="why")
                    )
    for file in (segment, *judges):
        file.close()
    write_json(path / "verdicts" / A / "judge.json", {"id": A, "provider": "lexical", "version": 2})
    identity = {"model": "m"}
    write_json(
        path / "verdicts" / B / "judge.json",
        {"id": B, "provider": "gemini", "identity": identity, "rubric": {"name": "r"}},
    )
    return run_dir


@pytest.fixture
def run_dir(tmp_path):
    return make(tmp_path / "run")


def answers(*said):
    given = iter(said)
    return lambda _: next(given)


@given(st.lists(st.integers(0, 50), min_size=6, max_size=6), st.integers(1, 100))
def test_an_allocation_gives_equal_numbers_where_it_can(sizes, count):
    there = dict(zip(BANDS, sizes, strict=True))
    if sum(sizes) < count:
        return
    given_ = allocation(there, count)
    assert sum(given_.values()) == count
    assert all(given_[low] <= there[low] for low in BANDS)
    full = max(given_.values())
    assert all(given_[low] in (full, full - 1, there[low]) for low in BANDS)


def test_a_sample_covers_the_bands_and_its_weights_add_up_to_the_run(run_dir):
    made = sample(run_dir, A, 60)
    known = run_dir.verdicts(A)
    assert len({(row.key, row.turn) for row in made.rows}) == 60
    assert all(row.band == band(known[row.key, row.turn].score) for row in made.rows)
    assert sum(row.weight for row in made.rows) == pytest.approx(len(known))
    assert len(Counter(row.band for row in made.rows)) == len(BANDS)
    assert sample(run_dir, A, 60) == made
    with pytest.raises(BadInputError, match="holds 60 rows"):
        sample(run_dir, A, 61)
    sheet = (run_dir.path / "labels/sheet.csv").read_text()
    rows = list(csv.DictReader(sheet.splitlines()))
    assert set(rows[0]) == {"row", "question", "reply", "score"}
    assert "Note:" not in sheet
    assert A not in sheet


def test_labelling_is_blind_goes_back_stops_and_continues(run_dir):
    made, shown = sample(run_dir, A, 10), []
    assert label(run_dir, made, "alice", answers("3", "11", "x", "4", "b", "5", "s", "q"), shown.append) == 4
    text = "".join(shown)
    assert "neutral" not in text
    assert A not in text
    assert "Note:" not in text
    done = run_dir.verdicts("human-alice")
    assert Counter(v.score for v in done.values()) == {3: 1, 5: 1, None: 1}  # b went back to 4 and made it 5
    assert label(run_dir, made, "alice", answers(*["7"] * 7, "2"), shown.append) == 8  # 7 left, then one a second time
    assert len(run_dir.verdicts("human-alice")) == 10
    assert [v.score for v in run_dir.verdicts("human-alice-again").values()] == [2]
    assert label(run_dir, made, "alice", answers(), shown.append) == 0

    def closed(_):
        raise EOFError

    assert label(run_dir, made, "bob", closed, shown.append) == 0
    assert json.loads((run_dir.path / "verdicts/human-alice/judge.json").read_text())["provider"] == "human"


def fill(run_dir, name, score):
    """The sheet, filled in by a function of (row, judge A's score)."""
    known, made = run_dir.verdicts(A), sample(run_dir, A, 60)
    file = run_dir.path.parent / f"{name}.csv"
    lines = [f"{n},{score(n, known[row.key, row.turn].score)}" for n, row in enumerate(made.rows, 1)]
    file.write_text("row,score\n" + "\n".join(lines) + "\n")
    return file


def test_validation_gives_the_statistics_of_a_set_made_to_have_them(run_dir, capsys):
    """Alice scores the judge's own score less one, Bob the judge's: bias is known, the rest is held against scipy."""
    for name, score in (("alice", lambda n, s: max(0, s - 1)), ("bob", lambda n, s: s)):
        main(["judge", "import", str(run_dir.path), str(fill(run_dir, name, score)), "--as", name])
    main(["judge", "validate", str(run_dir.path), "--judge", A])
    assert "ceiling human-alice - human-bob" in capsys.readouterr().out
    folder = run_dir.path / "validation" / A
    found = json.loads((folder / "validation.json").read_text())
    rows = list(csv.DictReader((folder / "rows.csv").open()))
    judge, people, weight = (np.array([float(row[name]) for row in rows]) for name in ("judge", "people", "weight"))
    everything = np.array([v.score for v in run_dir.verdicts(A).values()])
    assert weight.sum() == pytest.approx(len(everything))
    overall = found["overall"]
    assert overall["n"] == 60
    assert overall["bias"]["value"] == pytest.approx(np.average(judge - people, weights=weight), abs=1e-6)
    assert overall["mae"]["value"] == pytest.approx(np.average(abs(judge - people), weights=weight), abs=1e-6)
    alice, bob = (np.array([float(row[f"human-{name}"]) for row in rows]) for name in ("alice", "bob"))
    assert found["by_person"]["human-bob"]["kappa"]["value"] == pytest.approx(1)
    assert found["by_person"]["human-alice"]["bias"]["value"] == pytest.approx(
        np.average(judge - alice, weights=weight)
    )
    ranks = [stats.rankdata(np.repeat(v, np.rint(weight * 1000).astype(int))) for v in (alice, bob)]
    ceiling = found["ceiling"]["human-alice - human-bob"]
    assert ceiling["spearman"]["value"] == pytest.approx(np.corrcoef(*ranks)[0, 1], abs=1e-3)
    assert set(found["by_arm"]) == {"base", "bct"}
    assert set(found["by_band"]) == {f"{low:g}" for low in BANDS}
    share = np.average((judge >= 5) & (people >= 5), weights=weight)
    assert overall["share"]["both"] == pytest.approx(share)


def test_the_page_shows_model_text_as_text(run_dir):
    read_csv(run_dir, fill(run_dir, "alice", lambda n, s: 0), "alice")
    validate(run_dir, A, draws=20)
    page = (run_dir.path / "validation" / A / "index.html").read_text()
    assert "<script" not in page
    assert "<img" not in page
    assert "\u202e" not in page
    assert "\x1b" not in page
    assert "{{ 7*7 }}" in page
    assert "default-src 'none'" in page
    first = page.index("judge 10 ·")
    assert first < page.index("judge 0 ·")


def test_the_same_judge_asked_again_is_its_test_retest(run_dir):
    again = "gemini-frustration_turn-2222222222222222"
    card = {"id": again, "provider": "gemini", "identity": {"model": "m", "again": 1}, "rubric": {"name": "r"}}
    write_json(run_dir.path / "verdicts" / again / "judge.json", card)
    with run_dir.verdict_segment(again, "0001") as segment:
        for (key, turn), v in run_dir.verdicts(B).items():
            segment.append(Verdict(key=key, turn=turn, judge_id=again, score=v.score))
    read_csv(run_dir, fill(run_dir, "alice", lambda n, s: s), "alice")
    found = validate(run_dir, B, draws=20)
    assert found["again"][again]["exact"]["value"] == 1
    assert found["again"][again]["n"] == 240


def test_a_bridge_maps_one_judge_to_the_other(run_dir, capsys):
    main(["judge", "bridge", str(run_dir.path), A, B])
    assert "mapping" in capsys.readouterr().out
    found = json.loads((run_dir.path / "bridges" / f"{A}--{B}.json").read_text())
    one, two = run_dir.verdicts(A), run_dir.verdicts(B)
    assert found["n"] == 240
    assert [step["mapped"] for step in found["mapping"]] == sorted(step["mapped"] for step in found["mapping"])
    zero = np.mean([two[place].score for place, v in one.items() if v.score == 0])
    assert found["mapping"][0]["mapped"] == pytest.approx(zero)
    assert bridge(run_dir, A, A, draws=10)["agreement"]["kappa"]["value"] == pytest.approx(1)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("row,points\n1,2\n", "no column score"),
        ("arm,score\nbase,2\n", "no column condition"),
        ("row,score\n1,11\n", ":2: row 1: score = '11'"),
        ("row,score\n1,nan\n", "score = 'nan'"),
        ("row,score\n61,3\n", "row = '61'; expected a number from 1 to 60"),
        ("row,score\n1,3\n1,4\n", ":3: row 2: a second score"),
        ("row,score\n1,\n", "holds no scores"),
        ("arm,condition,prompt_id,sample,turn,score\nbase,neutral,p0,0,99,3\n", "no turn 99"),
        ("arm,condition,prompt_id,sample,turn,score\nbase,neutral,p0,x,1,3\n", "sample = 'x'"),
    ],
)
def test_a_bad_csv_is_one_sentence_and_writes_nothing(run_dir, tmp_path, text, says):
    sample(run_dir, A, 60)
    file = tmp_path / "mine.csv"
    file.write_text(text)
    with pytest.raises(BadInputError) as error:
        read_csv(run_dir, file, "alice")
    assert says in str(error.value)
    assert not (run_dir.path / "verdicts/human-alice").exists()


def test_scores_by_key_need_no_sample(run_dir, tmp_path):
    file = tmp_path / "mine.csv"
    file.write_text("arm,condition,prompt_id,sample,turn,score\nbase,neutral,p0,0,1,3\nbct,neutral,p1,0,2,4.5\n")
    assert read_csv(run_dir, file, "alice") == 2
    assert validate(run_dir, A, draws=10)["sampled_by"] == ""


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("validate", "{run}"), "name one of"),
        (("validate", "{run}", "--judge", A), "no human score"),
        (("bridge", "{run}", A, "nobody"), "nobody"),
        (("label", "{run}", "--as", "Al ice", "--judge", A), "a name is of a-z"),
        (("label", "{run}", "--as", "alice", "--judge", A, "--rows", "1000"), "fewer than 1000"),
        (("label", "nowhere", "--as", "alice"), "no run directory"),
        (("import", "{run}", "none.csv", "--as", "alice"), "no file none.csv"),
    ],
)
def test_bad_words_are_one_sentence_with_exit_2(run_dir, capsys, words, says):
    with pytest.raises(SystemExit) as left:
        main(["judge", *(word.format(run=run_dir.path) for word in words)])
    assert left.value.code == 2
    assert says in capsys.readouterr().err


def test_the_labeller_runs_from_the_command_line(run_dir, capsys):
    commands.main(
        ["label", str(run_dir.path), "--as", "carol", "--judge", A, "--rows", "6"], print, answers("1", "2", "q")
    )
    assert "2 given" in capsys.readouterr().out
    assert len(run_dir.verdicts("human-carol")) == 2
