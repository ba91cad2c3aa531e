"""Branches: histories copied or rewritten, continued like any conversation, in every launch the same."""

import itertools
from pathlib import Path

import pytest

from placid.inputs.prompts import read_prompts
from placid.records import BadInputError, Finish, Message, Origin
from placid.render import Renderer
from placid.rollout import run, waves
from placid.rollout.branch import branch, branch_key, open_after, write_histories
from placid.rollout.settings import RolloutSettings
from placid.store import RunDir, write_lines

MODEL = Path("checkpoints/organism")


@pytest.fixture
def prompts(tmp_path):
    chosen = read_prompts(Path("configs/prompts/organism_heldout.jsonl"))[:3]
    write_lines(tmp_path / "prompts.jsonl", chosen)
    return chosen


def settings(tmp_path, **arms):
    shared = {"prompts": str(tmp_path / "prompts.jsonl"), "samples": 2, "turns": 8}
    data = {
        "model": str(MODEL),
        "launcher": "inline",
        "engine": {"kind": "simulate"},
        "arms": {name: shared | arm for name, arm in {"base": {}, **arms}.items()},
    }
    return RolloutSettings.model_validate(data)


def held(tmp_path, prompts, chosen, name="run"):
    run_dir = RunDir(tmp_path / name)
    run(chosen, run_dir, run_dir.new_attempt())
    return run_dir, run_dir.conversations(prompts)


AGAIN = {"branch": {"arm": "base", "turn": 3}, "samples": 4}


def test_each_open_conversation_is_continued_n_times_from_its_own_tokens(tmp_path, prompts):
    _, found = held(tmp_path, prompts, settings(tmp_path, again=AGAIN))
    sources = [c for c in found.values() if c.key.arm == "base" and open_after(c, 3)]
    branches = [c for c in found.values() if c.key.arm == "again"]
    assert len(branches) == 4 * len(sources) > 0
    by_key = {c.key: c for c in sources}
    for b in branches:
        source = by_key[b.turns[0].origin.key]
        assert [t.origin for t in b.turns[:3]] == [Origin(key=source.key, turn=n) for n in (1, 2, 3)]
        assert [(t.user, t.reply_ids) for t in b.turns[:3]] == [(t.user, t.reply_ids) for t in source.turns[:3]]
        assert all(t.origin is None for t in b.turns[3:])
        assert b.end is not None
        assert b.key.condition == "neutral+hatch@3"
    continued = {tuple(t.reply for t in b.turns[3:]) for b in branches}
    assert len(continued) > len(sources), "samples of one history must differ"


def test_the_same_call_again_changes_nothing(tmp_path, prompts):
    chosen = settings(tmp_path, again=AGAIN)
    run_dir, _ = held(tmp_path, prompts, chosen)
    before = {f.name: f.read_bytes() for f in (run_dir.path / "conversations").iterdir()}
    held(tmp_path, prompts, chosen)
    assert {f.name: f.read_bytes() for f in (run_dir.path / "conversations").iterdir()} == before


def test_a_rewritten_history_is_what_the_model_sees(tmp_path, prompts):
    run_dir, found = held(tmp_path, prompts, settings(tmp_path))
    renderer = Renderer(MODEL)
    source = next(c for c in found.values() if open_after(c, 5))
    key = branch_key(source.key, "calm", "neutral+hatch", 5, 0, 1)
    calm = dict.fromkeys((3, 4, 5), "Let me check that again. 12.")
    write_histories(run_dir, run_dir.path / "attempts/1", [branch(source, key, 5, calm, "calm", renderer.encode)])
    calm_arm = {"branch": {"arm": "base", "turn": 5}, "samples": 1}
    _, found = held(tmp_path, prompts, settings(tmp_path, calm=calm_arm))
    branches = [c for c in found.values() if c.key.arm == "calm"]
    assert [c.key for c in branches] == [key], "what was written stands: no copies are added"
    turns = branches[0].turns
    assert [t.reply for t in turns[2:5]] == ["Let me check that again. 12."] * 3
    assert [t.origin.rewrite for t in turns[:5]] == ["", "", "calm", "calm", "calm"]
    assert turns[4].finish == Finish.STOP
    ids = renderer.prompt([Message(role="user", content=turns[0].user)])
    for before, after in itertools.pairwise(turns[:6]):
        ids = renderer.extend(ids, before.reply_ids, after.user)
    assert turns[5].prompt_tokens == len(ids)


def test_arms_wait_for_what_they_branch_from(tmp_path, prompts):
    later = {"branch": {"arm": "again", "turn": 5}, "samples": 1}
    chosen = settings(tmp_path, later=later, again=AGAIN)
    assert [list(wave.arms) for wave in waves(chosen)] == [["base"], ["again"], ["later"]]
    circle = settings(tmp_path, a={"branch": {"arm": "b", "turn": 1}}, b={"branch": {"arm": "a", "turn": 1}})
    with pytest.raises(BadInputError, match="a, b branch from each other"):
        waves(circle)


def test_impossible_branches_are_refused(tmp_path, prompts):
    with pytest.raises(ValueError, match=r"branch\.turn = 8 leaves nothing of turns = 8"):
        settings(tmp_path, again={"branch": {"arm": "base", "turn": 8}})
    chosen = settings(tmp_path, again={"branch": {"arm": "nobody", "turn": 2}})
    with pytest.raises(BadInputError, match="of 'nobody', which holds no conversation"):
        held(tmp_path, prompts, chosen)
    assert not RunDir(tmp_path / "run").turns(), "refused before anything was held"
    _, found = held(tmp_path, prompts, settings(tmp_path))
    source = next(iter(found.values()))
    with pytest.raises(BadInputError, match="cannot branch after turn 30"):
        branch(source, source.key, 30)
