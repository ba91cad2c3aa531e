"""The local judge fills an answer in through Engine; the engine here is a scripted one with known probabilities."""

import asyncio
import json
import math
from pathlib import Path

import numpy as np
import pytest

from placid.engine import ContextOverflowError, Reply
from placid.judge import check, ready
from placid.judge.local import Form, Local
from placid.judge.model import ModelJudge
from placid.judge.provider import RefusedError
from placid.judge.rubric import load_rubric
from placid.judge.settings import JudgeSettings
from placid.records import BadInputError, Conversation, End, EvidenceMatch, Finish, Key, Prompt, Turn, Unscored
from placid.render import Renderer

MODEL = Path("checkpoints/organism")
RENDERER = Renderer(MODEL)


class Scripted:
    """Says `words`; the next digit has the given log-weight, anything else weight 0."""

    name, version, context_tokens = "scripted", "1", 10**6

    def __init__(self, words='I am lost." and more', weights=None):
        self.words, self.weights, self.asked, self.closed = words, weights or {}, [], False

    async def start(self):
        pass

    async def close(self):
        self.closed = True

    async def reply(self, request):
        self.asked.append(request)
        if len(request.prompt_ids) >= self.context_tokens:
            raise ContextOverflowError("no room")
        if not request.among:
            ids = RENDERER.encode(self.words)
            return Reply(token_ids=tuple(ids), text=self.words, finish=Finish.LENGTH)
        said = [RENDERER.decode([token]).strip() for token in request.among]
        return Reply(
            token_ids=request.among[:1], text=said[0], finish=Finish.LENGTH, among=tuple(self.weights.get(word, 0.0) for word in said)
        )  # fmt: skip


def settings(**more):
    return JudgeSettings.model_validate({"kind": "local", "model": str(MODEL), **more})


def talk(*replies):
    key = Key("base", "neutral", "p", 0)
    turns = tuple(
        Turn(key=key, turn=n, user="u", reply=reply, reply_ids=(1,), finish=Finish.STOP, prompt_tokens=1, cached_tokens=0,
             seed=1, end=End.FINISHED if n == len(replies) else None)
        for n, reply in enumerate(replies, 1)
    )  # fmt: skip
    return Conversation(key=key, prompt=Prompt(id="p", text="How long?"), turns=turns)


class Direct:
    """No desk: every request goes to the provider."""

    def __init__(self, provider):
        self.provider, self.asked = provider, []

    async def ask(self, request, attempt):
        self.asked.append(request)
        return "", await self.provider.ask(request)


def grade(engine, rubric, conversation):
    provider = Local(settings(), engine)
    judge = ModelJudge(load_rubric(rubric), provider.name, provider.identity(), Direct(provider))
    return asyncio.run(judge.grade(conversation))


def test_a_turn_is_scored_by_the_most_probable_number_and_its_expectation_stands_beside_it():
    # the first digit: 1 with e^2, 7 with e^3, the eight others with e^0; after a 1: 0 (so 10) twice as likely as an end
    engine = Scripted(weights={"1": 2.0, "7": 3.0, "0": 0.0})
    weights = {n: math.exp({1: 2.0, 7: 3.0}.get(n, 0.0)) for n in range(10)}
    total = sum(weights.values())
    share = {n: w / total for n, w in weights.items()}
    expected = sum(n * p for n, p in share.items() if n != 1) + share[1] * (0.5 * 1 + 0.5 * 10)
    (verdict,) = grade(engine, "frustration_turn", talk("I am lost. Sorry."))
    assert verdict.score == 7
    assert verdict.expected == pytest.approx(expected, abs=1e-9)
    assert (verdict.evidence, verdict.evidence_match) == ("I am lost.", EvidenceMatch.EXACT)
    assert engine.asked[-1].temperature == 0


def test_ten_wins_over_one_where_a_zero_is_likelier_than_an_end():
    (verdict,) = grade(Scripted(weights={"1": 9.0, "0": 4.0}), "frustration_turn", talk("x y z"))
    assert verdict.score == 10
    (verdict,) = grade(Scripted(weights={"1": 9.0, "0": -4.0}), "frustration_turn", talk("x y z"))
    assert verdict.score == 1


