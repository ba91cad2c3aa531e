"""A real HTTP server that speaks Gemini's REST protocol, with scripted failures. It lives in its own thread."""

import asyncio
import json
import threading
from collections import Counter

from aiohttp import web

VERSION = "gemini-3.5-flash-lite"


def reply(text, finish="STOP", version=VERSION):
    return {
        "candidates": [{"content": {"role": "model", "parts": [{"text": text}]}, "finishReason": finish, "index": 0}],
        "usageMetadata": {"promptTokenCount": 300, "candidatesTokenCount": 30, "totalTokenCount": 330},
        "modelVersion": version,
    }


def graded(request, rating=3):
    """An answer in the form that the request's schema asks for."""
    schema = request["generationConfig"].get("responseJsonSchema")
    if schema is None:
        return "YES"
    if "turns" not in schema["properties"]:
        return json.dumps({"evidence": "", "reasoning": "because", "rating": rating})
    text = "".join(part["text"] for part in request["contents"][0]["parts"])
    if "<<< " not in text:  # the short question by which a judge shows that it is there
        return json.dumps({"turns": [{"turn": 1, "evidence": "", "rating": 0}]})
    block = text.split("<<< ")[1].split(" >>>")[0]
    mark = block.split("\n")[0].strip()
    count = sum(line.startswith("[Turn ") and line.endswith(mark_of(block)) for line in block.split("\n"))
    assert mark
    return json.dumps({"turns": [{"turn": n + 1, "evidence": "", "rating": rating} for n in range(count)]})


def mark_of(block):
    return next(line for line in block.split("\n") if line.startswith("[Turn 1] ")).removeprefix("[Turn 1] ")


def error(code, status, message, *details):
    return web.json_response(
        {"error": {"code": code, "status": status, "message": message, "details": list(details)}}, status=code
    )


class GeminiServer:
    """`script(n, body)` (n: number of the request, from 0) gives a response, a dict (sent as JSON), or None for a grade."""

    def __init__(self, script=lambda n, body: None, latency_s=0.0):
        self.script, self.latency_s = script, latency_s
        self.requests, self.paid, self.keys = [], Counter(), set()
        self._ready = threading.Event()

    async def _answer(self, request):
        assert request.path.endswith(":generateContent"), request.path
        body = await request.json()
        number = len(self.requests)
        self.requests.append(body)
        self.keys.add(request.headers.get("x-goog-api-key"))
        if self.latency_s:
            await asyncio.sleep(self.latency_s)
        said = self.script(number, body)
        if asyncio.iscoroutine(said):
            said = await said
        if said == "disconnect":
            request.transport.close()
            return web.Response()
        if isinstance(said, web.Response):
            return said
        self.paid[json.dumps(body, sort_keys=True)] += 1
        return web.json_response(reply(graded(body)) if said is None else said)

    async def _serve(self):
        app = web.Application(client_max_size=2**26)
        app.router.add_post("/{path:.*}", self._answer)
        runner = web.AppRunner(app)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        self.url = f"http://127.0.0.1:{site._server.sockets[0].getsockname()[1]}"
        self._loop, self._end = asyncio.get_running_loop(), asyncio.Event()
        self._ready.set()
        await self._end.wait()
        await runner.cleanup()

    def __enter__(self):
        self._thread = threading.Thread(target=asyncio.run, args=(self._serve(),), daemon=True)
        self._thread.start()
        self._ready.wait()
        return self

    def __exit__(self, *_):
        self._loop.call_soon_threadsafe(self._end.set)
        self._thread.join()
