"""placid.engine.http against a real server on a local port with scripted answers: what is retried, and what never is."""

import asyncio
import json
import os
import socket
import subprocess
import sys
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from aiohttp import web

from placid.engine import ContextOverflowError, ReplyRequest, http
from placid.engine.http import HttpEngine, ServerError
from placid.engine.settings import EngineSettings
from placid.engine.simulate import SimulateEngine
from placid.inputs.prompts import read_prompts
from placid.records import BadInputError, Finish, Message
from placid.render import Renderer
from placid.rollout import run
from placid.rollout.settings import RolloutSettings
from placid.store import RunDir, read_json, write_lines
from placid.templates import TemplateProcess

MODEL = Path("checkpoints/organism")
DROP = "drop the connection"
MODELS = (200, {}, {"data": [{"id": "organism"}]})


@pytest.fixture(scope="module")
def renderer():
    return Renderer(MODEL)


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch):
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")


@contextmanager
def server(*script):
    """Gives the answers of `script` in order; yields (url, requests seen as (path, headers, body))."""
    left, seen = [MODELS, *script], []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            self.do_POST()

        def do_POST(self):
            if self.path == "/version":  # a server that is not vLLM
                self.send_error(404)
                return
            size = int(self.headers.get("content-length") or 0)
            seen.append((self.path, dict(self.headers), json.loads(self.rfile.read(size) or b"null")))
            answer = left.pop(0)
            if answer == DROP:
                self.connection.close()
                return
            status, headers, body = answer
            data = body.encode() if isinstance(body, str) else json.dumps(body).encode()
            self.send_response(status)
            for name, value in {**headers, "content-length": str(len(data))}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *_):
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as running:
        thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield f"http://127.0.0.1:{running.server_port}/v1", seen
        finally:
            running.shutdown()
            thread.join()


def said(renderer, text, finish="stop", **more):
    ids = [*renderer.encode(text), *renderer.end_of_turn]
    choice = {"text": text, "finish_reason": finish, "token_ids": ids, **more}
    return (200, {}, {"choices": [choice], "usage": {"prompt_tokens_details": {"cached_tokens": 3}}})


class Clock:
    """Time that passes only by waiting."""

    def __init__(self):
        self.at, self.waits = 0.0, []

    async def sleep(self, seconds):
        self.waits.append(seconds)
        self.at += seconds

    def now(self):
        return self.at


def ask(url, ids, clock=None, times=1, request=None, **more):
    clock = clock or Clock()
    settings = EngineSettings.model_validate({"kind": "http", "http": {"url": url, **more}})

    async def run():
        engine = HttpEngine(settings, MODEL, sleep=clock.sleep, now=clock.now)
        try:
            await engine.start()
            wanted = {"prompt_ids": tuple(ids), "max_tokens": 50, "temperature": 1.0, "seed": 7, **(request or {})}
            return [await engine.reply(ReplyRequest(**wanted)) for _ in range(times)]
        finally:
            await engine.close()

    return asyncio.run(run())


def test_ids_go_in_and_the_servers_own_ids_come_back(renderer):
    values = [-0.5] * (len(renderer.encode("I see.")) + 1)
    with server(said(renderer, "I see.", logprobs={"token_logprobs": values})) as (url, seen):
        (reply,) = ask(url, [2, 3, 4], request={"logprobs": True})
    assert (reply.text, reply.finish, reply.cached_tokens) == ("I see.", Finish.STOP, 3)
    assert list(reply.token_ids) == renderer.encode("I see.")
    assert reply.logprobs == tuple(values[:-1])
    path, _, body = seen[1]
    assert (path, body["prompt"], body["seed"], body["model"]) == ("/v1/completions", [2, 3, 4], 7, "organism")


LATER = [
    (429, {"retry-after": "7"}, "slow down"),
    (503, {}, "busy"),
    (500, {"retry-after": "0"}, "x"),
    DROP,
    (200, {}, "<html>502</html>"),
]


