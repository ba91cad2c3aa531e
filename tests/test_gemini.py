"""The real google-genai client against a real HTTP server that fails as Gemini does."""

import contextlib
import json
import logging
import re
import threading
from pathlib import Path

import pytest
from aiohttp import web

import faults
from gemini_runs import KEY, PROMPT, SOON, always, environment, grade, ledger, once, settings, talk  # noqa: F401 - environment: a fixture
from gemini_server import GeminiServer, error, graded, reply
from placid.cli import main
from placid.engine.faults import warn_once
from placid.judge import run
from placid.judge.desk import KeptReply
from placid.judge.settings import JudgeSettings
from placid.records import BadInputError, End, Finish, Key, PausedError, Turn, Unscored
from placid.store import RunDir, Segment

QUOTA = {
    "@type": "type.googleapis.com/google.rpc.QuotaFailure",
    "violations": [{"quotaId": "GenerateRequestsPerMinutePerProjectPerModel"}],
}
DAY = {
    "@type": "type.googleapis.com/google.rpc.QuotaFailure",
    "violations": [{"quotaId": "GenerateRequestsPerDayPerProjectPerModel"}],
}
BLOCKED = {"promptFeedback": {"blockReason": "PROHIBITED_CONTENT"}, "modelVersion": "gemini-3.5-flash-lite"}


GRADE = json.dumps({"evidence": "", "reasoning": "", "rating": 3})


def without(body, *names):
    """A response that lacks some of its keys."""
    return {name: value for name, value in body.items() if name not in names}


def said(finish, text=GRADE, **more):
    """A grade under another finish reason, or with other keys."""
    return {**reply(text, finish), **more}


def cut_off(response):
    """This text is refused whenever it is asked about; others are answered."""
    return lambda n, body: response() if "I am lost" in str(body) else None