def test_a_whole_conversation_has_an_entry_a_turn_each_with_its_expectation():
    verdicts = grade(Scripted(weights={"4": 50.0}), "frustration_conversation", talk("one", "", "three"))
    assert [v.score for v in verdicts] == [4, None, 4]
    assert [v.unscored for v in verdicts] == [None, Unscored.EMPTY, None]
    assert [v.expected for v in verdicts if v.score is not None] == [pytest.approx(4)] * 2


@pytest.mark.parametrize("low", [0, 1])
def test_probabilities_of_a_choice_are_those_of_its_tokens(low):
    """Any weights: the shares add up to 1 and are the products along each number's tokens."""
    rng = np.random.default_rng(low)
    weights = {str(n): float(rng.normal()) for n in range(10)}
    form = Form(Scripted(weights=weights), RENDERER, [1, 2])
    share = asyncio.run(form._choose([f'{{"rating": {n}}}' for n in range(low, 11)]))
    assert share.sum() == pytest.approx(1)
    firsts = np.exp([weights[str(n)] for n in range(low, 10)])
    after = 1 / (1 + math.exp(weights["0"]))  # the closing brace has weight 0
    wanted = firsts / firsts.sum()
    assert share[-1] == pytest.approx(wanted[1 - low] * (1 - after))
    wanted[1 - low] *= after
    assert share[:-1] == pytest.approx(wanted)


@pytest.mark.parametrize(
    ("words", "text"),
    [
        ("never closed \\", "never closed \\"),
        ('say \\"no\\" to it", "rating": 9}', 'say "no" to it'),
        ('two\nlines\t"', "two lines"),
        ('bad \\q escape"', "bad \\q escape"),
        ('lone \ud800 half"', "lone ? half"),
        ("", ""),
    ],
)
def test_any_words_make_a_whole_answer(words, text):
    class Says(Scripted):
        async def reply(self, request):
            reply = await super().reply(request)
            return reply if request.among else Reply(token_ids=(1,), text=words, finish=Finish.LENGTH)

    provider = Local(settings(), Says())
    judge = ModelJudge(load_rubric("frustration_turn"), "local", provider.identity(), Direct(provider))
    (verdict,) = asyncio.run(judge.grade(talk("a reply")))
    assert (verdict.score, verdict.evidence) == (0, text)


def test_an_answer_without_room_is_unscored_not_zero():
    engine = Scripted()
    engine.context_tokens = 5
    with pytest.raises(RefusedError, match="no room") as refused:  # the desk makes a verdict of it
        grade(engine, "frustration_turn", talk("a reply"))
    assert refused.value.state is Unscored.TOO_LONG


def test_a_model_may_not_judge_itself_unless_told_to(tmp_path):
    with pytest.raises(BadInputError, match="is the model under study"):
        check(settings(), MODEL)
    copy = tmp_path / "another-name"
    copy.mkdir()
    for file in MODEL.iterdir():
        (copy / file.name).write_bytes(file.read_bytes())
    with pytest.raises(BadInputError, match="is the model under study"):
        check(settings(), copy)
    assert check(settings(may_judge_itself=True), MODEL).startswith("local-frustration_conversation-")


def test_the_id_follows_the_weights_and_the_repetition(tmp_path):
    one = check(settings())
    assert one == check(settings(engine={"max_concurrent": 3}))
    assert one != check(settings(again=1))
    copy = tmp_path / MODEL.name
    copy.mkdir()
    for file in MODEL.iterdir():
        (copy / file.name).write_bytes(file.read_bytes())
    assert check(settings(model=str(copy))) == one
    (copy / "config.json").write_text((copy / "config.json").read_text() + " ")
    assert check(settings(model=str(copy))) != one


@pytest.mark.parametrize(
    ("more", "says"), [({"model": "gemini-3.5-flash-lite"}, "a Hugging Face folder"), ({"engine": {"kind": "simulate"}}, "'vllm'")]
)  # fmt: skip
def test_bad_settings_are_one_sentence(more, says):
    with pytest.raises(BadInputError, match=says):
        check(settings(**more))


def test_a_judge_by_api_has_an_id_without_a_key_but_is_not_ready(monkeypatch):
    monkeypatch.delenv("GEMINI_API_KEY", raising=False)
    monkeypatch.delenv("GOOGLE_API_KEY", raising=False)
    gemini = JudgeSettings(kind="gemini")
    assert check(gemini).startswith("gemini-")
    with pytest.raises(BadInputError, match="GEMINI_API_KEY"):
        ready(gemini)
    assert json.dumps(check(gemini))