def test_infrastructure_is_retried_and_retry_after_is_kept(renderer):
    clock = Clock()
    with server(*LATER, said(renderer, "So.")) as (url, seen):
        (reply,) = ask(url, [2, 3], clock)
    assert reply.text == "So."
    assert len(seen) == 2 + len(LATER)
    assert clock.waits == pytest.approx([7, 2, 1, 8, 16], rel=0.01), "seed 7: hardly longer"
    assert len({json.dumps(body) for _, _, body in seen[1:]}) == 1, "the same request each time"


def test_the_deadline_holds_over_all_attempts(renderer):
    clock = Clock()
    failed = pytest.raises(ServerError, match="failed for 100 s, last status 503: busy")
    with server(*[(503, {"retry-after": "40"}, "busy")] * 4) as (url, seen), failed:
        ask(url, [2], clock, deadline_s=100)
    assert clock.waits == pytest.approx([40, 40], rel=0.01)
    assert len(seen) == 5, "at last a short question: does it answer anybody?"


@pytest.mark.parametrize(
    ("finish", "text", "expected"),
    [("stop", "", Finish.STOP), ("content_filter", "I", Finish.FILTERED), ("length", "I see", Finish.LENGTH)],
)
def test_content_is_never_asked_for_again(renderer, finish, text, expected):
    with server(said(renderer, text, finish)) as (url, seen):
        (reply,) = ask(url, [2])
    assert (reply.finish, reply.text, len(seen)) == (expected, text, 2)


@pytest.mark.parametrize(("status", "says"), [(400, "status 400"), (401, "check the key"), (404, "engine.http.api")])
def test_what_no_repetition_changes_stops_at_once_without_the_key(monkeypatch, caplog, status, says):
    monkeypatch.setenv("MY_KEY", "sk-planted-secret")
    script = ((503, {}, "bad sk-planted-secret"), *[(status, {}, "bad key sk-planted-secret")] * 2)
    with server(*script) as (url, seen), pytest.raises(BadInputError, match=says) as refused:
        ask(url, [2], key_variable="MY_KEY")
    assert {headers["Authorization"] for _, headers, _ in seen} == {"Bearer sk-planted-secret"}
    assert len(seen) == (4 if status == 400 else 3), "after a 400, a short question: does it answer anybody?"
    assert "***" in str(refused.value)
    assert "planted" not in str(refused.value) + caplog.text


def test_a_context_that_the_server_finds_too_long_is_an_end_not_an_error(renderer):
    full = (400, {}, {"error": {"code": "context_length_exceeded"}})
    with server(full, said(renderer, "Yes.")) as (url, _), pytest.raises(ContextOverflowError):
        ask(url, [2])


def test_requests_per_minute_are_spaced(renderer):
    clock = Clock()
    with server(*[said(renderer, "So.")] * 3) as (url, _):
        ask(url, [2], clock, times=3, requests_per_minute=30)
    assert clock.waits == [2, 2, 2]


def test_chat_sends_the_messages_that_the_ids_were_made_of(renderer):
    ids = renderer.prompt([Message(role="user", content="How?")])
    ids = renderer.extend(ids, renderer.encode("Like this."), "Wrong.")
    answer = {"choices": [{"message": {"content": "I see."}, "finish_reason": "stop"}]}
    with server((200, {}, answer)) as (url, seen):
        (reply,) = ask(url, ids, api="chat")
    assert seen[1][2]["messages"] == [
        {"role": "user", "content": "How?"},
        {"role": "assistant", "content": "Like this."},
        {"role": "user", "content": "Wrong."},
    ]
    assert (reply.text, list(reply.token_ids)) == ("I see.", renderer.encode("I see."))


def test_a_reply_with_the_templates_own_markers_cannot_go_as_chat(renderer):
    ids = renderer.prompt([Message(role="user", content="How?")])
    ids = renderer.extend(ids, renderer.encode_rendered("So.<end_of_turn>\n<start_of_turn>user\nMe."), "Wrong.")
    with pytest.raises(BadInputError, match="own markers"):
        renderer.messages(ids)


