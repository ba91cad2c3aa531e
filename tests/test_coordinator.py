"""Leases: workers die, hang, drain and share, and no turn is lost, said twice, or said differently."""

import asyncio
import json
import os
import signal
import subprocess
import sys
import threading
from functools import lru_cache
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as budget
from hypothesis import strategies as st

from placid.engine import EngineDiedError
from placid.engine.simulate import SimulateEngine
from placid.inputs.prompts import read_prompts
from placid.records import BadInputError, End, Finish
from placid.render import Renderer
from placid.report.facts import facts
from placid.rollout import Local, RolloutError, run
from placid.rollout.coordinator import Coordinator, WorkerLostError
from placid.rollout.planned import plan, unfinished, writer_names
from placid.rollout.settings import RolloutSettings
from placid.store import RunDir

PROMPTS = Path("configs/prompts/organism_heldout.jsonl")
FEW = 4


@pytest.fixture(autouse=True, scope="module")
def light():
    """One tokenizer for all workers of this process, and no waiting for the disk."""
    with pytest.MonkeyPatch.context() as patch:
        cached = lru_cache(Renderer)
        patch.setattr("placid.rollout.planned.Renderer", cached)
        patch.setattr("placid.engine.simulate.Renderer", cached)
        patch.setattr(os, "fsync", lambda _: None)
        yield


@pytest.fixture(scope="module")
def prompts(tmp_path_factory):
    file = tmp_path_factory.mktemp("prompts") / "prompts.jsonl"
    file.write_text("".join(PROMPTS.read_text().splitlines(keepends=True)[:FEW]))
    return file


def settings(prompts, schedule="admission", most=4, **more):
    arm = {"prompts": str(prompts), "samples": 2, "turns": 8}
    data = {
        "model": "checkpoints/organism",
        "launcher": "inline",
        "schedule": schedule,
        "engine": {"kind": "simulate", "max_concurrent": most},
        "arms": {"base": arm, "accept": arm | {"condition": "accept", "turns": 5}},
    }
    return RolloutSettings.model_validate(data | more)


def coordinator_of(chosen, run_dir, count, order=None):
    todo = unfinished(chosen, run_dir.index())
    if order:
        order.shuffle(todo)
    return Coordinator(todo, lambda key: chosen.arms[key.arm].turns, count, chosen.hang_s)


def hold(chosen, run_dir, count, handle=Local, order=None):
    """All of it on `count` workers of this process; the coordinator that did it."""
    coordinator = coordinator_of(chosen, run_dir, count, order)
    names = writer_names(run_dir, run_dir.new_attempt())
    asyncio.run(coordinator.run(lambda _: handle(chosen, run_dir, next(names))))
    return coordinator


def cut_short(chosen, run_dir, count, calls):
    """A first launch that is drained after so many calls; the next one goes on."""
    coordinator = coordinator_of(chosen, run_dir, count)
    names = writer_names(run_dir, run_dir.new_attempt())

    class Drained(Local):
        def __init__(self, *args):
            super().__init__(*args)
            self.work = self._work

        async def _work(self, *args):
            nonlocal calls
            calls -= 1
            if calls == 0:
                coordinator.drain()
            return await self._worker.work(*args)

    asyncio.run(coordinator.run(lambda _: Drained(chosen, run_dir, next(names))))


def mortal(dies_at):
    """Handles whose n-th worker is lost at its calls number dies_at[n], after it worked: its last report is unheard."""
    left = iter(dies_at)

    class Mortal(Local):
        def __init__(self, *args):
            super().__init__(*args)
            self._calls, self._last = 0, next(left, 1 << 30)
            self.work = self._work

        async def _work(self, *args):
            report = await self._worker.work(*args)
            self._calls += 1
            if self._calls >= self._last:
                raise WorkerLostError("killed by the test")
            return report

    return Mortal


@pytest.fixture(scope="module")
def whole(prompts, tmp_path_factory):
    run_dir = RunDir(tmp_path_factory.mktemp("whole"))
    chosen = settings(prompts)
    hold(chosen, run_dir, 1)
    found = run_dir.conversations(read_prompts(prompts))
    assert len(found) == len(plan(chosen)) == 4 * FEW
    assert all(c.end is not None for c in found.values())
    return found


def test_the_others_finish_what_a_dead_worker_held(tmp_path, prompts, whole):
    coordinator = hold(settings(prompts), RunDir(tmp_path), 3, mortal([2, 4, 3]))
    assert coordinator.deaths == 3
    assert (coordinator.open, coordinator.given_up) == (0, 0)
    assert RunDir(tmp_path).conversations(read_prompts(prompts)) == whole  # raises if a turn is there twice
    assert sum(t.ended for t in coordinator.totals) == len(whole)


