"""The limiter on a virtual clock, before a server that counts requests and tokens in every 60 s."""

import asyncio
import random
from collections import deque

import pytest

import virtual
from placid.judge.limiter import Limiter
from placid.judge.provider import DayUsedUpError
from placid.judge.settings import LimitSettings

RPM = 1000
LATENCY_S = 1.0


class Server:
    """Answers after LATENCY_S; 429 beyond `rpm` requests or `tpm` tokens in 60 s, and for everybody in a storm."""

    def __init__(self, rpm=RPM, tpm=10**9, storm=(0.0, 0.0)):
        self.rpm, self.tpm, self.storm = rpm, tpm, storm
        self.window, self.sent, self.refused = deque(), [], []

    async def ask(self, tokens):
        now = asyncio.get_running_loop().time()
        while self.window and self.window[0][0] <= now - 60:
            self.window.popleft()
        used = sum(t for _, t in self.window) if self.tpm < 10**9 else 0
        if self.storm[0] <= now < self.storm[1] or len(self.window) >= self.rpm or used + tokens > self.tpm:
            self.refused.append(now)
            return False
        self.window.append((now, tokens))
        self.sent.append(now)
        await asyncio.sleep(LATENCY_S)
        return True


async def client(limiter, server, requests, guess=300, tokens=300, wait_s=None):
    """Every request until it is answered."""

    async def one():
        answered = False
        while not answered:
            await limiter.enter(guess)
            answered = await server.ask(tokens)
            limiter.leave(guess, tokens if answered else 0, answered, not answered, None if answered else wait_s)

    await asyncio.gather(*(one() for _ in range(requests)))


def limiter(**more):
    return Limiter(LimitSettings.model_validate({"rpm": RPM, "tpm": 10**9, **more}))


def test_the_quota_is_used_and_never_exceeded():
    server = Server()
    _, seconds = virtual.run(client(limiter(), server, 5000))
    assert not server.refused
    assert 5000 / RPM * 60 / seconds > 0.95


@pytest.mark.parametrize("seed", range(5))
def test_time_lost_on_a_busy_machine_is_made_up_for(seed):
    """About every 10 s the process gets no core for up to 3 s."""
    server, chance = Server(), random.Random(seed)

    async def main():
        grading = asyncio.ensure_future(client(limiter(), server, 5000))
        while not grading.done():
            await asyncio.sleep(chance.expovariate(1 / 10))
            asyncio.get_running_loop().now += chance.uniform(0, 3)

    _, seconds = virtual.run(main())
    assert not server.refused
    assert 5000 / RPM * 60 / seconds > 0.95


def test_after_a_storm_the_quota_is_used_again_within_30_seconds():
    server = Server(storm=(120.0, 140.0))
    _, seconds = virtual.run(client(limiter(), server, 5000, wait_s=2.0))
    assert len(server.sent) == 5000
    assert all(120 <= at < 140 for at in server.refused)
    assert len(server.refused) < 100
    settled = next(t for t in server.sent if t >= 140 and sum(t <= at < t + 10 for at in server.sent) >= 0.95 * RPM / 6)
    assert settled - 140 < 30
    assert 5000 / RPM * 60 / (seconds - 20) > 0.95


def test_several_runs_split_a_quota():
    server = Server()

    async def main():
        await asyncio.gather(*(client(limiter(share=share), server, n) for share, n in ((0.75, 3000), (0.25, 1000))))

    _, seconds = virtual.run(main())
    assert not server.refused
    assert 4000 / RPM * 60 / seconds > 0.95


@pytest.mark.parametrize("guess", [150, 300, 600])
def test_tokens_are_charged_by_guess_and_corrected_by_use(guess):
    server = Server(tpm=60_000)
    _, seconds = virtual.run(client(limiter(tpm=60_000, max_concurrent=8), server, 800, guess=guess))
    assert len(server.refused) < 10
    assert 800 * 300 / 60_000 * 60 / seconds > 0.85  # a desk learns its guess


def test_a_day_is_used_to_its_last_request():
    server, one = Server(), limiter(rpd=10)
    with pytest.raises(DayUsedUpError):
        virtual.run(client(one, server, 11))
    assert len(server.sent) == 10