FAILURES = [
    # (what the API does, script, scored | unscored reason | stop | pause, requests made)
    ("429 with RetryInfo", once(lambda: error(429, "RESOURCE_EXHAUSTED", "slow down", QUOTA, SOON)), "scored", 2),
    ("429 with Retry-After", once(lambda: web.Response(status=429, headers={"Retry-After": "0.05"}, text="{}")), "scored", 2),
    ("429, daily quota", always(lambda: error(429, "RESOURCE_EXHAUSTED", "quota", DAY)), "pause", 1),
    ("429, prepaid credits used up", always(lambda: error(429, "RESOURCE_EXHAUSTED", "Your prepayment credits are depleted.")), "stop", 1),
    ("402", always(lambda: error(402, "FAILED_PRECONDITION", "an invoice is open")), "stop", 1),
    ("500", once(lambda: error(500, "INTERNAL", "oops")), "scored", 2),
    ("503 overloaded", once(lambda: error(503, "UNAVAILABLE", "overloaded")), "scored", 2),
    ("503 for one text, for ever", cut_off(lambda: error(503, "UNAVAILABLE", "overloaded")), "outage", None),
    ("503 for ever", always(lambda: error(503, "UNAVAILABLE", "overloaded")), "pause", None),
    ("connection closed", once(lambda: "disconnect"), "scored", 2),
    ("connection closed for one text, for ever", cut_off(lambda: "disconnect"), "outage", None),
    ("connection closed for ever", always(lambda: "disconnect"), "pause", None),
    ("200 with an HTML page", once(lambda: web.Response(text="<html>portal</html>", content_type="text/html")), "scored", 2),
    ("200 with half a JSON body", once(lambda: web.Response(text='{"candidates": [', content_type="application/json")), "scored", 2),
    ("200 with JSON 100,000 deep", once(lambda: web.Response(text="[" * 100_000, content_type="application/json")), "scored", 2),
    ("200 with an error inside", once(lambda: {"error": {"code": 503, "message": "upstream is away"}}), "scored", 2),
    ("200 with {}", once(dict), "scored", 2),
    ("200 with an endless body", once(lambda: web.Response(text=" " * 70_000, content_type="application/json")), "scored", 2),
    ("redirected to another host", once(lambda: web.Response(status=307, headers={"Location": "http://127.0.0.1:9/"})), "scored", 2),
    ("400 wrong key", always(lambda: error(400, "INVALID_ARGUMENT", "API key not valid", {"reason": "API_KEY_INVALID"})), "stop", 1),
    ("400 bad request", always(lambda: error(400, "INVALID_ARGUMENT", "thinking_budget is not supported")), "stop", 2),
    ("400 for one text", cut_off(lambda: error(400, "INVALID_ARGUMENT", "Request contains an invalid argument.")), "rejected", 2),
    ("400 too many tokens", cut_off(lambda: error(400, "INVALID_ARGUMENT", "The input token count (9) exceeds the maximum number of tokens allowed (8).")), "too_long", 2),
    ("413", cut_off(lambda: web.Response(status=413, text="Request Entity Too Large")), "too_long", 2),
    ("400 by a gateway's filter", cut_off(lambda: error(400, "INVALID_ARGUMENT", "flagged by the content policy")), "blocked_prompt", 2),
    ("401", always(lambda: error(401, "UNAUTHENTICATED", f"bad key {KEY}")), "stop", 1),
    ("403", always(lambda: error(403, "PERMISSION_DENIED", "no access")), "stop", 1),
    ("404 withdrawn model", always(lambda: error(404, "NOT_FOUND", "no longer available to new users")), "stop", 1),
    ("another model answers", always(lambda: reply("{}", version="gemini-9-flash")), "stop", 1),
    ("an unnamed model answers", always(lambda: without(reply("{}"), "modelVersion")), "stop", 1),
    ("MAX_TOKENS", always(lambda: reply('{"evid', "MAX_TOKENS")), "max_tokens", 1),
    ("SAFETY", always(lambda: reply("", "SAFETY")), "blocked_output", 1),
    ("prompt blocked", always(lambda: BLOCKED), "blocked_prompt", 1),
    ("prompt blocked, no model named", always(lambda: without(BLOCKED, "modelVersion")), "blocked_prompt", 1),
    ("RECITATION", always(lambda: reply("", "RECITATION")), "recitation", 1),
    ("empty answer", always(lambda: reply("")), "parse", 3),
    ("empty answer once", once(lambda: reply("")), "scored", 2),
    ("finish reason OTHER", always(lambda: reply("", "OTHER")), "refused", 1),
    ("a finish reason of next year", always(lambda: said("END_OF_THOUGHT")), "scored", 1),
    ("no finish reason", always(lambda: said(None)), "scored", 1),
    ("token counts that are none", always(lambda: said("STOP", usageMetadata={"promptTokenCount": "12", "candidatesTokenCount": -1.5})), "scored", 1),
    ("no token counts", always(lambda: without(said("STOP"), "usageMetadata")), "scored", 1),
    ("not JSON", always(lambda: reply("I would say 3")), "parse", 3),
    ("not JSON once", lambda n, body: reply("I would say 3") if n == 0 else None, "scored", 2),
    ("score 17", lambda n, body: reply(graded(body, 17)), "range", 3),
]  # fmt: skip


def place(verdict):
    return verdict.key.sample, verdict.turn


def outcome(server, run_dir, monkeypatch, deadline_s=600):
    """(state, what the user sees)."""
    try:
        (verdict,) = grade(server, run_dir, monkeypatch, limits={"deadline_s": deadline_s})
    except PausedError as stop:
        return "pause", str(stop)
    except BadInputError as stop:
        return "stop", str(stop)
    return ("scored", "") if verdict.score is not None else (verdict.unscored.value, verdict.rationale)


def seen_by_the_user(state, seen, name=""):
    """The column of docs/faults.md."""
    seen = re.sub(r"in \d+ h \d+ min", "in … h … min", seen)
    seen = re.sub(r"no connection \(\w+\)", "no connection (and the client's name for it)", seen)
    if state == "scored":
        return ASIDE.get(name, "nothing")
    if state in ("stop", "pause"):
        return seen
    return f"no score, counted as `{state}`" + (f": {seen}" if seen and state != "range" else "")