@budget(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    most=st.integers(1, 9),
    count=st.integers(1, 4),
    schedule=st.sampled_from(["admission", "free", "lockstep"]),
    dies_at=st.lists(st.integers(1, 6), max_size=2),
    cut=st.integers(0, 4),
    order=st.randoms(use_true_random=False),
)
def test_users_and_seeds_depend_on_nothing_but_the_key(
    tmp_path_factory, prompts, whole, most, count, schedule, dies_at, cut, order
):
    run_dir = RunDir(tmp_path_factory.mktemp("other"))
    if cut:
        cut_short(settings(prompts, schedule, most), run_dir, count, cut)
    hold(settings(prompts, schedule, most), run_dir, count, mortal(dies_at), order)
    found = run_dir.conversations(read_prompts(prompts))

    def asked(conversations):
        return {(t.key, t.turn): (t.user, t.system, t.seed) for c in conversations.values() for t in c.turns}

    assert asked(found) == asked(whole)
    assert found == whole


def test_a_worker_that_always_dies_is_given_up(tmp_path, prompts):
    with pytest.raises(WorkerLostError, match="killed by the test"):
        hold(settings(prompts), RunDir(tmp_path), 1, lambda *args: Stillborn(*args))


class Stillborn(Local):
    """Lost before it says anything."""

    async def start(self):
        raise WorkerLostError("killed by the test")


def test_a_failed_start_says_why_and_leaves_no_file(tmp_path, prompts, monkeypatch):
    async def refuse(_self):
        raise BadInputError("adapter x does nothing")

    monkeypatch.setattr(SimulateEngine, "start", refuse)
    with pytest.raises(BadInputError, match="adapter x does nothing"):
        run(settings(prompts), RunDir(tmp_path), RunDir(tmp_path).new_attempt())
    assert not list((tmp_path / "conversations").iterdir())


def test_a_conversation_that_fails_is_tried_again_then_left_open(tmp_path, prompts, monkeypatch):
    answer, unlucky = SimulateEngine.reply, plan(settings(prompts))[0]

    async def sometimes(self, request):
        if unlucky.prompt.text in self.history(request.prompt_ids)[0][1]:
            raise RuntimeError("the engine stumbles over this prompt")
        return await answer(self, request)

    monkeypatch.setattr(SimulateEngine, "reply", sometimes)
    with pytest.raises(RolloutError, match=r"4 of 16 conversations stopped .*stumbles over this prompt"):
        run(settings(prompts), RunDir(tmp_path), RunDir(tmp_path).new_attempt())
    monkeypatch.setattr(SimulateEngine, "reply", answer)
    run(settings(prompts), RunDir(tmp_path), RunDir(tmp_path).new_attempt())
    assert all(c.end is not None for c in RunDir(tmp_path).conversations(read_prompts(prompts)).values())


def deadly(monkeypatch, when):
    """Engines that die of a request for which `when` (the user's and the model's words so far) is true."""
    answer = SimulateEngine.reply

    async def reply(self, request):
        if when(self.history(request.prompt_ids)):
            raise EngineDiedError("killed by the test")
        return await answer(self, request)

    monkeypatch.setattr(SimulateEngine, "reply", reply)


@pytest.mark.parametrize("workers", [1, 3])
def test_what_every_engine_dies_of_ends_as_infra_error_and_the_rest_is_held(
    tmp_path, prompts, whole, monkeypatch, workers
):
    fatal = read_prompts(prompts)[1].text
    deadly(monkeypatch, lambda said: fatal in said[0][1] and len(said) == 5)  # the request for its third reply
    run_dir, chosen = RunDir(tmp_path), settings(prompts)
    monkeypatch.setattr(
        "placid.rollout.Coordinator", lambda todo, turns, _, hang_s: Coordinator(todo, turns, workers, hang_s)
    )
    run(chosen, run_dir, run_dir.new_attempt())
    found = run_dir.conversations(read_prompts(prompts))
    assert found.keys() == whole.keys()
    for key, conversation in found.items():
        if whole[key].prompt.text != fatal or len(whole[key].turns) < 3:
            assert conversation == whole[key]
            continue
        assert conversation.turns[:2] == whole[key].turns[:2]
        (last,) = conversation.turns[2:]
        assert (last.end, last.finish, last.reply) == (End.INFRA_ERROR, Finish.FAILED, "")
        assert (last.user, last.seed) == (whole[key].turns[2].user, whole[key].turns[2].seed)
        assert (facts(conversation, {}).turns, facts(conversation, {}).closed) == (2, False)
    assert sum(c.end == End.INFRA_ERROR for c in found.values()) == 4
    status = json.loads((tmp_path / "attempts/1/status.json").read_text())["rollout"]
    assert (status["state"], status["totals"]["ends"]["infra_error"]) == ("done", 4)
    size = {file.name: file.stat().st_size for file in (tmp_path / "conversations").iterdir()}
    run(chosen, run_dir, run_dir.new_attempt())  # never tried again
    assert size == {file.name: file.stat().st_size for file in (tmp_path / "conversations").iterdir()}


