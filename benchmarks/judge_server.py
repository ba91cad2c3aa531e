"""A process that speaks Gemini's REST protocol: latency, a quota a minute, a 429 storm, and a record of all it did.

python benchmarks/judge_server.py --rpm 1000 --latency 1 --storm-at 250 --storm-s 20     prints its URL
GET /stats: when each answer was paid, answers that were paid more than once, refusals, requests open now.
"""

import argparse
import asyncio
import hashlib
import json
import sys
import time
from collections import Counter, deque
from pathlib import Path

from aiohttp import web

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))
from gemini_server import error, graded, reply

QUOTA = {
    "@type": "type.googleapis.com/google.rpc.QuotaFailure",
    "violations": [{"quotaId": "GenerateRequestsPerMinutePerProjectPerModel"}],
}


class Server:
    """Counts by its own clock; the storm's begins with the first request."""

    def __init__(self, args: argparse.Namespace) -> None:
        self.args, self.began = args, 0.0
        self.window: deque[float] = deque()
        self.paid: Counter[str] = Counter()
        self.times: list[float] = []
        self.refused: list[float] = []
        self.open = 0

    async def answer(self, request: web.Request) -> web.Response:
        """One generateContent."""
        raw = await request.read()
        now = time.monotonic()
        self.began = self.began or now
        at = now - self.began
        while self.window and self.window[0] <= now - 60:
            self.window.popleft()
        storm = self.args.storm_at <= at < self.args.storm_at + self.args.storm_s
        if storm or len(self.window) >= self.args.rpm:
            self.refused.append(at)
            wait = {"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": "2s"}
            return error(429, "RESOURCE_EXHAUSTED", "quota", QUOTA, *([wait] if storm else []))
        self.window.append(now)
        self.open += 1
        try:
            await asyncio.sleep(self.args.latency)
        finally:
            self.open -= 1
        self.paid[hashlib.sha256(raw).hexdigest()] += 1
        self.times.append(time.monotonic() - self.began)
        body = json.loads(raw)
        return web.json_response(reply(graded(body, int(hashlib.sha256(raw).hexdigest(), 16) % 11)))

    async def stats(self, _: web.Request) -> web.Response:
        """What is known now."""
        twice = {name: n for name, n in self.paid.items() if n > 1}
        return web.json_response(
            {"times": self.times, "refused": self.refused, "different": len(self.paid), "open": self.open,
             "twice": sum(n - 1 for n in twice.values())}
        )  # fmt: skip


async def serve(args: argparse.Namespace) -> None:
    """Until killed."""
    server, app = Server(args), web.Application(client_max_size=2**26)
    app.router.add_get("/stats", server.stats)
    app.router.add_post("/{path:.*}", server.answer)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    print(f"http://127.0.0.1:{runner.addresses[0][1]}", flush=True)
    await asyncio.Event().wait()


def main() -> None:
    """Read the words."""
    words = argparse.ArgumentParser()
    words.add_argument("--rpm", type=int, default=1000)
    words.add_argument("--latency", type=float, default=1.0)
    words.add_argument("--storm-at", type=float, default=1e9)
    words.add_argument("--storm-s", type=float, default=0.0)
    asyncio.run(serve(words.parse_args()))


if __name__ == "__main__":
    main()