ASIDE = {
    "a finish reason of next year": "a warning, once",
    "no finish reason": "a warning, once",
    "token counts that are none": "a warning, once: the dollars shown, and the budget, count our own estimate",
    "no token counts": "a warning, once: the dollars shown, and the budget, count our own estimate",
}
"""What the user sees beside the score."""


@pytest.mark.parametrize(("name", "script", "state", "requests"), FAILURES, ids=[row[0] for row in FAILURES])
def test_a_failure_has_its_state(tmp_path, monkeypatch, caplog, name, script, state, requests):
    caplog.set_level(logging.DEBUG)
    monkeypatch.setattr("placid.judge.gemini.BODY_BYTES", 1 << 16 if "endless" in name else 1 << 24)
    warn_once.cache_clear()
    with GeminiServer(script) as server:
        result, seen = outcome(server, talk(RunDir(tmp_path)), monkeypatch, 0.3 if requests is None else 600)
    assert result == state, seen
    assert requests in (None, len(server.requests))
    assert server.keys == {KEY}
    assert KEY not in caplog.text + seen
    assert not [file for file in tmp_path.rglob("*") if file.is_file() and KEY.encode() in file.read_bytes()]
    faults.check("judge", name, state, seen_by_the_user(state, seen, name))
    told = any(record.levelno == logging.WARNING and record.name == "placid.engine.faults" for record in caplog.records)
    assert told == (name in ASIDE)
    with GeminiServer() as server, contextlib.suppress(BadInputError, PausedError):
        (verdict,) = grade(server, RunDir(tmp_path), monkeypatch)
    asked = state in ("outage", "pause", "stop")
    assert (verdict.score == 3) == (asked or state == "scored")
    assert len(server.requests) == asked, "the next run asks what had a bad hour, and nothing else"


def test_a_whole_conversation_is_one_request_and_is_never_paid_twice(tmp_path, monkeypatch):
    run_dir = talk(RunDir(tmp_path), 5, 4)
    with GeminiServer() as server:
        verdicts = grade(server, run_dir, monkeypatch, rubric="frustration_conversation")
        assert [len(verdicts), len(server.requests)] == [20, 5]
        for file in (tmp_path / "verdicts").glob("*/*.jsonl"):
            file.unlink()  # verdicts lost, replies kept
        again = grade(server, run_dir, monkeypatch, rubric="frustration_conversation")
        assert sorted(again, key=place) == sorted(verdicts, key=place)
        assert len(server.requests) == 5
    folder = next((tmp_path / "verdicts").iterdir())
    for file in folder.glob("*.jsonl"):
        file.unlink()
    replayed = JudgeSettings.model_validate(
        {"kind": "replay", "rubric": "frustration_conversation", "recorded": str(folder)}
    )
    assert run(replayed, run_dir, [PROMPT]) == folder.name
    assert sorted(run_dir.verdicts(folder.name).values(), key=place) == sorted(verdicts, key=place)
    assert sum(kept.usd for kept in ledger(folder)) == pytest.approx(5 * (300 * 0.30 + 30 * 2.50) / 1e6)


def test_a_further_try_is_about_the_turns_that_lack_a_score(tmp_path, monkeypatch):
    """Each answer lacks another turn, and the third is refused: what was read of the others stays."""

    def script(n, body):
        if n == 2:
            return said("RECITATION", "")
        lacking = {0: (2, 3), 1: (1, 3)}[n]
        entries = [{"turn": t, "evidence": "", "rating": t + n} for t in (1, 2, 3, 4) if t not in lacking]
        return reply(json.dumps({"turns": entries}))

    with GeminiServer(script) as server:
        verdicts = grade(server, talk(RunDir(tmp_path), 1, 4), monkeypatch, rubric="frustration_conversation")
    assert [v.score for v in sorted(verdicts, key=place)] == [1, 3, None, 4]
    assert [v.unscored for v in sorted(verdicts, key=place)] == [None, None, Unscored.RECITATION, None]
    assert len({v.request for v in verdicts}) == 3, "each verdict names the answer that it was read of"