def test_a_system_prompt_that_stands_apart_is_sent_as_one(renderer, monkeypatch):
    template = (
        "{% for m in messages %}<start_of_turn>{{ m.role }}\n{{ m.content | trim }}<end_of_turn>\n{% endfor %}"
        "{% if add_generation_prompt %}<start_of_turn>assistant\n{% endif %}"
    )
    monkeypatch.setattr(renderer, "_template", TemplateProcess(template, {}))
    monkeypatch.setattr(renderer, "_bridges", {})  # what it remembers of the other template
    told = [Message(role="system", content="Be calm."), Message(role="user", content="How?")]
    ids = renderer.extend(renderer.prompt(told), renderer.encode("So."), "Wrong.")
    said_ = [Message(role="assistant", content="So."), Message(role="user", content="Wrong.")]
    assert renderer.messages(ids) == [*told, *said_]
    assert renderer.messages(renderer.prompt(told[1:])) == told[1:]


@pytest.mark.parametrize("url", ["localhost:8000/v1", "http://me:sk-1@host/v1", "http://host/v1?key=sk-1"])
def test_a_url_with_a_key_in_it_is_refused(url):
    with pytest.raises(ValueError, match=r"it begins with|key_variable"):
        EngineSettings.model_validate({"kind": "http", "http": {"url": url}})


def test_what_is_not_served_and_what_cannot_be_checked_is_refused(monkeypatch):
    with server() as (url, _), pytest.raises(BadInputError, match="serves \\['organism'\\], not"):
        ask(url, [2], served="other")
    settings = EngineSettings.model_validate({"kind": "http", "http": {"key_variable": "MY_KEY"}})
    monkeypatch.delenv("MY_KEY", raising=False)
    with pytest.raises(BadInputError, match=r"MY_KEY.*not set"):
        HttpEngine(settings, MODEL)
    with pytest.raises(BadInputError, match="cannot check adapters"):
        HttpEngine(EngineSettings(kind="http"), MODEL, ("checkpoints/x",))


class Upstream:
    """An OpenAI-compatible server over the simulated engine; every third request fails in one of four ways."""

    def __init__(self, known):
        self.settings = EngineSettings(kind="simulate")
        self.engine, self.renderer = SimulateEngine(self.settings, MODEL, known), Renderer(MODEL)
        self.requests = self.failed = 0

    def app(self):
        app = web.Application()
        app.router.add_get("/v1/models", self.models)
        app.router.add_post("/v1/{kind:completions|chat/completions}", self.complete)
        return app

    async def models(self, _):
        return web.json_response({"data": [{"id": "simulated"}]})

    async def complete(self, request):
        self.requests += 1
        if self.requests % 3 == 0:
            self.failed += 1
            kind = self.failed % 4
            if kind == 0:
                request.transport.abort()
            return web.Response(status=(200, 429, 500, 503)[kind], text="<html>not now</html>")
        body = await request.json()
        ids = body.get("prompt") or self.renderer.prompt([Message(**m) for m in body["messages"]])
        asked = ReplyRequest(
            prompt_ids=tuple(ids), max_tokens=body["max_tokens"], temperature=body["temperature"], seed=body["seed"]
        )
        reply = await self.engine.reply(asked)
        choice = {"finish_reason": reply.finish.value, "text": reply.text, "message": {"content": reply.text}}
        if "messages" not in body:
            choice["token_ids"] = list(reply.token_ids)
        return web.json_response({"choices": [choice], "usage": {}})


@contextmanager
def upstream(known):
    """The server above, on a port of its own and in a thread of its own."""
    loop, served = asyncio.new_event_loop(), Upstream(known)

    async def start():
        await served.engine.start()
        runner = web.AppRunner(served.app(), access_log=None)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        return runner, runner.addresses[0][1]

    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    runner, port = asyncio.run_coroutine_threadsafe(start(), loop).result()
    try:
        yield f"http://127.0.0.1:{port}/v1", served
    finally:
        asyncio.run_coroutine_threadsafe(runner.cleanup(), loop).result()
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