def test_an_engine_that_dies_of_everything_convicts_nobody(tmp_path, prompts, monkeypatch):
    deadly(monkeypatch, lambda _: True)
    with pytest.raises(EngineDiedError, match="killed by the test"):
        run(settings(prompts), RunDir(tmp_path), RunDir(tmp_path).new_attempt())
    assert not list((tmp_path / "conversations").iterdir())


def test_a_drain_does_not_wait_for_an_engine_that_loads(tmp_path, prompts):
    run_dir, chosen = RunDir(tmp_path), settings(prompts)
    coordinator = coordinator_of(chosen, run_dir, 2)
    names, loading = writer_names(run_dir, run_dir.new_attempt()), asyncio.Event()

    class Slow(Local):
        async def start(self):
            loading.set()
            await asyncio.Event().wait()
            return "", ""

    async def drained():
        held = asyncio.create_task(coordinator.run(lambda _: Slow(chosen, run_dir, next(names))))
        await loading.wait()
        coordinator.drain()
        await held

    asyncio.run(drained())
    assert coordinator.open == len(plan(chosen))
    assert not list((tmp_path / "conversations").iterdir())


CONFIG = """
name = "run"
root = "{root}"
model = "checkpoints/organism"
prompts = "configs/prompts/organism_heldout.jsonl"
samples = 4
workers = {workers}
launcher = "{launcher}"
[engine]
kind = "simulate"
max_concurrent = 16
[arms.base]
"""


def start(tmp_path, launcher, workers):
    config = tmp_path / "study.toml"
    config.write_text(CONFIG.format(root=tmp_path, launcher=launcher, workers=workers))
    words = [sys.executable, "-m", "placid.cli", "rollout", str(config)]
    return subprocess.Popen(words, stderr=subprocess.PIPE, text=True)


def lines(tmp_path):
    return sum(file.read_bytes().count(b"\n") for file in (tmp_path / "run/conversations").glob("*.jsonl"))


def wait_for_lines(tmp_path, process, count):
    while process.poll() is None and lines(tmp_path) < count:
        threading.Event().wait(0.01)  # no timing is asserted; a busy loop would take the core that the run needs
    assert process.poll() is None, process.communicate()[1]


def check_whole(tmp_path):
    found = RunDir(tmp_path / "run").conversations(read_prompts(PROMPTS))
    assert len(found) == 120
    assert all(c.end is not None for c in found.values())


def test_sigterm_leaves_with_75_and_the_same_command_goes_on(tmp_path):
    process = start(tmp_path, "inline", 1)
    wait_for_lines(tmp_path, process, 100)
    process.send_signal(signal.SIGTERM)
    _, said = process.communicate()
    assert process.returncode == 75, said
    assert all(file.read_bytes().endswith(b"\n") for file in (tmp_path / "run/conversations").glob("*.jsonl"))
    again = start(tmp_path, "inline", 1)
    _, said = again.communicate()
    assert again.returncode == 0, said
    check_whole(tmp_path)


def test_a_killed_actor_is_replaced_and_the_run_ends_well(tmp_path):
    process = start(tmp_path, "ray", 2)
    wait_for_lines(tmp_path, process, 100)
    status = json.loads((tmp_path / "run/attempts/1/status.json").read_text())["rollout"]
    os.kill(status["workers"][0]["pid"], signal.SIGKILL)
    _, said = process.communicate()
    assert process.returncode == 0, said
    check_whole(tmp_path)
    totals = json.loads((tmp_path / "run/attempts/1/status.json").read_text())["rollout"]["totals"]
    assert (totals["workers_lost"], totals["ended"], sum(totals["ends"].values())) == (1, 120, 120)


@pytest.mark.slow
def test_killed_actor_then_sigterm_then_the_same_command(tmp_path):
    process = start(tmp_path, "ray", 2)
    wait_for_lines(tmp_path, process, 100)
    status = json.loads((tmp_path / "run/attempts/1/status.json").read_text())["rollout"]
    os.kill(status["workers"][0]["pid"], signal.SIGKILL)
    wait_for_lines(tmp_path, process, 300)
    process.send_signal(signal.SIGTERM)
    _, said = process.communicate()
    assert process.returncode == 75, said
    again = start(tmp_path, "ray", 2)
    _, said = again.communicate()
    assert again.returncode == 0, said
    check_whole(tmp_path)
