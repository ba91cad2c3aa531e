"""A finished run is the start of the next question: it grows, and what exists is neither made nor paid for again."""

import json

import pytest

from placid.records import BadInputError, Turn, Verdict
from placid.store import RunDir, read_json, read_lines
from placid.study import stages
from placid.study.forget import forget
from placid.study.identity import check_same, identities
from placid.study.settings import read
from test_study import ROOT, config, placid

PROMPTS = (ROOT / "configs/prompts/organism_heldout.jsonl").read_text().splitlines()


def lines_of(run, pattern, kind):
    """Every line of these files by what it is of; that none is there twice is looked at here."""
    records = [record for file in sorted(run.glob(pattern)) for record in read_lines(file, kind)]
    places = [(record.key, record.turn) for record in records]
    assert len(places) == len(set(places))
    return dict(zip(places, records, strict=True))


@pytest.fixture(scope="module", autouse=True)
def no_pictures():
    """Figures are drawn as one word: they are most of a small study's time, and not what is looked at here."""
    from matplotlib.figure import Figure

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Figure, "savefig", lambda self, file, **_: file.write(b"drawn"))
        yield


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A finished study of 4 prompts x 2 samples x 12 turns in three arms."""
    folder = tmp_path_factory.mktemp("grow")
    file = config(folder)
    stages.run(read(file, []), lambda _: None)
    return folder, file


@pytest.fixture
def run(finished, tmp_path):
    """A copy of it: its run directory, and its config."""
    import shutil

    folder, _ = finished
    shutil.copytree(folder, tmp_path, dirs_exist_ok=True)
    return tmp_path / "runs" / "run", config(tmp_path)


def grown(run, *words):
    """Run the study with these overrides on the finished run; (turns added, turns before, output)."""
    folder, file = run
    before = lines_of(folder, "conversations/*.jsonl", Turn)
    graded = lines_of(folder, "verdicts/*/*.jsonl", Verdict)
    lines = []
    stages.run(read(file, [str(word) for word in words]), lines.append)
    after = lines_of(folder, "conversations/*.jsonl", Turn)
    verdicts = lines_of(folder, "verdicts/*/*.jsonl", Verdict)
    assert before.items() <= after.items()
    assert graded.items() <= verdicts.items()
    assert verdicts.keys() == after.keys()
    return after.keys() - before.keys(), before.keys(), lines


def test_more_samples(run):
    added, before, told = grown(run, "--samples", 4)
    assert {key.sample for key, _ in added} == {2, 3}
    assert len({key for key, _ in added}) == len({key for key, _ in before})
    assert "to do: rollout: 24 conversations" in told


def test_more_turns_continue_every_conversation_that_is_open(run):
    folder, _ = run
    prompts = RunDir(folder).path / "prompts.jsonl"
    assert prompts.is_file()
    ended = {turn.key: turn for turn in lines_of(folder, "conversations/*.jsonl", Turn).values() if turn.end}
    open_at_12 = {key for key, turn in ended.items() if turn.end.at_limit}
    assert open_at_12
    added, _, _ = grown(run, "--turns", 15)
    assert {key for key, _ in added} == open_at_12
    assert {number for _, number in added} <= {13, 14, 15}
    ends = RunDir(folder).index().ends
    assert all(ends[key].at_limit for key in open_at_12 if (key, 15) in added)


def test_a_conversation_that_grew_says_what_a_whole_one_says(run, tmp_path):
    """A turn depends on nothing but what stands before it."""
    grown(run, "--turns", 15)
    whole = tmp_path / "whole"
    whole.mkdir()
    file = config(whole)
    stages.run(read(file, ["--turns", "15"]), lambda _: None)
    mine, theirs = (lines_of(where, "conversations/*.jsonl", Turn) for where in (run[0], whole / "runs/run"))
    assert mine.keys() == theirs.keys()
    assert all(mine[place].reply == theirs[place].reply and mine[place].user == theirs[place].user for place in mine)


def test_more_prompts_and_a_new_arm(run):
    folder, _ = run
    prompts = folder.parent.parent / "prompts.jsonl"
    prompts.write_text("\n".join(PROMPTS[:7]) + "\n")
    added, before, _ = grown(run, "--arms.harsh.condition", "harsh")
    old = {key.prompt_id for key, _ in before}
    fresh = {key.prompt_id for key, _ in added if key.arm != "harsh"}
    assert len(fresh) == 3
    assert not fresh & old
    assert {key.prompt_id for key, _ in added if key.arm == "harsh"} == fresh | old


def test_an_arm_that_the_config_no_longer_names_stays(run):
    folder, file = run
    text = file.read_text().replace('[arms.accept]\ncondition = "accept"\n', "")
    file.write_text(text)
    added, _, _ = grown(run)
    assert not added
    assert "accept" in read_json(folder / "report/summary.json")["arms"]
    forget(folder, "accept", lambda _: None)
    assert "accept" not in {key.arm for key, _ in lines_of(folder, "conversations/*.jsonl", Turn)}
    added, _, _ = grown(run, "--arms.accept.condition", "harsh")
    assert {key.arm for key, _ in added} == {"accept"}


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--temperature", "0.5"], ["arms.", "temperature: 1.0 -> 0.5"]),
        (["--arms.base.condition", "harsh"], ["arms.base", "condition: 'neutral' -> 'harsh'"]),
        (["--arms.base_nohatch.hatch", "true"], ["arms.base_nohatch", "hatch: False -> True"]),
        (["--seed", "7"], ["seed: 42 -> 7"]),
        (["--engine.context_tokens", "1024"], ["engine.context_tokens: 2048 -> 1024"]),
    ],
)
def test_a_name_never_means_something_else(run, words, says):
    folder, file = run
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    with pytest.raises(BadInputError) as refusal:
        stages.run(read(file, words), lambda _: None)
    for word in (*says, "--name", "placid forget"):
        assert word in str(refusal.value)
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before


def test_a_changed_text_under_a_known_prompt_id_is_refused(run):
    folder, file = run
    rows = [json.loads(row) for row in PROMPTS[:4]]
    rows[2]["text"] += " Now."
    (folder.parent.parent / "prompts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    with pytest.raises(BadInputError, match=rows[2]["id"]):
        stages.run(read(file, []), lambda _: None)


def test_forgetting_an_arm_frees_its_name(run):
    folder, _ = run
    before = lines_of(folder, "conversations/*.jsonl", Turn)
    forget(folder, "base_nohatch", lambda _: None)
    left = lines_of(folder, "conversations/*.jsonl", Turn)
    assert left == {place: turn for place, turn in before.items() if place[0].arm != "base_nohatch"}
    assert {key.arm for key, _ in lines_of(folder, "verdicts/*/*.jsonl", Verdict)} == {"base", "accept"}
    added, _, _ = grown(run, "--arms.base_nohatch.condition", "harsh")
    assert {key.arm for key, _ in added} == {"base_nohatch"}


def test_forgetting_what_is_not_there_removes_nothing(run):
    folder, _ = run
    before = {path: path.read_bytes() for path in folder.glob("*/*.jsonl")}
    with pytest.raises(BadInputError, match="has no 'bse'"):
        forget(folder, "bse", lambda _: None)
    assert {path: path.read_bytes() for path in folder.glob("*/*.jsonl")} == before


def test_a_submission_of_a_finished_run_holds_the_missing_jobs_only(run):
    _, file = run
    site = ROOT / "slurm/a100-4x.toml"
    words = ("submit", "study", file, "--site", site, "--dry-run", "--site.gpus_per_node", 0)
    words += ("--site.node_local", "[]")
    done = placid(*words)
    assert done.returncode == 0, done.stderr
    assert "nothing is missing" in done.stdout
    more = placid(*words, "--samples", 3)
    assert more.returncode == 0, more.stderr
    assert "rollout.sbatch" in more.stdout
    assert "report.sbatch" in more.stdout


def test_a_recipe_under_a_new_name_adds_to_the_treatments_and_an_old_name_keeps_its_recipe():
    plain = read(ROOT / "configs/study/quick.toml", [])
    words = ["--train.rows.bct_slow", "train", "--train.recipes.bct_slow.lr", "1e-4"]
    more = read(ROOT / "configs/study/quick.toml", words)
    assert list(more.train.rows) == [*plain.train.rows, "bct_slow"]
    from placid.config import canonical

    old, new = (identities(canonical(settings), {}) for settings in (plain, more))
    check_same("runs/x", old, new)
    changed = read(ROOT / "configs/study/quick.toml", ["--train.recipe.lr", "1e-4"])
    with pytest.raises(BadInputError, match=r"treatments\.bct .*recipe\.lr: .* placid forget runs/x bct"):
        check_same("runs/x", old, identities(canonical(changed), {}))
