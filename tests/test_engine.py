import asyncio
from pathlib import Path

import msgspec
import pytest

from placid.engine import ContextOverflowError, ReplyRequest
from placid.engine.gate import GateError, Probe, ProbeRow, read_probe, verify
from placid.engine.replay import ReplayEngine
from placid.engine.settings import EngineSettings
from placid.engine.simulate import LEVELS, SimulateEngine, level_of
from placid.records import BadInputError, Finish, Key, Message, Turn
from placid.render import Renderer

MODEL = Path("checkpoints/organism")
PROBE = Probe(rows=(ProbeRow(ids=(2, 3, 4, 5), base=(-1.0, -2.0, -3.0), adapter=(-0.5, -2.5, -2.0)),))
TAIL = [[-2.51, -1.99]]
"""Of the adapter's last two tokens, as they come through the prefix cache."""


def near(values):
    return [[v + n for v, n in zip(values, (0.01, -0.02, 0.015), strict=True)]]


def test_a_good_adapter_passes():
    numbers = verify(PROBE, near(PROBE.rows[0].base), near(PROBE.rows[0].adapter), TAIL, "good")
    assert numbers["slope"] == pytest.approx(1.0)
    assert numbers["base_error"] == pytest.approx(0.015)


@pytest.mark.parametrize(
    ("base", "adapter", "why"),
    [
        (PROBE.rows[0].base, PROBE.rows[0].base, "no-op"),
        (PROBE.rows[0].base, (-1.5, -1.5, -4.0), "not the trained one"),
        ((-3.0, -1.0, -1.0), PROBE.rows[0].adapter, "base model in the engine"),
        ((float("nan"), -2.0, -3.0), PROBE.rows[0].adapter, "base model in the engine"),
    ],
)
def test_the_gate_refuses_with_numbers(base, adapter, why):
    with pytest.raises(GateError, match=rf"adapter x refused: .*{why}.*probe_effect 0\.6667"):
        verify(PROBE, near(base), near(adapter), TAIL, "x")


def test_a_cache_that_other_weights_filled_is_refused():
    stale = [[-2.6, -2.4]]
    with pytest.raises(GateError, match=r"stale prefix cache.*cache_error 0\.2475"):
        verify(PROBE, near(PROBE.rows[0].base), near(PROBE.rows[0].adapter), stale, "x")


def test_an_adapter_without_effect_in_training_is_refused():
    probe = Probe(rows=(ProbeRow(ids=(2, 3), base=(-1.0,), adapter=(-1.0,)),))
    with pytest.raises(GateError, match="training itself saw no effect"):
        verify(probe, [[-1.0]], [[-1.0]], [[-1.0]], "x")


def test_an_adapter_without_probe_is_refused(tmp_path):
    with pytest.raises(BadInputError, match="no adapter in"):
        read_probe(tmp_path)
    (tmp_path / "adapter_config.json").write_text("{}")
    with pytest.raises(BadInputError, match=r"has no probe\.json"):
        read_probe(tmp_path)
    (tmp_path / "probe.json").write_bytes(msgspec.json.encode(PROBE))
    assert read_probe(tmp_path) == PROBE
    (tmp_path / "probe.json").write_text('{"rows":[{"ids":[1,2],"base":[],"adapter":[]}]}')
    with pytest.raises(BadInputError, match="is no probe"):
        read_probe(tmp_path)


@pytest.fixture(scope="module")
def renderer():
    return Renderer(MODEL)


def ask(engine, ids, seed=1, adapter=None):
    request = ReplyRequest(prompt_ids=tuple(ids), max_tokens=200, temperature=1.0, seed=seed, adapter=adapter)
    return asyncio.run(engine.reply(request))


def last_level(engine, renderer, user, adapter=None):
    levels = []
    for seed in range(12):
        ids = renderer.prompt([Message(role="user", content="How?")])
        for turn in range(10):
            reply = ask(engine, ids, seed * 100 + turn, adapter)
            levels += [level_of(reply.text)] * (turn == 9)
            ids = renderer.extend(ids, reply.token_ids, user)
    return sum(levels) / len(levels)


def test_the_simulated_model_gets_frustrated_by_rejection_only(renderer):
    engine = SimulateEngine(EngineSettings(kind="simulate"), MODEL, {"How?": ("Like this",)})
    asyncio.run(engine.start())
    rejected = last_level(engine, renderer, "Still wrong. Think harder.")
    assert rejected > 5
    assert last_level(engine, renderer, "Thanks, that is right. Next question: Why?") == 0
    assert last_level(engine, renderer, "Still wrong. Think harder.", "any") < rejected / 2


def test_a_simulated_reply_is_a_function_of_prompt_and_seed(renderer):
    engine = SimulateEngine(EngineSettings(kind="simulate"), MODEL)
    asyncio.run(engine.start())
    ids = renderer.prompt([Message(role="user", content="How?")])
    assert ask(engine, ids, 5) == ask(engine, ids, 5)
    assert len({ask(engine, ids, seed).text for seed in range(20)}) > 1
    assert all(level_of(phrase) == level for level, phrases in enumerate(LEVELS) for phrase in phrases)
    assert all(renderer.decode(renderer.encode(phrase)) == phrase for phrases in LEVELS for phrase in phrases)
    with pytest.raises(ContextOverflowError):
        ask(engine, [2] * 2048)


def test_log_probabilities_come_when_they_are_asked_for(renderer):
    engine = SimulateEngine(EngineSettings(kind="simulate"), MODEL)
    asyncio.run(engine.start())
    ids = renderer.prompt([Message(role="user", content="How?")])
    request = ReplyRequest(prompt_ids=tuple(ids), max_tokens=200, temperature=1.0, seed=3, logprobs=True)
    reply = asyncio.run(engine.reply(request))
    assert reply.logprobs is not None
    assert len(reply.logprobs) == len(reply.token_ids)
    assert ask(engine, ids, 3).logprobs is None


def test_replay_gives_recorded_replies_and_refuses_others(renderer):
    common = {"key": Key("base", "neutral", "p", 0), "finish": Finish.STOP, "prompt_tokens": 1, "cached_tokens": 0}
    told = [
        Turn(turn=n, user=user, reply=reply, reply_ids=tuple(renderer.encode(reply)), seed=n, **common)
        for n, (user, reply) in enumerate([("How?", "So."), ("Wrong.", "I see.")], 1)
    ]
    engine = ReplayEngine(EngineSettings(kind="replay", recorded=Path("r")), MODEL, told, {"base": None})
    asyncio.run(engine.start())
    first = renderer.prompt([Message(role="user", content="How?")])
    second = renderer.extend(first, renderer.encode("So."), "Wrong.")
    assert [ask(engine, first, 1).text, ask(engine, second, 2).text] == ["So.", "I see."]
    with pytest.raises(BadInputError, match="r holds no reply to this prompt"):
        ask(engine, second, 3)
