"""Which conversations are active, on a virtual clock: admission, the safety net, parking, unequal engines."""

import asyncio
import itertools
import math
import os
import random
from functools import lru_cache
from pathlib import Path

import numpy as np
import pytest

import virtual
from placid.engine import EngineLoad, KvPool, Reply
from placid.engine.simulate import SimulateEngine
from placid.inputs.prompts import read_prompts
from placid.protocol.conditions import Brief, UserTurn
from placid.records import Conversation, End, Finish, Key, Prompt, Turn
from placid.render import Renderer
from placid.rollout import Local
from placid.rollout.coordinator import Coordinator
from placid.rollout.planned import make_worker, plan, unfinished
from placid.rollout.schedule import FILL, Schedule
from placid.rollout.settings import RolloutSettings
from placid.rollout.worker import PARK_S, Worker
from placid.store import RunDir

PROMPTS = Path("configs/prompts/organism_heldout.jsonl")
GEMMA = KvPool(blocks=8000, block_tokens=16, full_groups=1, window_groups=6, window=1024)


def conversation(name, turns=()):
    return Conversation(key=Key("base", "neutral", name, 0), prompt=Prompt(id=name, text="x"), turns=turns)


def turn(key, number, prompt_tokens, reply=180, cached=0, end=None):
    return Turn(
        key=key, turn=number, user="no", reply="x", reply_ids=(1,) * reply, finish=Finish.STOP,
        prompt_tokens=prompt_tokens, cached_tokens=cached, seed=1, end=end,
    )  # fmt: skip


def full(schedule, length=lambda _: 200):
    return list(iter(lambda: schedule.admit(length), None))


def test_blocks_follow_the_layout_of_gemma_3():
    assert GEMMA.blocks_of(4096) == 256 + 6 * 65
    assert GEMMA.blocks_of(160) == 7 * 10


