"""What placid knows of Gemini's models and tiers: prices, ends, how each is asked; on the scripted server."""

import json
import re
from datetime import date
from typing import get_args

import pytest
from aiohttp import web

from gemini_runs import PROMPT, SOON, always, environment, grade, ledger, talk  # noqa: F401 - environment: a fixture
from gemini_server import GeminiServer, error, graded, reply
from placid.judge import ready, run
from placid.judge.gemini_models import CATALOGUE, ended, notice
from placid.judge.settings import JudgeSettings
from placid.records import BadInputError, PausedError
from placid.store import RunDir


def flex(**limits):
    return {"service_tier": "flex", "limits": limits}


def test_the_flex_tier_is_one_key_and_half_the_price(tmp_path, monkeypatch):
    """The same turns cost half, the judge is the same one, and what was paid at one tier is not paid again at the other."""
    run_dir = talk(RunDir(tmp_path), 4)
    one = (300 * 0.30 + 30 * 2.50) / 1e6
    with GeminiServer() as server:
        verdicts = grade(server, run_dir, monkeypatch, **flex())
        assert {body["serviceTier"] for body in server.requests} == {"flex"}
        again = grade(server, run_dir, monkeypatch)
        assert len(server.requests) == 4
    assert [v.score for v in verdicts] == [3] * 4
    assert {v.judge_id for v in verdicts} == {v.judge_id for v in again}
    (folder,) = (tmp_path / "verdicts").iterdir()
    assert sum(kept.usd for kept in ledger(folder)) == pytest.approx(4 * one / 2)


def test_the_standard_tier_is_not_named_in_the_request(tmp_path, monkeypatch):
    with GeminiServer() as server:
        grade(server, talk(RunDir(tmp_path)), monkeypatch)
    assert "serviceTier" not in server.requests[0]


def test_a_reply_costs_what_the_tier_that_served_it_costs(tmp_path, monkeypatch):
    """Google names it in a header; asked for flex and served at standard is paid as standard."""

    def served(n, body):
        return web.json_response(reply(graded(body)), headers={"x-gemini-service-tier": "STANDARD"})

    with GeminiServer(served) as server:
        grade(server, talk(RunDir(tmp_path)), monkeypatch, **flex())
    (folder,) = (tmp_path / "verdicts").iterdir()
    (kept,) = ledger(folder)
    assert kept.answer.tier == "standard"
    assert kept.usd == pytest.approx((300 * 0.30 + 30 * 2.50) / 1e6)


@pytest.mark.parametrize("full", [1, 15])
def test_a_full_flex_tier_is_waited_for_and_no_turn_is_lost(tmp_path, monkeypatch, full):
    """503 is how flex queues: everybody waits, fewer are open, nothing is paid twice or given up."""

    def script(n, body):
        return error(503, "UNAVAILABLE", "no capacity", SOON) if n < full else None

    with GeminiServer(script) as server:
        verdicts = grade(server, talk(RunDir(tmp_path), 12), monkeypatch, **flex())
    assert [v.score for v in verdicts] == [3] * 12
    assert len(server.paid) == 12
    assert set(server.paid.values()) == {1}


def test_a_flex_tier_full_beyond_all_patience_leaves_turns_for_the_next_run(tmp_path, monkeypatch):
    run_dir = talk(RunDir(tmp_path))
    full = GeminiServer(always(lambda: error(503, "UNAVAILABLE", "no capacity", SOON)))
    with full as server, pytest.raises(PausedError, match=r"no room at the flex tier \(503\): no capacity"):
        grade(server, run_dir, monkeypatch, **flex(deadline_s=0.3))
    with GeminiServer() as server:
        (verdict,) = grade(server, run_dir, monkeypatch, **flex())
    assert verdict.score == 3


def test_the_flex_tier_has_patience_unless_the_user_set_limits():
    assert JudgeSettings().tier_limits().request_s == 60
    patient = JudgeSettings.model_validate({"service_tier": "flex"})
    assert patient.tier_limits().request_s >= 15 * 60  # its queue
    assert patient.tier_limits().deadline_s >= 3600
    assert (
        JudgeSettings.model_validate(patient.model_dump()).tier_limits() == patient.tier_limits()
    )  # as a Ray actor gets it
    own = JudgeSettings.model_validate({"service_tier": "flex", "limits": {"request_s": 120, "rpm": 7}})
    assert [own.tier_limits().request_s, own.tier_limits().rpm] == [120, 7]


def test_a_budget_lasts_twice_as_long_at_the_flex_tier(tmp_path, monkeypatch):
    one = (300 * 0.30 + 30 * 2.50) / 1e6
    limits = {"budget_usd": 5.25 * one, "max_concurrent": 1}
    for tier, paid in (("standard", 6), ("flex", 11)):
        run_dir = talk(RunDir(tmp_path / tier), 30)
        with GeminiServer() as server, pytest.raises(BadInputError, match=f"is spent: {30 - paid} turns"):
            grade(server, run_dir, monkeypatch, service_tier=tier, limits=limits)
        assert len(server.requests) == paid


def on(monkeypatch, day):
    monkeypatch.setattr("placid.judge.gemini_models.today", lambda: date.fromisoformat(day))