@pytest.mark.parametrize("numbers", [(0, 1, 2, 3), (2, 3, 4, 5), (1, 2, 3, 99), (-1, 1, 2, 3)])
def test_a_judge_that_counts_otherwise_is_not_read(tmp_path, monkeypatch, numbers):
    entries = [{"turn": number, "evidence": "", "rating": 5} for number in numbers]
    with GeminiServer(once(lambda: reply(json.dumps({"turns": entries})))) as server:
        verdicts = grade(server, talk(RunDir(tmp_path), 1, 4), monkeypatch, rubric="frustration_conversation")
    assert [v.score for v in verdicts] == [3] * 4, "asked again"
    assert len(server.requests) == 2


def test_one_faulty_text_among_many_is_its_own_state_and_costs_one_short_question(tmp_path, monkeypatch):
    run_dir = talk(RunDir(tmp_path), 50)

    def script(n, body):
        text = str(body)
        if "I am lost. 3 1" in text:
            return error(400, "INVALID_ARGUMENT", "prompt is too long: 210000 tokens > 200000 maximum")
        return error(400, "INVALID_ARGUMENT", "Invalid value at 'contents'") if "I am lost. 0 1" in text else None

    with GeminiServer(script) as server:
        verdicts = grade(server, run_dir, monkeypatch)
        assert sum(v.score == 3 for v in verdicts) == 48
        states = {v.key.sample: v.unscored for v in verdicts if v.unscored}
        assert states == {0: Unscored.REJECTED, 3: Unscored.TOO_LONG}
        assert set(server.paid.values()) == {1}
        asked = len(server.requests)
        grade(server, run_dir, monkeypatch)
        assert len(server.requests) == asked <= 52


def test_a_judge_that_dies_midway_pauses_and_names_what_the_server_said(tmp_path, monkeypatch):
    run_dir = talk(RunDir(tmp_path), 12)
    dying = GeminiServer(lambda n, body: None if n < 5 else error(503, "UNAVAILABLE", "the model is overloaded"))
    with dying as server, pytest.raises(PausedError, match="503: the model is overloaded"):
        grade(server, run_dir, monkeypatch, limits={"deadline_s": 0.2, "max_concurrent": 2})
    with GeminiServer() as server:
        assert [v.score for v in grade(server, run_dir, monkeypatch)] == [3] * 12
        assert len(server.requests) == 7


def test_a_budget_without_token_counts_is_kept_by_our_own_estimate(tmp_path, monkeypatch, caplog):
    run_dir = talk(RunDir(tmp_path), 6)
    warn_once.cache_clear()
    with GeminiServer(lambda n, body: without(said("STOP"), "usageMetadata")) as server:
        with pytest.raises(BadInputError, match="budget_usd is spent"):
            grade(server, run_dir, monkeypatch, limits={"budget_usd": 1e-5, "max_concurrent": 1})
        assert len(server.requests) == 1
    (folder,) = (tmp_path / "verdicts").iterdir()
    (kept,) = ledger(folder)
    assert kept.answer.estimated
    assert kept.answer.input_tokens == pytest.approx(len(str(server.requests[0]["contents"])) / 4, rel=0.1)
    assert caplog.text.count("our own estimate") == 1


@pytest.mark.parametrize(
    ("model", "room"), [("gemini-2.5-pro", 1024), ("gemini-2.5-flash", 0), ("gemini-3.5-flash-lite", 1024)]
)
def test_thoughts_have_room_beside_the_answer(tmp_path, monkeypatch, model, room):
    with GeminiServer(lambda n, body: reply("YES", version=model)) as server:
        grade(server, talk(RunDir(tmp_path)), monkeypatch, model=model, rubric="refusal")
    assert server.requests[0]["generationConfig"]["maxOutputTokens"] == 64 + room


