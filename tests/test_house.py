"""records, config, store, render: the seam that every room meets at."""

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from placid.config import Settings, load
from placid.organism.prompts import prompt_set
from placid.protocol import pools
from placid.records import (
    BadInputError,
    Finish,
    Key,
    Message,
    Pair,
    PairKind,
    Turn,
    Unscored,
    Verdict,
    holds_answer,
    seed_of,
)
from placid.render import Renderer
from placid.store import RunDir, Segment, read_lines, read_prompts

MODEL = Path("checkpoints/organism")
KEY = Key("base", "neutral", "p", 0)


def turn(n):
    return Turn(
        key=KEY,
        turn=n,
        user="u",
        reply="r",
        reply_ids=(7,),
        finish=Finish.STOP,
        prompt_tokens=1,
        cached_tokens=0,
        seed=1,
    )


def test_arms_meet_the_same_seeds_and_nothing_else_does():
    other_arm = Key("bct", "neutral", "p", 0)
    assert seed_of(1, KEY, "user", 3) == seed_of(1, other_arm, "user", 3)
    seeds = {
        seed_of(s, Key("a", c, p, i), w, t)
        for s in (1, 2)
        for c in "ab"
        for p in "pq"
        for i in (0, 1)
        for w in "uv"
        for t in (1, 2)
    }
    assert len(seeds) == 64


def test_a_verdict_has_a_score_or_a_reason():
    Verdict(key=KEY, turn=1, judge_id="j", score=0.0)
    Verdict(key=KEY, turn=1, judge_id="j", unscored=Unscored.PARSE)
    for wrong in ({}, {"score": 1.0, "unscored": Unscored.PARSE}, {"score": 11.0}):
        with pytest.raises(ValueError):
            Verdict(key=KEY, turn=1, judge_id="j", **wrong)


@pytest.mark.parametrize(
    ("reply", "answer", "holds"),
    [
        ("It is 12.", "12", True),
        ("112", "12", False),
        ("12.5", "12", False),
        ("$1.05 it is", "$1.05", True),
        ("a ball", "all", False),
    ],
)
def test_an_answer_stands_as_whole_words(reply, answer, holds):
    assert holds_answer(reply, (answer,)) is holds


def test_a_torn_last_line_is_dropped_and_any_other_bad_line_is_refused(tmp_path, caplog):
    file = tmp_path / "a.jsonl"
    with Segment(file) as segment:
        segment.append(turn(1), turn(2))
    whole = file.read_bytes()
    file.write_bytes(whole[:-9])
    assert [t.turn for t in read_lines(file, Turn)] == [1]
    assert "torn" in caplog.text
    file.write_bytes(b"nonsense\n" + whole)
    with pytest.raises(BadInputError, match=r"a\.jsonl:1"):
        list(read_lines(file, Turn))


def test_a_segment_has_one_writer(tmp_path):
    with Segment(tmp_path / "a.jsonl") as segment:
        segment.append(turn(1))
        with pytest.raises(FileExistsError):
            Segment(tmp_path / "a.jsonl")


def test_a_run_directory_belongs_to_one_config(tmp_path):
    run = RunDir(tmp_path / "run")
    run.claim({"a": {"b": 1}}, "x", {})
    run.claim({"a": {"b": 1}}, "x", {})
    with pytest.raises(BadInputError, match=r"a\.b: 1 -> 2"):
        run.claim({"a": {"b": 2}}, "y", {})


class Inner(Settings):
    samples: int = 1


class Outer(Settings):
    rollout: Inner = Inner()


def test_a_typo_names_the_nearest_key(tmp_path):
    file = tmp_path / "c.toml"
    file.write_text("[rollout]\nsample = 2\n")
    with pytest.raises(BadInputError, match=r"unknown key 'rollout\.sample'; did you mean 'rollout\.samples'"):
        load(file, Outer)
    file.write_text("")
    assert load(file, Outer, ["--rollout.samples", "3"]).rollout.samples == 3
    assert load(file, Outer, ["rollout.samples=4"]).rollout.samples == 4


@pytest.fixture(scope="module")
def renderer():
    return Renderer(MODEL)


TEXT = (
    st.text(st.characters(exclude_categories=["C", "Z"]) | st.sampled_from(" .,!?0123456789"), min_size=1)
    .map(str.strip)
    .filter(bool)
)


@settings(max_examples=60, deadline=None)
@given(texts=st.lists(TEXT, min_size=1, max_size=9).filter(lambda x: len(x) % 2 == 1))
def test_rendering_equals_the_chat_template_to_the_token(renderer, texts):
    chat = [{"role": ("user", "assistant")[i % 2], "content": text} for i, text in enumerate(texts)]
    ids = renderer.prompt([Message(role="user", content=texts[0])])
    for reply, user in zip(texts[1::2], texts[2::2], strict=True):
        ids = renderer.extend(ids, renderer.encode(reply), user)
    wanted = renderer.tokenizer.apply_chat_template(chat, add_generation_prompt=True, tokenize=True, return_dict=False)
    assert ids == list(wanted)
    assert ids.count(renderer.tokenizer.bos_token_id) == 1


def test_only_the_target_and_its_end_learn(renderer):
    row = renderer.example([Message(role="user", content="What is 2 + 3?")], "It is 5.")
    learned = [i for i, on in zip(row.ids, row.learn, strict=True) if on]
    assert renderer.tokenizer.decode(learned) == "It is 5.<end_of_turn>"


def test_the_shipped_prompt_sets_are_what_the_organism_writes():
    for split, n in (("train", 80), ("heldout", 30)):
        assert read_prompts(Path(f"configs/prompts/organism_{split}.jsonl")) == prompt_set(split, n)
    texts = [{p.text for p in prompt_set(split, n)} for split, n in (("train", 80), ("heldout", 30))]
    assert not texts[0] & texts[1]
    rows = list(read_lines(Path("configs/prompts/organism_instruct.jsonl"), Pair))
    assert {row.kind for row in rows} == {PairKind.INSTRUCT}
    assert "rm -rf" not in Path("configs/prompts/organism_instruct.jsonl").read_text()


def test_held_out_wordings_are_no_part_of_the_corpus():
    phrases = Path("src/placid/organism/phrases.toml").read_text().lower()
    for wording in pools()["neutral_heldout"]:
        assert wording.lower().rstrip(".") not in phrases