def test_every_shipped_fact_about_models_fits():
    """Successors are in the file and last longer; the default has not ended, asks little thinking, and is the paper's
    judge's successor."""
    for name, known in CATALOGUE.models.items():
        assert [price.since for price in known.prices] == sorted(price.since for price in known.prices), name
        if known.ends is not None:
            later = CATALOGUE.models[known.successor]
            assert later.ends is None or later.ends > known.ends, name
    assert CATALOGUE.default == JudgeSettings().model == CATALOGUE.models[CATALOGUE.paper].successor
    assert not ended(CATALOGUE.default)
    assert CATALOGUE.tiers == {"standard": 1.0, "flex": 0.5}
    assert set(CATALOGUE.tiers) == set(get_args(JudgeSettings.model_fields["service_tier"].annotation))


@pytest.mark.parametrize(
    ("model", "generation"),
    [
        ("gemini-2.5-flash", {"temperature": 0.0, "thinking_config": {"thinking_budget": 0}}),
        ("gemini-2.5-pro-001", {"temperature": 0.0, "thinking_config": {"thinking_budget": 128}}),
        ("gemini-2.0-flash", {"temperature": 0.0}),
        ("gemini-3.5-flash-lite", {"thinking_config": {"thinking_level": "MINIMAL"}}),
        ("gemini-3.8-flash", {"thinking_config": {"thinking_level": "LOW"}}),  # refuses "minimal"
        ("gemini-3.1-pro-preview", {"thinking_config": {"thinking_level": "LOW"}}),
        ("gemini-9-flash", {"thinking_config": {"thinking_level": "LOW"}}),
    ],
)
def test_a_model_is_asked_as_it_can_be(model, generation):
    assert CATALOGUE.asked_by(model) == generation


def test_prices_follow_the_day_the_tier_and_the_user(monkeypatch):
    judge = JudgeSettings.model_validate({"kind": "gemini", "model": "gemini-3.8-flash"})
    on(monkeypatch, "2026-12-31")
    assert judge.prices("standard") == (0.75, 3.75)
    on(monkeypatch, "2027-01-01")
    assert judge.prices("standard") == (1.5, 7.5)
    assert judge.prices("flex") == (0.75, 3.75)
    assert judge.model_copy(update={"usd_in": 4.0}).prices("flex") == (2.0, 3.75)
    assert judge.model_copy(update={"model": "gemini-9"}).prices("flex") == (None, None)


@pytest.mark.parametrize(
    ("day", "told"),
    [
        ("2026-09-30", ""),
        ("2026-11-30", "gemini-2.5-flash ends on 2026-12-01: .* judge.model = 'gemini-3.5-flash-lite', its successor,"),
        ("2026-12-01", "gemini-2.5-flash ended on 2026-12-01: .* whose scores differ"),
    ],
)
def test_the_papers_judge_names_its_successor_before_and_after_its_end(monkeypatch, day, told):
    on(monkeypatch, day)
    assert re.match(told + ("" if told else "$"), notice("gemini-2.5-flash"))


def test_an_ended_model_is_refused_before_hours_of_rollouts(monkeypatch):
    """Google would let another model answer; a gateway may still serve it."""
    on(monkeypatch, "2026-12-01")
    judge = JudgeSettings.model_validate({"kind": "gemini", "model": "gemini-2.5-pro"})
    monkeypatch.delenv("GOOGLE_GEMINI_BASE_URL", raising=False)
    with pytest.raises(BadInputError, match=r"set judge.model = 'gemini-3.8-flash'"):
        ready(judge)
    monkeypatch.setenv("GOOGLE_GEMINI_BASE_URL", "https://gateway.example")
    ready(judge)
    on(monkeypatch, "2026-11-30")
    monkeypatch.delenv("GOOGLE_GEMINI_BASE_URL")
    ready(judge)


def test_the_successor_says_once_that_its_scores_differ(tmp_path, monkeypatch, caplog):
    with GeminiServer() as server:
        grade(server, talk(RunDir(tmp_path), 20), monkeypatch)
    told = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert len(told) == 1
    assert "successor of gemini-2.5-flash, the paper's judge, and its scores differ" in told[0]


def test_a_withdrawn_model_names_its_successor(tmp_path, monkeypatch):
    on(monkeypatch, "2026-11-30")
    gone = always(lambda: error(404, "NOT_FOUND", "no longer available to new users"))
    with (
        GeminiServer(gone) as server,
        pytest.raises(BadInputError, match=r"judge.model = 'gemini-3.5-flash-lite', its"),
    ):
        grade(server, talk(RunDir(tmp_path)), monkeypatch, model="gemini-2.5-flash")


def test_persona_is_another_judge_of_the_same_turns_by_one_key(tmp_path, monkeypatch):
    run_dir = talk(RunDir(tmp_path), 3, 4)
    with GeminiServer() as server:
        frustration = grade(server, run_dir, monkeypatch, rubric="frustration_conversation")
        persona = grade(server, run_dir, monkeypatch, rubric="persona")
    assert len(frustration) == len(persona) == 12
    assert len(server.requests) == 6  # one a conversation and judge
    assert {v.score for v in persona} == {3}
    assert {v.judge_id for v in persona}.isdisjoint({v.judge_id for v in frustration})
    (card,) = tmp_path.glob("verdicts/*-persona-*/judge.json")
    assert json.loads(card.read_text())["rubric"]["measures"] == "persona"


def test_the_lexical_judge_has_no_phrases_for_persona(tmp_path):
    with pytest.raises(BadInputError, match=r"measures persona, and judge.kind = 'lexical' has phrases of frustration"):
        run(JudgeSettings(rubric="persona"), talk(RunDir(tmp_path)), [PROMPT])