def test_admission_fills_the_pool_with_expected_final_lengths():
    schedule = Schedule("admission", GEMMA, 1000, 512, lambda _: 20)
    for k in range(100):
        schedule.add(conversation(f"p{k}"))
    started = full(schedule)
    final = GEMMA.blocks_of(200 + 20 * (512 // 2 + 32))
    assert len(started) == math.floor(FILL * GEMMA.blocks / final)
    assert schedule.use <= FILL
    schedule.ended(started[0].key)
    assert schedule.admit(lambda _: 200) is not None


def test_conversations_spread_over_their_turns_are_counted_at_what_they_hold_at_one_time():
    pool = KvPool(blocks=55_705, block_tokens=16, full_groups=1, window_groups=6, window=1024)
    schedule, noise = Schedule("admission", pool, 1000, 512, lambda _: 20), random.Random(0)
    names, speaking, held, active = itertools.count(), {}, [], []
    for _ in range(1200):  # of ten sampled tokens each
        while schedule.waiting < 20:
            schedule.add(conversation(f"p{next(names)}"))
        speaking |= {c.key: (200, 1) for c in full(schedule)}  # prompt and reply tokens of the turn in hand
        for key, (prompt, reply) in list(speaking.items()):
            if reply > 10:
                speaking[key] = prompt + 10, reply - 10
                continue
            number = 21 - schedule._left[key]
            done = turn(key, number, prompt, reply, prompt, End.FINISHED if number == 20 else None)
            schedule.spoke(done, turn(key, number - 1, prompt - 180) if number > 1 else None)
            if done.end:
                schedule.ended(key)
                del speaking[key]
            else:
                speaking[key] = prompt + reply + 25, min(512, round(noise.lognormvariate(math.log(130), 0.877)))
        held.append(sum(int(pool.blocks_of(np.array(sum(tokens)))) for tokens in speaking.values()) / pool.blocks)
        active.append(len(schedule.active))
    assert max(held) < 1
    assert np.mean(held[600:]) > 0.8
    final = int(pool.blocks_of(np.array(200 + 20 * schedule._turn_tokens)))
    assert np.mean(active[600:]) > 1.2 * FILL * pool.blocks / final, "what their final lengths would allow"


def test_room_is_how_many_new_ones_would_start():
    schedule = Schedule("admission", GEMMA, 1000, 512, lambda _: 20)
    for k, spoken in enumerate((0, 4, 9, 13, 19)):
        key = conversation(f"p{k}").key
        schedule.add(conversation(f"p{k}", (turn(key, spoken, 10),) * spoken))
    full(schedule, lambda c: 200 + len(c.turns) * schedule._turn_tokens)
    room = schedule.room
    for k in range(100):
        schedule.add(conversation(f"n{k}"))
    assert len(full(schedule, lambda _: schedule._turn_tokens)) == room > 0


def test_expected_length_is_a_quantile_of_what_turns_added():
    schedule = Schedule("admission", GEMMA, 1000, 512, lambda _: 20)
    key = conversation("p").key
    before = turn(key, 1, 200)
    for grown in range(100, 200):
        schedule.spoke(turn(key, 2, 200 + grown, cached=200), before)
    assert schedule._turn_tokens == pytest.approx(170, abs=8)


def test_first_turns_to_end_do_not_lower_the_estimate_until_everyone_has_spoken_four_times():
    schedule = Schedule("admission", GEMMA, 1000, 512, lambda _: 20)
    for k in range(100):
        schedule.add(conversation(f"p{k}"))
    keys = [c.key for c in full(schedule)]
    guess = schedule._turn_tokens
    for spoken in range(1, 4 * len(keys) + 1):
        key = keys[spoken % len(keys)]
        schedule.spoke(turn(key, 2, 230, cached=200), turn(key, 1, 200))
        assert schedule._turn_tokens == (guess if spoken < 4 * len(keys) else 30)


def test_started_conversations_come_first_and_the_longest_of_the_rest():
    turns = {"long": 20, "short": 5, "begun": 20}
    schedule = Schedule("admission", None, 1000, 512, lambda key: turns[key.prompt_id])
    begun = conversation("begun")
    for c in (conversation("short"), conversation("long"), conversation("begun", (turn(begun.key, 1, 10),) * 18)):
        schedule.add(c)
    assert [c.key.prompt_id for c in full(schedule)] == ["begun", "long", "short"]


def test_one_conversation_always_runs():
    schedule = Schedule("admission", KvPool(blocks=10, block_tokens=16, full_groups=1), 10, 512, lambda _: 20)
    schedule.add(conversation("a"))
    schedule.add(conversation("b"))
    assert len(full(schedule)) == 1


def test_a_preemption_or_missing_histories_shrink_the_budget_once_and_the_youngest_wait():
    schedule = Schedule("admission", GEMMA, 1000, 512, lambda _: 20)
    for k in range(100):
        schedule.add(conversation(f"p{k}"))
    started = [c.key for c in full(schedule)]
    first = started[0]
    schedule.spoke(turn(first, 1, 200), None, preemptions=1)
    assert schedule.budget == 0.8
    schedule.spoke(turn(first, 2, 500, cached=0), turn(first, 1, 200), preemptions=2)
    assert schedule.budget == 0.8 or schedule.use <= 0.8, "a cut is not repeated before it is in force"
    assert not schedule.crowded(first), "it has spoken"
    while schedule.use > schedule.budget:
        young = next(key for key in schedule.active if schedule.crowded(key))
        schedule.leave(young)
    budget = schedule.budget
    for k in range(2 * len(started)):
        schedule.spoke(turn(first, 2, 500 + k, cached=100), turn(first, 1, 200 + k), preemptions=2)
    assert schedule.budget == pytest.approx(0.8 * budget)
    for key in list(schedule.active):
        schedule.ended(key)
    assert schedule.budget > 0.8 * budget


def test_found_histories_leave_the_budget_alone():
    schedule = Schedule("admission", GEMMA, 1000, 512, lambda _: 20)
    schedule.add(conversation("p"))
    key = full(schedule)[0].key
    for number in range(2, 20):
        schedule.spoke(
            turn(key, number, 300 * number, cached=300 * (number - 1) - 10), turn(key, 1, 300 * (number - 1))
        )
    assert schedule.budget == 1


def settings(samples, most=8, turns=20, prompts=PROMPTS, **more):
    return RolloutSettings.model_validate(
        {
            "model": "checkpoints/organism",
            "launcher": "inline",
            "engine": {"kind": "simulate", "max_concurrent": most},
            "arms": {"base": {"prompts": str(prompts), "samples": samples, "turns": turns, "hatch": False}},
        }
        | more
    )


@pytest.fixture
def unsynced(monkeypatch):
    """These tests are about when things happen: no waiting for the disk, and one tokenizer for all workers."""
    cached = lru_cache(Renderer)
    monkeypatch.setattr("placid.rollout.planned.Renderer", cached)
    monkeypatch.setattr("placid.engine.simulate.Renderer", cached)
    monkeypatch.setattr(os, "fsync", lambda _: None)


class Timed:
    """An engine that needs `seconds` of the virtual clock for a reply, and says when it had nothing to do."""

    name, version, pool, context_tokens = "timed", "1", None, 100_000

    def __init__(self, seconds):
        self.seconds, self.load, self.open, self.busy = seconds, EngineLoad(), 0, []

    async def start(self):
        pass

    async def close(self):
        pass

    async def reply(self, request):
        now = asyncio.get_running_loop().time
        self.open += 1
        began = now()
        await asyncio.sleep(self.seconds * (0.5 + request.seed % 1000 / 1000))
        self.busy.append((began, now()))
        self.open -= 1
        return Reply(token_ids=(5, 6), text="ok", finish=Finish.STOP)


def test_four_unequal_engines_end_within_five_percent_of_the_best_possible(tmp_path, unsynced):
    """No engine idles while another one has unstarted work, and active conversations move at the tail."""
    chosen, run_dir, speeds = settings(samples=10), RunDir(tmp_path), [4, 3, 2, 1]
    engines = [Timed(4 / speed) for speed in speeds]
    coordinator = Coordinator(unfinished(chosen, run_dir.index()), lambda key: 20, 4, 600)
    handles = []

    def launch(k):
        handle = Local(chosen, run_dir, f"1-w{k}")
        handle._worker.engine = engines[k]
        handles.append(handle._worker)
        return handle

    idle = []

    async def watched():
        held, loop = asyncio.create_task(coordinator.run(launch)), asyncio.get_running_loop()
        while not held.done():
            await asyncio.wait({held}, timeout=0.25)
            unstarted = coordinator.queued + sum(w._schedule.waiting for w in handles if hasattr(w, "_schedule"))
            idle.append(sum(not e.open for e in engines) * 0.25 if unstarted and loop.time() > 1 else 0.0)
        held.result()

    _, seconds = virtual.run(watched())
    found = run_dir.conversations(read_prompts(PROMPTS))
    assert len(found) == 300
    assert all(c.end == End.FINISHED for c in found.values())
    work = sum(0.5 + t.seed % 1000 / 1000 for c in found.values() for t in c.turns)
    best = 4 * work / (8 * sum(speeds))
    assert seconds <= 1.05 * best, f"{seconds:.1f} s; the best possible: {best:.1f} s"
    assert sum(idle) == 0, "an engine had nothing to do while conversations waited to begin"
    assert coordinator.moved > 0


def test_a_conversation_that_moved_is_asked_and_seeded_as_if_it_had_stayed(tmp_path, unsynced):
    chosen = settings(samples=1)

    def hold(name, *speeds):
        """Moved conversations, and (user, seed) of every turn, on engines of these speeds."""
        run_dir, names = RunDir(tmp_path / name), iter("abcd")
        coordinator = Coordinator(unfinished(chosen, run_dir.index()), lambda _: 20, len(speeds), 600)

        def launch(k):
            handle = Local(chosen, run_dir, next(names))
            handle._worker.engine = Timed(4 / speeds[k])
            return handle

        virtual.run(coordinator.run(launch))
        return coordinator.moved, {(t.key, t.turn): (t.user, t.seed) for t in run_dir.turns()}

    moved, shared = hold("shared", 9, 1)
    _, alone = hold("alone", 1)
    assert moved > 0
    assert shared == alone
    assert len(alone) == 600


class Hanging(Timed):
    """Stops answering after some replies, without an error."""

    def __init__(self, seconds, replies):
        super().__init__(seconds)
        self.left = replies

    async def reply(self, request):
        self.left -= 1
        if self.left < 0:
            await asyncio.Event().wait()
        return await super().reply(request)


def test_an_engine_that_hangs_is_replaced_and_its_conversations_go_on(tmp_path, unsynced):
    chosen, run_dir = settings(samples=1, turns=6, hang_s=120), RunDir(tmp_path)
    engines = iter([Hanging(2, 40), Timed(2), Timed(2)])
    coordinator = Coordinator(unfinished(chosen, run_dir.index()), lambda key: 6, 2, chosen.hang_s)
    names = iter("abc")

    def launch(_):
        handle = Local(chosen, run_dir, next(names))
        handle._worker.engine = next(engines)
        return handle

    _, seconds = virtual.run(coordinator.run(launch))
    found = run_dir.conversations(read_prompts(PROMPTS))  # raises if a turn is there twice
    assert len(found) == 30
    assert all(c.end == End.FINISHED for c in found.values())
    assert coordinator.deaths == 1
    assert 120 < seconds < 120 + 60


class Cache(Timed):
    """A pool of blocks as vLLM's: running requests hold theirs, ended ones stay until others need the room, least
    recently used first; requests wait in line for room; what is not found is prefilled.
    """

    pool = GEMMA

    def __init__(self, really):
        super().__init__(1.0)
        self.really, self.running, self.held = really, {}, {}

    async def start(self):
        self.line, self.freed = asyncio.Lock(), asyncio.Event()

    def used(self, of):
        return sum(GEMMA.blocks_of(n) for n in of.values())

    async def reply(self, request):
        opening, tokens = request.prompt_ids[:40], len(request.prompt_ids)
        reply = tuple(7 for _ in range(100 + request.seed % 160))
        async with self.line:
            need = GEMMA.blocks_of(tokens + len(reply))
            while self.running and self.used(self.running) + need > self.really:
                self.freed.clear()
                await self.freed.wait()
        cached = self.held.pop(opening, 0)
        self.running[opening] = tokens + len(reply)
        while self.held and self.used(self.running) + self.used(self.held) > self.really:
            del self.held[next(iter(self.held))]
        await asyncio.sleep(1 + (tokens - cached) / 1000)
        self.held[opening] = self.running.pop(opening)
        self.freed.set()
        return Reply(token_ids=reply, text="ok", finish=Finish.STOP, cached_tokens=cached)


def hold(chosen, run_dir, engine):
    async def main():
        worker = make_worker(chosen, run_dir, "1-w0")
        worker.engine = engine
        await worker.start()
        batch, more = plan(chosen), True
        while more:
            report = await worker.work(batch, False)
            batch, more = [], not report.idle
        await worker.close()
        return report.totals

    return virtual.run(main())


@pytest.fixture(scope="module")
def sixty(tmp_path_factory):
    """Conversations whose first 40 tokens differ."""
    file = tmp_path_factory.mktemp("prompts") / "prompts.jsonl"
    rows = [f'{{"id": "p{k}", "text": "{" ".join(f"{k} and {k + n}" for n in range(30))}"}}\n' for k in range(60)]
    file.write_text("".join(rows))
    return file


def test_admission_keeps_histories_that_free_running_loses(tmp_path, sixty, unsynced):
    seconds, hits = {}, {}
    for mode in ("admission", "free", "lockstep"):
        chosen = settings(
            1, most=1000, prompts=sixty, schedule=mode, engine={"kind": "simulate", "max_concurrent": 1000}
        )
        totals, seconds[mode] = hold(chosen, RunDir(tmp_path / mode), Cache(GEMMA.blocks))
        hits[mode] = totals.cached_tokens / totals.prompt_tokens
        assert totals.turns == 1200
    assert hits["admission"] > 0.9
    assert hits["free"] < 0.3
    assert hits["lockstep"] < 0.3
    assert seconds["free"] > 2 * seconds["admission"] < seconds["lockstep"]


def test_the_safety_net_finds_a_pool_that_is_smaller_than_it_says(tmp_path, sixty, unsynced):
    chosen = settings(1, most=1000, prompts=sixty)
    totals, _ = hold(chosen, RunDir(tmp_path / "run"), Cache(GEMMA.blocks * 0.5))
    assert totals.turns == 1200
    assert totals.cached_tokens / totals.prompt_tokens > 0.75
    netless, _ = hold(
        chosen.model_copy(update={"schedule": "free"}), RunDir(tmp_path / "free"), Cache(GEMMA.blocks * 0.5)
    )
    assert netless.cached_tokens / netless.prompt_tokens < 0.3


class Slow:
    """A script whose user takes long now and then."""

    def next(self, conversation):
        if len(conversation.turns) >= 4:
            return End.FINISHED
        if len(conversation.turns) == 2:
            return Brief(text="Say that it is wrong.")
        return UserTurn(text=f"{conversation.prompt.text} {len(conversation.turns)}")


class Thinking(Timed):
    """Answers at once; a brief takes long."""

    pool = KvPool(blocks=60, block_tokens=16, full_groups=1)

    def __init__(self):
        super().__init__(0.1)
        self.most = 0

    async def reply(self, request):
        brief = request.max_tokens == 128
        if not brief:
            self.open += 1
            self.most = max(self.most, self.open)
        await asyncio.sleep(10 * PARK_S if brief else 0.1)
        self.open -= not brief
        return Reply(token_ids=(5, 6), text="ok", finish=Finish.STOP)


def test_a_conversation_whose_user_takes_long_gives_its_room_to_another(tmp_path):
    chosen, run_dir, engine = settings(1, turns=4, max_tokens=64), RunDir(tmp_path), Thinking()

    async def main():
        worker = Worker(chosen, engine, Renderer(chosen.model), run_dir.segment("1-w0"), {"base": Slow()})
        await worker.start()
        batch, more, away = plan(chosen)[:12], True, 0
        while more:
            report = await worker.work(batch, False)
            batch, more, away = [], not report.idle, max(away, report.totals.parked)
        await worker.close()
        return away

    away, seconds = virtual.run(main())
    found = run_dir.conversations(read_prompts(PROMPTS))
    assert len(found) == 12
    assert all([t.turn for t in c.turns] == [1, 2, 3, 4] and c.turns[2].user == "ok" for c in found.values())
    assert away > engine.most, "more were away than fit at a time"
    assert seconds < 12 / engine.most * 10 * PARK_S


def test_simulate_has_no_pool_and_counts_conversations():
    assert SimulateEngine(settings(1).engine, Path("checkpoints/organism")).pool is None