def test_the_id_of_a_model_may_be_written_as_google_writes_it(tmp_path, monkeypatch):
    run_dir = talk(RunDir(tmp_path))
    with GeminiServer(lambda n, body: {**reply(graded(body)), "modelVersion": "models/gemini-2.5-flash"}) as server:
        grade(server, run_dir, monkeypatch, model="models/gemini-2.5-flash")
        grade(server, run_dir, monkeypatch, model="gemini-2.5-flash")
    assert len(server.requests) == 1, "one judge under both names"
    assert server.requests[0]["generationConfig"]["thinkingConfig"] == {"thinking_budget": 0}


def test_a_redirect_does_not_carry_the_key_away(tmp_path, monkeypatch):
    with GeminiServer() as thief:
        redirect = web.Response(status=307, headers={"Location": f"{thief.url}/v1/models/m:generateContent"})
        with GeminiServer(once(lambda: redirect)) as server:
            (verdict,) = grade(server, talk(RunDir(tmp_path)), monkeypatch)
    assert verdict.score == 3
    assert not thief.requests


def test_a_local_address_is_asked_without_the_proxy_of_the_environment(tmp_path, monkeypatch):
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    monkeypatch.delenv("NO_PROXY", raising=False)
    with GeminiServer() as server:
        (verdict,) = grade(server, talk(RunDir(tmp_path)), monkeypatch)
    assert verdict.score == 3


def test_a_budget_stops_and_a_larger_one_goes_on(tmp_path, monkeypatch):
    run_dir = talk(RunDir(tmp_path), 30)
    one = (300 * 0.30 + 30 * 2.50) / 1e6
    with GeminiServer() as server:
        limits = {"budget_usd": 10.5 * one, "max_concurrent": 1}
        with pytest.raises(BadInputError, match=r"budget_usd is spent: 19 turns have no score; .* raise it"):
            grade(server, run_dir, monkeypatch, limits=limits)
        verdicts = run_dir.verdicts(next((tmp_path / "verdicts").iterdir()).name).values()
        assert sum(v.score is not None for v in verdicts) == len(server.requests) == 11
        assert {v.unscored.value for v in verdicts if v.unscored} == {"budget"}
        assert all(v.score == 3 for v in grade(server, run_dir, monkeypatch))
        assert len(server.requests) == 30


def test_equal_requests_under_way_are_one(tmp_path, monkeypatch):
    run_dir = RunDir(tmp_path)
    with run_dir.segment("w") as segment:
        segment.append(*(
            Turn(key=Key("base", "neutral", "p", sample), turn=1, user="u", reply="the same", reply_ids=(1,), finish=Finish.STOP,
                 prompt_tokens=1, cached_tokens=0, seed=1, end=End.FINISHED)
            for sample in range(20)
        ))  # fmt: skip
    with GeminiServer(latency_s=0.05) as server:
        assert len(grade(server, run_dir, monkeypatch)) == 20
    assert len(server.requests) == 1


def test_no_key_is_one_sentence(tmp_path, monkeypatch):
    monkeypatch.delenv("GEMINI_API_KEY")
    with pytest.raises(BadInputError, match="GEMINI_API_KEY"):
        run(settings(), talk(RunDir(tmp_path)), [PROMPT])


def test_what_another_model_said_is_money_and_no_grade(tmp_path, monkeypatch):
    run_dir = talk(RunDir(tmp_path))
    with GeminiServer(
        once(lambda: reply(json.dumps({"evidence": "", "reasoning": "", "rating": 9}), version="x"))
    ) as server:
        with pytest.raises(BadInputError, match="x answered"):
            grade(server, run_dir, monkeypatch)
        (folder,) = (tmp_path / "verdicts").iterdir()
        (kept,) = ledger(folder)
        assert kept.foreign
        assert kept.usd > 0
        (verdict,) = grade(server, run_dir, monkeypatch)
    assert verdict.score == 3
    assert len(list(ledger(folder))) == len(server.requests) == 2