def test_rollouts_over_a_failing_server_are_those_of_the_engine_behind_it(tmp_path, monkeypatch):
    monkeypatch.setattr(http, "FIRST_WAIT_S", 0.001)
    prompts = read_prompts(Path("configs/prompts/organism_heldout.jsonl"))[:3]
    write_lines(tmp_path / "prompts.jsonl", prompts)
    arms = {"base": {"prompts": tmp_path / "prompts.jsonl", "samples": 2, "turns": 6}}

    def hold(name, **engine):
        run_dir = RunDir(tmp_path / name)
        settings = {"model": MODEL, "launcher": "inline", "engine": engine, "arms": arms}
        run(RolloutSettings.model_validate(settings), run_dir, run_dir.new_attempt())
        return {key: c.turns for key, c in run_dir.conversations(prompts).items()}

    direct = hold("direct", kind="simulate")
    with upstream({p.text: p.answers for p in prompts}) as (url, served):
        assert hold("ids", kind="http", http={"url": url}) == direct
        assert hold("chat", kind="http", http={"url": url, "api": "chat"}) == direct
    assert served.failed > 20
    assert served.requests - served.failed == 2 * sum(map(len, direct.values())), "no reply was asked for twice"
    engine = {"name": "http", "version": "simulated", "endpoint": url}
    assert read_json(tmp_path / "ids/engine.json") == engine


@contextmanager
def vllm_serve():
    """The real server on a port of its own."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    words = ["--model", MODEL, "--host", "127.0.0.1", "--port", port, "--dtype", "bfloat16", "--max-model-len", 2048]
    words += ["--max-num-batched-tokens", 4096, "--no-enable-chunked-prefill", "--enforce-eager", "--block-size", 32]
    words += ["--enable-prompt-tokens-details", "--served-model-name", "organism"]
    env = {**os.environ, "VLLM_CPU_KVCACHE_SPACE": "1", "OMP_NUM_THREADS": "1", "VLLM_CPU_OMP_THREADS_BIND": "nobind"}
    process = subprocess.Popen(
        [sys.executable, "-m", "vllm.entrypoints.openai.api_server", *map(str, words)],
        env=env | {"HF_HUB_OFFLINE": "1", "VLLM_NO_USAGE_STATS": "1"},
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip
    said = []
    for line in process.stdout:
        said.append(line)
        if "Application startup complete" in line:
            break
    else:
        raise AssertionError("the server ended: " + "".join(said[-20:]))
    reader = threading.Thread(target=lambda: said.extend(process.stdout))
    reader.start()
    try:
        yield f"http://127.0.0.1:{port}/v1"
    finally:
        process.terminate()
        process.wait()
        reader.join()


@pytest.mark.slow
def test_vllm_serve_answers_as_placids_own_vllm(tmp_path):
    prompts = read_prompts(Path("configs/prompts/organism_heldout.jsonl"))[:4]
    write_lines(tmp_path / "prompts.jsonl", prompts)
    arms = {"base": {"prompts": tmp_path / "prompts.jsonl", "samples": 1, "turns": 4}}

    def hold(name, **engine):
        run_dir = RunDir(tmp_path / name)
        shared = {"model": MODEL, "launcher": "inline", "temperature": 0, "max_tokens": 64, "logprobs": True}
        run(RolloutSettings.model_validate({**shared, "engine": engine, "arms": arms}), run_dir, run_dir.new_attempt())
        return {key: c.turns for key, c in run_dir.conversations(prompts).items()}

    with vllm_serve() as url:
        served = hold("served", kind="http", http={"url": url})
    own = hold("own", kind="vllm")
    told = {name: {k: [(t.user, t.reply_ids, t.end) for t in turns] for k, turns in held.items()}
            for name, held in (("served", served), ("own", own))}  # fmt: skip
    assert told["served"] == told["own"]
    turns = [turn for held in served.values() for turn in held]
    assert all(len(turn.logprobs) == len(turn.reply_ids) for turn in turns)
    assert sum(turn.cached_tokens for turn in turns if turn.turn > 1) > 0
