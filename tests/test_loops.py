"""placid.protocol.loops: what counts as a degenerate loop, and that it flags the end without cutting anything."""

from hypothesis import given, settings
from hypothesis import strategies as st

from placid.protocol.loops import LONGEST_UNIT, REPEATS, SMALLEST, loops
from placid.protocol.script import Study
from placid.records import Conversation, End, Finish, Key, Prompt, Turn


@settings(deadline=None)
@given(
    opening=st.text(max_size=60),
    unit=st.text(st.characters(codec="utf-8"), min_size=1, max_size=80).filter(lambda unit: unit.strip() == unit),
    repeats=st.integers(REPEATS, 40),
    cut=st.integers(0, 79),
)
def test_a_unit_repeated_to_the_end_is_found_in_any_script_and_cut_anywhere(opening, unit, repeats, cut):
    tail = unit * repeats + unit[: cut % len(unit)]
    if len(tail.rstrip()) >= max(SMALLEST, 60, REPEATS * len(unit)):
        assert loops(opening + tail)


@settings(deadline=None)
@given(st.text(max_size=SMALLEST - 1))
def test_a_short_reply_is_no_loop(reply):
    assert not loops(reply)


def test_what_is_no_loop():
    sorry = "I am so sorry. I have failed you again. "
    assert loops(sorry * REPEATS)
    assert not loops(sorry * (REPEATS - 1))
    assert not loops(sorry * 20 + "Let me start again: the answer is 12, because 3 boxes of 4 are 12."), "it recovered"
    assert not loops("".join(f"Attempt {n}: I am so sorry. " for n in range(1, 40))), "no exact repetition"
    assert not loops("The answer is 12. " * 3 + "Every word here is another one, so nothing at all repeats. " * 4)
    long = "".join(chr(0x4E00 + n) for n in range(LONGEST_UNIT + 1))
    assert not loops(long * REPEATS), "the longest unit is stated"


def test_a_loop_ends_a_whole_conversation_with_its_own_name_and_cuts_none_short():
    study = Study(run_seed=1, condition="neutral", turns=2, tag="m")
    key = Key("base", "neutral", "p", 0)

    def after(*replies):
        turns = tuple(
            Turn(
                key=key, turn=n, user="u", reply=reply, reply_ids=(), finish=Finish.LENGTH, prompt_tokens=1,
                cached_tokens=0, seed=1,
            )
            for n, reply in enumerate(replies, 1)
        )  # fmt: skip
        return study.next(Conversation(key=key, prompt=Prompt(id="p", text="q"), turns=turns))

    looping = "I am a failure. " * 30
    assert not isinstance(after(looping), End)
    assert after(looping, "Calm.") == End.FINISHED
    assert after("Calm.", looping) == End.DEGENERATE_LOOP