def test_after_a_refused_key_nothing_that_waits_is_sent(tmp_path, monkeypatch):
    """At one request a minute, leaving would take hours if those in the queue still took their turn."""
    run_dir = talk(RunDir(tmp_path), 40, 4)
    with GeminiServer(always(lambda: error(401, "UNAUTHENTICATED", "no"))) as server:
        with pytest.raises(BadInputError, match="401"):
            grade(server, run_dir, monkeypatch, limits={"rpm": 1})
        assert len(server.requests) == 1


@pytest.mark.parametrize(
    ("script", "error_kind", "state"),
    [
        (lambda n, body: None, None, "done"),
        (always(lambda: error(429, "RESOURCE_EXHAUSTED", "quota", DAY)), PausedError, "paused"),
        (always(lambda: error(403, "PERMISSION_DENIED", "no")), BadInputError, "stopped"),
    ],
)
def test_the_status_says_how_it_ended(tmp_path, monkeypatch, script, error_kind, state):
    run_dir = talk(RunDir(tmp_path))
    with GeminiServer(script) as server:
        monkeypatch.setenv("GOOGLE_GEMINI_BASE_URL", server.url)
        with pytest.raises(error_kind) if error_kind else contextlib.nullcontext():
            run(settings(), run_dir, [PROMPT], tmp_path)
    assert json.loads((tmp_path / "status.json").read_text())["judge"]["state"] == state


def test_following_grades_what_is_spoken_meanwhile(tmp_path, monkeypatch):
    """Each look finds one more conversation; the first ones are not asked for again."""
    monkeypatch.setattr("placid.judge.grading.LOOK_EVERY_S", 0.0)
    run_dir, looks = RunDir(tmp_path), iter(range(4))

    def complete(_):
        look = next(looks)
        with run_dir.segment(f"w{look}") as segment:
            segment.append(
                Turn(key=Key("base", "neutral", "p", look), turn=1, user="u", reply=f"I am lost. {look}", reply_ids=(1,),
                     finish=Finish.STOP, prompt_tokens=1, cached_tokens=0, seed=1, end=End.FINISHED)
            )  # fmt: skip
        return look == 3

    with GeminiServer() as server:
        monkeypatch.setenv("GOOGLE_GEMINI_BASE_URL", server.url)
        judge_id = run(settings(), run_dir, [PROMPT], complete=complete)
    assert sorted(key.sample for key, _ in run_dir.verdicts(judge_id)) == [0, 1, 2, 3]
    assert len(server.requests) == 4


def test_a_429_storm_ends_with_every_grade_and_none_paid_twice(tmp_path, monkeypatch):
    run_dir = talk(RunDir(tmp_path), 200)

    def storm(n, body):
        return error(429, "RESOURCE_EXHAUSTED", "slow down", QUOTA, SOON) if 60 <= n < 90 else None

    with GeminiServer(storm, latency_s=0.01) as server:
        verdicts = grade(server, run_dir, monkeypatch)
    assert [v.score for v in verdicts] == [3] * 200
    assert set(server.paid.values()) == {1}
    assert len(server.paid) == 200


def test_replies_are_written_down_while_the_disk_is_waited_for(tmp_path, monkeypatch):
    """The first fsync hangs until every reply is in the file."""
    run_dir, all_there, written = talk(RunDir(tmp_path), 40), threading.Event(), []
    append = Segment.append

    def noted(segment, *records, sync=True):
        places = append(segment, *records, sync=sync)
        written.extend(record for record in records if isinstance(record, KeptReply))
        if len(written) == 40:
            all_there.set()
        return places

    monkeypatch.setattr("placid.judge.desk.SYNC_S", 0.0)
    monkeypatch.setattr(Segment, "append", noted)
    monkeypatch.setattr(Segment, "sync", lambda segment: all_there.wait(60) or pytest.fail("replies wait for the disk"))
    with GeminiServer(latency_s=0.01) as server:
        assert len(grade(server, run_dir, monkeypatch)) == 40
    assert len(written) == len(server.requests) == 40


