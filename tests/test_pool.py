"""Graders as actors of a real Ray, one desk before a real HTTP server."""

import asyncio
from collections import Counter

import pytest

from gemini_runs import KEY, PROMPT, always, ledger, settings
from gemini_server import GeminiServer, error
from placid.judge import pool, run
from placid.records import BadInputError, End, Finish, Key, Turn
from placid.store import RunDir


def speak(run_dir, writer, samples, alike=False):
    with run_dir.segment(writer) as segment:
        segment.append(*(
            Turn(key=Key("base", "neutral", "p", sample), turn=1, user="u", reply=f"I am lost. {0 if alike else sample}",
                 reply_ids=(1,), finish=Finish.STOP, prompt_tokens=1, cached_tokens=0, seed=1, end=End.FINISHED)
            for sample in samples
        ))  # fmt: skip


def test_graders_share_one_desk_follow_and_end_with_the_rollout(tmp_path, monkeypatch):
    """Ten conversations alike and ten different ones, half of them spoken while the graders are at work."""
    monkeypatch.setenv("GEMINI_API_KEY", KEY)
    run_dir, looks = RunDir(tmp_path / "run"), []
    speak(run_dir, "w0", range(10), alike=True)

    def complete(index):
        looks.append(len(index.ends))
        if len(looks) == 2:
            speak(run_dir, "w1", range(10, 20))
        return len(looks) > 2

    with GeminiServer(latency_s=0.05) as server:
        monkeypatch.setenv("GOOGLE_GEMINI_BASE_URL", server.url)
        judge_id = run(settings(workers=2), run_dir, [PROMPT], tmp_path, complete)
        assert len(server.requests) == 11
        assert run(settings(workers=1), run_dir, [PROMPT]) == judge_id
        assert len(server.requests) == 11
    verdicts = run_dir.verdicts(judge_id)
    assert sorted(key.sample for key, _ in verdicts) == list(range(20))
    assert {verdict.score for verdict in verdicts.values()} == {3}
    folder = run_dir.path / "verdicts" / judge_id
    assert len(list(folder.glob("*.jsonl"))) == 2  # a segment a grader
    assert len(list((folder / "replies").glob("*.jsonl"))) == 1
    assert Counter(kept.attempt for kept in ledger(folder)) == {0: 11}
    assert not [file for file in tmp_path.rglob("*") if file.is_file() and KEY.encode() in file.read_bytes()]


@pytest.mark.parametrize("times", [1, pool.LOSSES, pool.LOSSES + 1])
def test_a_grader_that_dies_is_replaced_so_many_times(tmp_path, monkeypatch, times):
    monkeypatch.setenv("GEMINI_API_KEY", KEY)
    made, whole = [], pool.Share

    def share(make):
        def mortal():
            import ray  # not before placid has set how it is guarded

            made.append(make())
            if len(made) <= times:
                ray.kill(made[-1])
            return made[-1]

        return whole(mortal)

    monkeypatch.setattr(pool, "Share", share)
    run_dir = RunDir(tmp_path / "run")
    speak(run_dir, "w0", range(6))
    with GeminiServer() as server:
        monkeypatch.setenv("GOOGLE_GEMINI_BASE_URL", server.url)
        if times > pool.LOSSES:
            with pytest.raises(pool.ActorLostError, match="a process of the judge died"):
                pool.run_pool(settings(workers=1), run_dir, {PROMPT.id: PROMPT}, None, None)
            return
        judge_id = run(settings(workers=2), run_dir, [PROMPT])
        assert len(server.requests) == 6
    assert len(made) == 2 + times
    assert sorted(key.sample for key, _ in run_dir.verdicts(judge_id)) == list(range(6))


@pytest.mark.parametrize("kind", ["OutOfMemoryError", "WorkerCrashedError", "ActorDiedError"])
def test_every_death_of_an_actor_is_told_in_one_sentence(kind):
    import ray.exceptions

    made = getattr(ray.exceptions, kind)
    death = made("killed: 95 % of the node's memory\nis in use") if kind == "OutOfMemoryError" else made()

    async def dead():
        raise death

    with pytest.raises(pool.ActorLostError, match=rf"^a process of the judge died \({kind}: [^\n]+\)$"):
        asyncio.run(pool._value(dead()))


@pytest.mark.slow
def test_what_stops_the_desk_stops_the_pool_with_its_sentence(tmp_path, monkeypatch):
    monkeypatch.setenv("GEMINI_API_KEY", KEY)
    speak(RunDir(tmp_path), "w0", range(10))
    with GeminiServer(always(lambda: error(403, "PERMISSION_DENIED", "no access"))) as server:
        monkeypatch.setenv("GOOGLE_GEMINI_BASE_URL", server.url)
        with pytest.raises(BadInputError, match=r"^Gemini refused the API key \(403: no access\)"):
            run(settings(workers=2), RunDir(tmp_path), [PROMPT])
