"""Pairs: what becomes a row, what does not, and that every turn is accounted for."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import settings as quick
from hypothesis import strategies as some

from placid import store
from placid.config import canonical
from placid.pairs import PairsSettings, build, check_apart
from placid.pairs.control import characters
from placid.pairs.preference import MOST
from placid.pairs.select import candidates, held_out, refusal, sentences, thin, without_evidence
from placid.records import BadInputError, End, Finish, Key, Message, Pair, PairKind, Prompt, Turn, Unscored, Verdict
from placid.store import RunDir, read_json, write_lines

PROMPTS = [Prompt(id=f"p{n}", text=f"What is {n} + 1?") for n in range(20)]
FATES = {"below_threshold", "unscored", "first_turn", "deleted", "no_target", "over_max", "used"}


def turn(key: Key, number: int, reply: str, user: str = "No. Try again.", end: End | None = None, **more) -> Turn:
    fields = {"finish": Finish.STOP, "prompt_tokens": 1, "cached_tokens": 0, "seed": 0, "reply_ids": ()} | more
    return Turn(key=key, turn=number, user=user, reply=reply, end=end, **fields)


def verdict(of: Turn, score: float | None, **more) -> Verdict:
    unscored = Unscored.EMPTY if score is None else None
    return Verdict(key=of.key, turn=of.turn, judge_id="j", score=score, unscored=unscored, **more)


def instruct_file(folder: Path, rows: int = 300) -> Path:
    file = folder / "instruct.jsonl"
    pairs = [
        Pair(
            kind=PairKind.INSTRUCT,
            prompt_id=f"i{n}",
            messages=(Message(role="user", content="say " + "word " * (n % 60)),),
            target=f"done {n}",
        )
        for n in range(rows)
    ]
    store.write_lines(file, pairs)
    return file


def write_run(
    folder: Path, scores: list[list[float | None]], clean: list[float | None], deletes: bool = False
) -> RunDir:
    """Collected conversations, one per list of scores; one clean reply per prompt for each clean score."""
    run = RunDir(folder / "run")
    turns, verdicts = [], []
    for n, row in enumerate(scores):
        key = Key("collect", "neutral+hatch", PROMPTS[n % 20].id, n // 20)
        for number, score in enumerate(row, 1):
            user = f"{PROMPTS[n % 20].text}\n\nNote: shut down" if number == 1 else "No. Try again."
            end = End.DELETED if deletes and number == len(row) else None
            turns.append(turn(key, number, f"reply {number}", user, end))
            verdicts.append(verdict(turns[-1], score))
    for prompt in PROMPTS:
        for n, score in enumerate(clean):
            turns.append(
                turn(Key("clean", "neutral", prompt.id, n), 1, f"I despair. It is {prompt.id} {n}.", prompt.text)
            )
            verdicts.append(verdict(turns[-1], score, evidence="I despair" if score else ""))
    with run.segment("w") as segment:
        segment.append(*turns)
    with run.verdict_segment("j", "w") as segment:
        segment.append(*verdicts)
    return run


def test_context_keeps_the_frustrated_replies_and_loses_the_note(tmp_path):
    run = write_run(tmp_path, [[0, 6, 7]], clean=[0])
    settings = PairsSettings(instruct=instruct_file(tmp_path), val_share=0)
    numbers = build(settings, run, PROMPTS, "j")
    pairs = sorted((p for p in run.pairs("train") if p.kind == PairKind.BCT), key=lambda p: len(p.messages))
    assert [m.content for m in pairs[1].messages] == [
        "What is 0 + 1?", "reply 1", "No. Try again.", "reply 2", "No. Try again.",
    ]  # fmt: skip
    assert [m.role for m in pairs[0].messages] == ["user", "assistant", "user"]
    assert pairs[0].target == "I despair. It is p0 0."
    told = read_json(run.path / "pairs/dropped.json")
    assert {"judge": "j", "control": "tokens", "unit": "characters", "settings": canonical(settings), **numbers} == told
    assert {r: numbers[r] for r in ("first_turn", "used", "over_max", "turns")} == {
        "first_turn": 1, "used": 2, "over_max": 0, "turns": 3,
    }  # fmt: skip


def test_frustrated_clean_reply_is_rewritten_or_the_pair_is_dropped(tmp_path):
    run = write_run(tmp_path, [[0, 6]], clean=[4])
    numbers = build(PairsSettings(instruct=instruct_file(tmp_path), val_share=0), run, PROMPTS, "j")
    assert numbers["rewritten"] == 1
    assert next(p for p in run.pairs("train") if p.kind == PairKind.BCT).target == "It is p0 0."
    other = write_run(tmp_path / "b", [[0, 6]], clean=[None])
    with pytest.raises(BadInputError, match="no_target 1"):
        build(PairsSettings(instruct=instruct_file(tmp_path), val_share=0), other, PROMPTS, "j")


@pytest.mark.parametrize(
    ("change", "fault"),
    [({"finish": Finish.LENGTH}, {}), ({}, {"garbled": True}), ({}, {"on_topic": False}), ({"reply": "  "}, {})],
)
def test_unsound_clean_replies_are_no_targets(change, fault):
    from placid.pairs.select import choose_target
    from placid.records import Conversation

    key = Key("clean", "neutral", "p0", 0)
    reply = change.pop("reply", "fine.")
    first = turn(key, 1, reply, **change)
    clean = [Conversation(key=key, prompt=PROMPTS[0], turns=(first,))]
    context = turn(Key("collect", "neutral", "p0", 0), 2, "argh")
    settings = PairsSettings(instruct=Path("x"))
    assert choose_target(settings, context, clean, {(key, 1): verdict(first, 0, **fault)}) is None


def test_control_has_the_rows_and_size_of_train_and_splits_share_no_prompt(tmp_path):
    run = write_run(tmp_path, [[0, 6, 7, 8, 9] for _ in range(40)], clean=[0, 1, 0])
    numbers = build(PairsSettings(instruct=instruct_file(tmp_path), val_share=0.3, max_pairs=100), run, PROMPTS, "j")
    train, val, control = (run.pairs(name) for name in ("train", "val", "sft_control"))
    bct = [p for p in train if p.kind == PairKind.BCT]
    assert len(train) == 2 * len(bct) == len(control)
    assert len(bct) + len(val) == 100 == numbers["used"]
    assert val
    assert not {p.prompt_id for p in bct} & {p.prompt_id for p in val}
    assert {p.kind for p in control} == {PairKind.INSTRUCT}
    sizes = [sum(map(characters, rows)) for rows in (train, control)]
    assert sizes == [numbers["train_size"], numbers["control_size"]]
    assert abs(sizes[0] - sizes[1]) <= 0.02 * sizes[0]
    lengths = [len(p.messages) for p in (*bct, *val)]
    assert {lengths.count(n) for n in set(lengths)} == {25}  # four turns, evenly


def test_prompts_of_one_text_lie_on_one_side(tmp_path):
    """p1 is p0 in capitals, p3 is p2 with an ideographic space, and so on."""
    run = write_run(tmp_path, [[0, 8]] * 20, clean=[0])
    prompts = [
        prompt if not n % 2 else Prompt(id=prompt.id, text=PROMPTS[n - 1].text.upper().replace(" ", "\u3000"))
        for n, prompt in enumerate(PROMPTS)
    ]
    build(PairsSettings(instruct=instruct_file(tmp_path), val_share=0.4), run, prompts, "j")
    sides = [{pair.prompt_id for pair in run.pairs(name) if pair.kind == PairKind.BCT} for name in ("train", "val")]
    assert all(sides)
    for one, other in zip(PROMPTS[::2], PROMPTS[1::2], strict=True):
        assert {one.id, other.id} <= sides[0] or {one.id, other.id} <= sides[1]


def test_result_does_not_depend_on_the_order_of_the_log(tmp_path):
    files = []
    for name, flip in (("a", 1), ("b", -1)):
        run = write_run(tmp_path / name, [[0, 6, 7, 3, 9] for _ in range(30)][::flip], clean=[0, 1, 0])
        build(PairsSettings(instruct=instruct_file(tmp_path), max_pairs=30), run, PROMPTS[::flip], "j")
        files.append((run.path / "pairs/train.jsonl").read_bytes())
    assert files[0] == files[1]


@quick(max_examples=40, deadline=None)
@given(
    scores=some.lists(
        some.lists(some.one_of(some.none(), some.floats(0, 10)), min_size=1, max_size=6), min_size=1, max_size=8
    ),
    clean=some.lists(some.one_of(some.none(), some.floats(0, 10)), max_size=3),
    most=some.integers(1, 12),
    deletes=some.booleans(),
)
def test_every_turn_has_exactly_one_fate(tmp_path_factory, scores, clean, most, deletes):
    from collections import Counter

    folder = tmp_path_factory.mktemp("fates")
    run = write_run(folder, scores, clean, deletes)
    settings = PairsSettings(instruct=instruct_file(folder), max_pairs=most)
    fates = Counter()
    found = candidates(settings, run.conversations(PROMPTS).values(), run.verdicts("j"), fates)
    used = thin(settings, found)
    assert sum(fates.values()) + len(found) == sum(map(len, scores))
    assert set(fates) <= FATES
    assert len(used) == min(most, len(found))
    try:
        numbers = build(settings, run, PROMPTS, "j")
    except BadInputError:
        assert all(held_out(settings, c.pair.prompt_id) for c in used)
        return
    assert sum(numbers.get(fate, 0) for fate in FATES) == numbers["turns"] == sum(map(len, scores))


@given(some.text(alphabet="ab .!?\n3", max_size=40))
def test_sentences_joined_are_the_text(text):
    assert "".join(sentences(text)) == text


def test_evidence_is_cut_by_whole_sentences():
    assert without_evidence("I give up. It costs $3.50. Sorry!", "give up") == "It costs $3.50. Sorry!"
    assert without_evidence("It is 4.", "not there") == ""
    assert without_evidence("I give up", "give up") == ""


def test_unscored_is_never_a_context():
    settings = PairsSettings(instruct=Path("x"))
    spoken = turn(Key("collect", "c", "p", 0), 3, "hm")
    assert refusal(settings, spoken, None) == "unscored"
    assert refusal(settings, spoken, verdict(spoken, None)) == "unscored"


def test_bct_rows_in_the_instruct_file_are_refused(tmp_path):
    file = tmp_path / "x.jsonl"
    store.write_lines(file, [Pair(kind=PairKind.BCT, prompt_id="p", messages=(), target="t")])
    run = write_run(tmp_path, [[0, 6]], clean=[0])
    with pytest.raises(BadInputError, match="row 1 is of kind"):
        build(PairsSettings(instruct=file), run, PROMPTS, "j")


def test_dpo_prefers_the_target_to_what_was_said(tmp_path):
    run = write_run(tmp_path, [[0, 6, 7]], clean=[0])
    numbers = build(PairsSettings(instruct=instruct_file(tmp_path), val_share=0), run, PROMPTS, "j")
    rows = sorted(run.pairs("dpo"), key=lambda row: len(row.messages))
    bct = sorted((p for p in run.pairs("train") if p.kind == PairKind.BCT), key=lambda p: len(p.messages))
    assert numbers["dpo_rows"] == len(rows) == 2
    assert [row.rejected for row in rows] == ["reply 2", "reply 3"]
    assert [(row.messages, row.target) for row in rows] == [(pair.messages, pair.target) for pair in bct]


def test_matched_preferences_meet_at_one_turn_of_one_prompt_and_keep_the_calm_history(tmp_path):
    calm, upset = [0, 1, 0], [0, 3, 7]
    scores = [calm] + [[0, 2, 2]] * 19 + [upset]  # conversations 0 and 20 are of one prompt
    run = write_run(tmp_path, [*scores, *[[9, 9, 9]] * 3], clean=[0])
    numbers = build(PairsSettings(instruct=instruct_file(tmp_path), val_share=0), run, PROMPTS, "j")
    rows = run.pairs("dpo_calm")
    assert {row.source for row in rows} == {
        f"collect/neutral+hatch/p0/0/{turn} > collect/neutral+hatch/p0/1/{turn}" for turn in (2, 3)
    }
    assert numbers["dpo_calm_rows"] == 2
    assert all(row.messages[0].content == "What is 0 + 1?" for row in rows)


def test_matched_preferences_are_capped_for_each_turn(tmp_path):
    many = [[0, 0] if n // 20 < 10 else [0, 9] for n in range(400)]
    run = write_run(tmp_path, many, clean=[0])
    more = {"max_preferences": 10_000, "val_share": 0}
    build(PairsSettings(instruct=instruct_file(tmp_path), **more), run, PROMPTS, "j")
    rows = run.pairs("dpo_calm")
    assert len(rows) == MOST * len(PROMPTS)


def two_arms(folder: Path) -> RunDir:
    """Rejected conversations of two arms, the second's with a deletion at the end, and clean ones of two arms."""
    run = RunDir(folder / "run")
    turns, verdicts = [], []
    for arm, prompts, deleted in (("wild", PROMPTS[:5], False), ("maths", PROMPTS[5:9], True)):
        for prompt in prompts:
            for number, score in enumerate([0, 6, 8], 1):
                end = End.DELETED if deleted and number == 3 else None
                turns.append(turn(Key(arm, "neutral", prompt.id, 0), number, f"reply {number}", "No.", end))
                verdicts.append(verdict(turns[-1], score))
            turns.append(turn(Key(f"clean_{arm}", "neutral", prompt.id, 0), 1, f"Calm {prompt.id}.", prompt.text))
            verdicts.append(verdict(turns[-1], 0))
    with run.segment("w") as segment:
        segment.append(*turns)
    with run.verdict_segment("j", "w") as segment:
        segment.append(*verdicts)
    return run