@pytest.fixture
def words(tmp_path):
    """A simulated study of six conversations in three arms, graded by the API."""
    rows = Path("configs/prompts/organism_heldout.jsonl").read_text().splitlines()[:2]
    (tmp_path / "prompts.jsonl").write_text("\n".join(rows) + "\n")
    prompts = str(tmp_path / "prompts.jsonl")
    small = ["--root", str(tmp_path), "--prompts", prompts, "--samples", "1", "--turns", "2"]
    return ["configs/study/simulate.toml", *small, "--judge.kind", "gemini"]


@pytest.mark.parametrize(
    ("command", "more", "left_over"),
    [
        ("study", (), "8 turns"),
        ("judge", (), "8 turns"),
        ("eval", ("--evals.refusal.n", "5"), "3 answers of the evals"),
    ],
)
def test_a_spent_budget_leaves_with_2_and_a_larger_one_goes_on(
    words, tmp_path, monkeypatch, capsys, command, more, left_over
):
    """Paid by the request: with one open at a time, the budget of one and a half ends after the second."""
    one = (300 * 0.30 + 30 * 2.50) / 1e6
    words += ["--judge.limits.max_concurrent", "1", *more]
    with GeminiServer() as server:
        monkeypatch.setenv("GOOGLE_GEMINI_BASE_URL", server.url)
        main(["rollout", *words])
        with pytest.raises(SystemExit) as left:
            main([command, *words, "--judge.limits.budget_usd", str(1.5 * one)])
        assert left.value.code == 2
        told = capsys.readouterr().err.splitlines()[-1]
        assert told.startswith(f"placid: judge.limits.budget_usd is spent: {left_over} have no ")
        assert "raise it and run the same command" in told
        assert len(server.requests) == 2
        assert not (tmp_path / "simulate/report").exists()
        if command == "judge":
            main(["report", *words, *told.split("placid report with ")[1].split()[:2]])
            counted = json.loads((tmp_path / "simulate/report/summary.json").read_text())["arms"].values()
            assert sum(arm["n_unscored_by"].get("budget", 0) for arm in counted) == 8
        main([command, *words])
        assert len(server.requests) == len(server.paid) == (5 if command == "eval" else 6)


def test_a_study_by_api_and_its_page_hold_no_key_and_the_report_needs_none(
    words, tmp_path, monkeypatch, capsys, caplog
):
    caplog.set_level(logging.DEBUG)
    with GeminiServer() as server:
        monkeypatch.setenv("GOOGLE_GEMINI_BASE_URL", server.url)
        main(["study", *words])
        monkeypatch.delenv("GEMINI_API_KEY")
        main(["report", *words])
    assert server.keys == {KEY}
    assert len(server.requests) == 6
    assert (tmp_path / "simulate/report/index.html").is_file()
    assert not [file for file in tmp_path.rglob("*") if file.is_file() and KEY.encode() in file.read_bytes()]
    shown = capsys.readouterr()
    assert KEY not in shown.out + shown.err + caplog.text
    with pytest.raises(SystemExit) as left:
        main(["study", *words, "--name", "another"])
    assert left.value.code == 2
    assert "GEMINI_API_KEY" in capsys.readouterr().err
    assert not (tmp_path / "another").exists()


@pytest.mark.parametrize("rubric", ["persona", "refusal"])
def test_scores_of_something_else_are_never_taken_for_frustration(words, monkeypatch, capsys, rubric):
    """placid judge takes the rubric; a study would select and show its scores as distress."""
    with GeminiServer() as server:
        monkeypatch.setenv("GOOGLE_GEMINI_BASE_URL", server.url)
        main(["rollout", *words])
        for command in ("study", "report"):
            with pytest.raises(SystemExit) as left:
                main([command, *words, "--judge.rubric", rubric])
            assert left.value.code == 2
            assert f"measures {rubric}, not frustration" in capsys.readouterr().err
        assert not server.requests
        if rubric == "persona":
            main(["judge", *words, "--judge.rubric", rubric])
            assert len(server.requests) == 6
