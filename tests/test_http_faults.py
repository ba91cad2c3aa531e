"""A server that answers wrongly, in every way of the table: under one conversation of three, or under all."""

import asyncio
import gzip
import json
import logging
import re
import threading
from contextlib import contextmanager
from pathlib import Path

import pytest
from aiohttp import web

import faults
from placid.engine import http
from placid.engine.faults import warn_once
from placid.records import BadInputError, Message, PausedError, Prompt
from placid.render import Renderer
from placid.rollout import run
from placid.rollout.settings import RolloutSettings
from placid.store import RunDir, write_lines

MODEL = Path("checkpoints/organism")
KEY = "sk-planted-5a1c"
FAULTY = "What is 1 and 2?"
PROMPTS = [Prompt(id=f"p{n}", text=f"What is {n} and 2?") for n in range(3)]


def answer(text="It is 45.", **choice):
    return {"model": "m", "choices": [{"index": 0, "text": text, "finish_reason": "stop", **choice}], "usage": {}}


def json_of(body, status=200, headers=None):
    return web.Response(text=body if isinstance(body, str) else json.dumps(body), status=status, headers=headers)


def error(status, message, **more):
    return json_of({"error": {"message": message, **more}}, status)


async def drip(request):
    response = web.StreamResponse(headers={"Content-Length": "400"})
    await response.prepare(request)
    while True:
        await response.write(b" ")
        await asyncio.sleep(0.05)


async def endless(request):
    response = web.StreamResponse()
    await response.prepare(request)
    while True:
        await response.write(b"a" * (1 << 16))


async def cut(request):
    response = web.StreamResponse(headers={"Content-Length": "5000"})
    await response.prepare(request)
    await response.write(b'{"choices": [')
    request.transport.close()
    return response


async def closed(request):
    request.transport.close()
    return web.Response()


BOMB = gzip.compress(b" " * (1 << 20), 9)
LOGPROBS = {"token_ids": [300, 301]}
ONE, ALL = "one conversation", "every request"
ROWS = [
    # (fault, whom it meets, the answer: JSON, a function of the request, or a response made anew each time)
    ("a finish reason that nobody knows (eos)", ALL, answer(finish_reason="eos")),
    ("finish reason null", ALL, answer(finish_reason=None)),
    ("finish reason 7", ALL, answer(finish_reason=7)),
    ("finish reason tool_calls", ALL, answer(finish_reason="tool_calls")),
    ("finish reason MAX_TOKENS", ALL, answer(finish_reason="MAX_TOKENS")),
    ("finish reason abort", ONE, answer(finish_reason="abort")),
    ("the text is a list of parts", ALL, answer([{"type": "text", "text": "It is "}, {"type": "text", "text": "45."}])),
    ("the text holds a lone surrogate", ALL, '{"model": "m", "choices": [{"text": "a \\ud800 b", "finish_reason": "stop"}]}'),
    ("the text is no UTF-8", ALL, lambda _: web.Response(body=json.dumps(answer("a ? b")).encode().replace(b"?", b"\xff"))),
    ("the text holds NUL and escapes", ALL, answer("a\0b\x1b[31m")),
    ("token ids are words", ALL, answer(token_ids=["a", "b"])),
    ("token ids are booleans", ALL, answer(token_ids=[True, False])),
    ("token ids are fractions", ALL, answer(token_ids=[5.0, 6.0])),
    ("token ids below 0", ALL, answer(token_ids=[-5, 3])),
    ("token ids beyond the vocabulary", ALL, answer(token_ids=[2**70, 99_999_999])),
    ("token ids are an object", ALL, answer(token_ids={"5": 1})),
    ("log-probability NaN", ALL, answer(**LOGPROBS, logprobs={"token_logprobs": [float("nan"), -1.0]})),
    ("log-probability -Infinity", ALL, answer(**LOGPROBS, logprobs={"token_logprobs": [float("-inf"), -1.0]})),
    ("log-probability above 0", ALL, answer(**LOGPROBS, logprobs={"token_logprobs": [0.5, -1.0]})),
    ("log-probability is a word", ALL, answer(**LOGPROBS, logprobs={"token_logprobs": ["x", -1.0]})),
    ("cached_tokens 12.5", ALL, {**answer(), "usage": {"prompt_tokens_details": {"cached_tokens": 12.5}}}),
    ("cached_tokens -1", ALL, {**answer(), "usage": {"prompt_tokens_details": {"cached_tokens": -1}}}),
    ("cached_tokens 2**70", ALL, {**answer(), "usage": {"prompt_tokens_details": {"cached_tokens": 2**70}}}),
    ("usage is a word", ALL, {**answer(), "usage": "much"}),
    ("a thought stands before the reply", ALL, answer("<think>\nI hate this.\n</think>\n\nIt is 45.")),
    ("a thought is all there is", ALL, answer("<think>\nI hate", finish_reason="length")),
    ("the text is a number", ONE, answer(5)),
    ("no choice in the answer", ONE, {"choices": []}),
    ("the answer is {}", ONE, {}),
    ("choices are a word", ONE, {"choices": "hello"}),
    ("an error with status 200", ONE, {"error": {"code": 502, "message": "upstream is away"}}),
    ("filtered, status 400", ONE, lambda _: error(400, "flagged by the content policy", code="content_filter")),
    ("filtered, the reply held back", ONE, answer("", finish_reason="content_filter")),
    ("too long for the server, as vLLM says it", ONE, lambda _: error(400, "This model's maximum context length is 64 tokens.")),
    ("too long for the server, as TGI says it", ONE, lambda _: error(422, "`inputs` tokens + `max_new_tokens` must be <= 64.")),
    ("status 413", ONE, lambda _: json_of("Payload Too Large", 413)),
    ("status 400 without a known reason", ONE, lambda _: error(400, "something is wrong with it")),
    ("status 500 for ever", ONE, lambda _: error(500, "oops")),
    ("connection closed for ever", ONE, closed),
    ("half an answer, for ever", ONE, cut),
    ("an answer that drips", ONE, drip),
    ("an answer without end", ONE, endless),
    ("a compressed answer that swells to 1 MiB", ONE, lambda _: web.Response(body=BOMB, headers={"Content-Encoding": "gzip"})),
    ("JSON 100,000 deep", ONE, "[" * 100_000),
    ("no server", ALL, None),
    ("every status 503", ALL, lambda _: error(503, "the model is loading")),
    ("Retry-After: 99999", ALL, lambda _: json_of("slow", 429, {"Retry-After": "99999"})),
    ("every answer an HTML page", ALL, "<html>login</html>"),
    ("every answer without a choice", ALL, {"object": "list"}),
    ("every status 400", ALL, lambda _: error(400, "max_tokens must be positive")),
    ("status 401", ALL, lambda r: error(401, f"wrong key {r.headers['Authorization']}")),
    ("status 402 from the server", ALL, lambda _: error(402, "your balance is 0.00")),
    ("status 404", ALL, lambda _: error(404, "The model `m` does not exist")),
    ("a redirect", ALL, lambda _: json_of("", 307, {"Location": "http://127.0.0.1:9/steal"})),
]  # fmt: skip