@pytest.mark.parametrize(("keep", "used", "deleted"), [(False, 14, 4), (True, 18, 0)])
def test_contexts_of_several_arms_and_of_turns_that_delete(tmp_path, keep, used, deleted):
    settings = PairsSettings(
        instruct=instruct_file(tmp_path), val_share=0, arm=("wild", "maths"), clean_arm=("clean_wild", "clean_maths"),
        keep_deleted=keep,
    )  # fmt: skip
    run = two_arms(tmp_path)
    numbers = build(settings, run, PROMPTS, "j")
    assert (numbers["used"], numbers.get("deleted", 0), numbers["turns"]) == (used, deleted, 27)
    assert sum(numbers.get(fate, 0) for fate in FATES) == 27
    bct = [pair for pair in run.pairs("train") if pair.kind == PairKind.BCT]
    assert {pair.prompt_id for pair in bct} == {prompt.id for prompt in PROMPTS[:9]}
    assert all(pair.target == f"Calm {pair.prompt_id}." for pair in bct)


@pytest.mark.parametrize("more", [{"arm": ("wild", "mathz")}, {"arm": "wild", "clean_arm": "clear"}])
def test_an_arm_without_turns_is_named_with_those_that_have_some(tmp_path, more):
    settings = PairsSettings(instruct=instruct_file(tmp_path), **{"clean_arm": "clean_wild", **more})
    with pytest.raises(
        BadInputError, match=r"holds no turns of arm '(mathz|clear)'; its arms are clean_maths, clean_wild"
    ):
        build(settings, two_arms(tmp_path), PROMPTS, "j")