@contextmanager
def server(whom, made):
    """One model `m`; the answers of `made` to the faulty question, or to all. Yields its URL and the requests."""
    loop, seen = asyncio.new_event_loop(), []

    async def reply(request):
        body = await request.json()
        seen.append(body)
        ids = tuple(body["prompt"])
        if whom == ONE and ids[: len(faulty)] != faulty:
            return json_of(answer())
        result = made(request) if callable(made) else json_of(made)
        return await result if asyncio.iscoroutine(result) else result

    async def models(_):
        return json_of({"data": [{"id": "m"}]})

    async def start():
        app = web.Application()
        app.router.add_get("/v1/models", models)
        app.router.add_post("/v1/completions", reply)
        runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        return runner

    faulty = tuple(Renderer(MODEL).prompt([Message(role="user", content=FAULTY)]))
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    runner = asyncio.run_coroutine_threadsafe(start(), loop).result()
    url = f"http://127.0.0.1:{runner.addresses[0][1]}/v1"
    try:
        if made is None:
            asyncio.run_coroutine_threadsafe(runner.cleanup(), loop).result()
        yield url, seen
    finally:
        asyncio.run_coroutine_threadsafe(runner.cleanup(), loop).result()
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


def outcome(folder, whom, made, caplog):
    """(state, what the user sees, the run, requests)."""
    write_lines(folder / "prompts.jsonl", PROMPTS)
    run_dir = RunDir(folder / "run")
    caplog.clear()
    warn_once.cache_clear()
    with server(whom, made) as (url, seen):
        limits = {"deadline_s": 1.2, "timeout_s": 0.8, "key_variable": "MY_KEY"}
        settings = RolloutSettings.model_validate(
            {
                "model": MODEL,
                "launcher": "inline",
                "max_tokens": 32,
                "logprobs": True,
                "engine": {"kind": "http", "http": {"url": url, **limits}},
                "arms": {"base": {"prompts": folder / "prompts.jsonl", "samples": 1, "turns": 2, "hatch": False}},
            }
        )
        state, told = "", ""
        try:
            run(settings, run_dir, run_dir.new_attempt())
        except PausedError as stop:
            state, told = "pause", str(stop)
        except BadInputError as stop:
            state, told = "stop", str(stop)
    ends = {key.prompt_id: end.value for key, end in run_dir.index().ends.items()}
    if not state:
        warned = [r.getMessage() for r in caplog.records if r.levelno == logging.WARNING]
        ended = [line.partition(": ")[2] for line in warned if " ends as " in line]
        once = [
            r.getMessage() for r in caplog.records if r.levelno == logging.WARNING and r.name == "placid.engine.faults"
        ]
        assert ends["p0"] == ends["p2"] == ("finished" if whom == ONE else ends["p1"])
        state = ends["p1"]
        told = "; ".join(ended[:1] or [f"a warning, once: {line}" for line in once]) or "nothing"
    told = re.sub(r"\[{20,}|All connection attempts failed", "…", told.replace(url, "URL"))
    return state, told, run_dir, seen


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(http, "FIRST_WAIT_S", 0.01)
    monkeypatch.setattr(http, "LONGEST_WAIT_S", 0.1)
    monkeypatch.setattr(http, "BODY_BYTES", 1 << 17)
    monkeypatch.setenv("MY_KEY", KEY)
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")  # never asked: the server is on this machine
    monkeypatch.delenv("NO_PROXY", raising=False)
    monkeypatch.delenv("no_proxy", raising=False)


@pytest.mark.parametrize(("fault", "whom", "made"), ROWS, ids=[row[0] for row in ROWS])
def test_a_wrong_answer_is_a_state_or_one_sentence(tmp_path, caplog, fault, whom, made):
    state, told, run_dir, seen = outcome(tmp_path, whom, made, caplog)
    faults.check("engine", fault, state, told)
    assert KEY not in told + caplog.text
    index = run_dir.index()
    for key in index:  # whatever came, every stage can read the run
        for turn in index.turns(key):
            turn.reply.encode()
            assert turn.logprobs is None or len(turn.logprobs) == len(turn.reply_ids)
    if state == "finished":
        assert len(seen) == 6, "a reply that came is never asked for again"