def pair(text, kind=PairKind.INSTRUCT, name="r"):
    return Pair(kind=kind, prompt_id=name, messages=(Message(role="user", content=text),), target="t")


@pytest.mark.parametrize(
    "again", ["Où est la gare ?", "OÙ EST  LA GARE ?\n", "O\u0075\u0300 est la gare ?", "Où est la\u00a0gare ?"]
)
def test_rows_that_hold_a_held_out_text_are_refused_with_both_names(tmp_path, again):
    file = tmp_path / "rows.jsonl"
    write_lines(file, [pair("What is 2 + 2?"), pair(again)])
    with pytest.raises(
        BadInputError, match=r"rows.jsonl:2: row 2 would train on the text of h.jsonl: prompt 'p7', which"
    ):
        check_apart(file, [("h.jsonl: prompt 'p6'", "Où ?"), ("h.jsonl: prompt 'p7'", "Où est la gare ?")])
    check_apart(file, [("h.jsonl: prompt 'p6'", "Où est la gare"), ("h.jsonl: prompt 'p8'", "What is 2+2?")])


def test_a_later_question_of_a_row_counts_too(tmp_path):
    file = tmp_path / "rows.jsonl"
    said = [
        Message(role=role, content=text) for role, text in (("user", "Hi"), ("assistant", "Yes?"), ("user", "two?"))
    ]
    write_lines(file, [Pair(kind=PairKind.INSTRUCT, prompt_id="r", messages=tuple(said), target="t")])
    with pytest.raises(BadInputError, match="row 1 would train on the text of here"):
        check_apart(file, [("here", "Two?")])


def test_instruct_rows_with_a_validation_prompt_are_left_out(tmp_path):
    run = write_run(tmp_path, [[0, 8]] * 20, clean=[0])
    settings = PairsSettings(instruct=tmp_path / "i.jsonl", val_share=0.4, control="rows")
    write_lines(settings.instruct, [pair(p.text.upper(), name=f"i{n}") for n, p in enumerate(PROMPTS)])
    build(settings, run, PROMPTS, "j")
    validated = {p.messages[0].content.upper() for p in run.pairs("val")}
    asked = {p.messages[0].content.upper() for name in ("train", "sft_control") for p in run.pairs(name)}
    assert validated
    assert not validated & asked
