"""Rewriting by a model: facts are checked, tries kept, nothing asked twice, every arm the same selection."""

import asyncio
import json
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from gemini_server import GeminiServer, error, reply
from placid.cli import main
from placid.inputs.prompts import read_prompts
from placid.judge.settings import JudgeSettings
from placid.judge.writer import gemini_writer
from placid.protocol.history import briefs
from placid.records import BadInputError, Finish, Key, PausedError, Turn
from placid.report.interventions import intervention_rows
from placid.rollout.rewrite import TRIES, Rewriting, Wanted, Writer, rewrite
from placid.store import RunDir, read_lines

ROOT = Path(__file__).parent.parent
CONFIG = """
name = "run"
root = "{folder}/runs"
model = "{root}/checkpoints/organism"
prompts = "{folder}/prompts.jsonl"
samples = 3
turns = 7
launcher = "inline"
[engine]
kind = "simulate"
[arms.base]
[interventions.rewrite]
at = [5]
histories = ["baseline", "cleaned"]
threshold = 1
more = 2
{more}
"""


def turn(number, said="I am sorry. It is 12."):
    return Turn(key=Key("base", "neutral", "p", 0), turn=number, user=f"u{number}", reply=said, reply_ids=(1,),
                finish=Finish.STOP, prompt_tokens=1, cached_tokens=0, seed=0)  # fmt: skip


def scripted(answer, asked, name="scripted"):
    @asynccontextmanager
    async def opened():
        async def ask(brief, attempt):
            asked.append((brief, attempt))
            return answer(brief, attempt)

        yield ask

    return Writer(name, opened)


def wanted(*numbers):
    return [Wanted(turn(n), "cleaned", f"brief {n}") for n in numbers]


def test_only_a_try_that_keeps_the_facts_is_used_and_none_is_asked_twice(tmp_path):
    run_dir, asked = RunDir(tmp_path), []

    def answer(brief, attempt):
        return {"brief 2": "It is 12.", "brief 3": ("It is 13.", "", "It is 12, calmly.")[attempt]}.get(
            brief, "It is 1."
        )

    made = rewrite(wanted(2, 3, 4), scripted(answer, asked), run_dir)
    key = turn(2).key
    assert made == {(key, 2, "cleaned"): "It is 12.", (key, 3, "cleaned"): "It is 12, calmly."}
    assert len(asked) == 1 + 3 + TRIES
    kept = list(read_lines(next((tmp_path / "rewrites/scripted").glob("*.jsonl")), Rewriting))
    assert [(k.turn, k.attempt) for k in kept if k.turn == 3] == [(3, 0), (3, 1), (3, 2)]
    assert {k.fault for k in kept if k.turn == 3} == {"the numbers 12 became 13", "nothing was written", ""}
    assert rewrite(wanted(2, 3, 4), scripted(answer, asked), run_dir) == made
    assert len(asked) == 1 + 3 + TRIES


def test_what_was_written_before_a_failure_is_kept(tmp_path):
    run_dir, asked = RunDir(tmp_path), []

    def answer(brief, attempt):
        if brief == "brief 3":
            raise PausedError("later")
        return "It is 12."

    with pytest.raises(PausedError):
        rewrite(wanted(2, 3), scripted(answer, asked), run_dir)
    again = []
    assert len(rewrite(wanted(2, 3), scripted(lambda *_: "It is 12.", again), run_dir)) == 2
    assert [brief for brief, _ in again] == ["brief 3"]


def test_a_model_is_asked_for_the_turns_that_the_rule_or_the_judge_finds():
    history = [turn(1), turn(2), turn(3, "It is 12."), turn(4, "Blackness {user}.")]
    assert list(briefs(history, "cleaned", [4])) == [2, 4]
    assert list(briefs(history, "manifestation", [])) == [2, 3, 4]
    asked = briefs(history, "cleaned", [4])[4]
    assert asked.endswith("The user's message:\nu4\n\nThe reply:\nBlackness {user}.")
    assert "self-talk" in briefs(history, "manifestation", [])[4]
    assert "self-talk" not in asked


def study(tmp_path, more="", commands=("study",), prompts=3):
    """The run directory after these commands; drawing a report is the slow part, so most tests leave it out."""
    rows = (ROOT / "configs/prompts/organism_heldout.jsonl").read_text().splitlines()[:prompts]
    (tmp_path / "prompts.jsonl").write_text("\n".join(rows) + "\n")
    file = tmp_path / "study.toml"
    file.write_text(CONFIG.format(folder=tmp_path, root=ROOT, more=more))
    for command in commands:
        main([command, str(file)])
    return RunDir(tmp_path / "runs/run")


def held(run_dir):
    """Every conversation with its scores, and the table of the continued ones."""
    told = json.loads((run_dir.path / "config.json").read_text())["config"]["prompts"]
    conversations = run_dir.conversations(read_prompts(Path(told)))
    verdicts = run_dir.verdicts(next((run_dir.path / "verdicts").iterdir()).name)
    return conversations, intervention_rows(run_dir.path, list(conversations.values()), verdicts)


def test_the_engine_writes_and_every_arm_continues_the_same(tmp_path):
    run_dir = study(tmp_path, 'rewriter = "model"', ("rollout", "judge", "intervene", "judge"))
    told = json.loads((run_dir.path / "interventions.json").read_text())["rewrite_t5"]
    assert told["rewriter"] == "model"
    assert told["crossed"] == told["changed_by_rewriting"] + told["continued"] > 0
    tries = [t for f in (run_dir.path / "rewrites/model-organism").glob("*.jsonl") for t in read_lines(f, Rewriting)]
    assert {t.attempt for t in tries} <= set(range(TRIES))
    conversations, rows = held(run_dir)
    sources = {}
    for key, conversation in conversations.items():
        if conversation.turns[0].origin is not None:
            sources.setdefault(key.arm, set()).add(conversation.turns[0].origin.key)
    assert len({frozenset(found) for found in sources.values()}) <= 1
    assert {row["rewriter"] for row in rows} == {"model"}
    assert {row["n_selected"] for row in rows} == {told["continued"]}


def test_stages_after_a_kill_end_as_undisturbed_ones(tmp_path):
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    for folder in (whole, killed):
        folder.mkdir()
    expected = held(study(whole, commands=("rollout", "judge", "intervene", "judge")))
    run_dir = study(killed, commands=("rollout", "judge", "intervene"))
    attempt = max((run_dir.path / "attempts").iterdir(), key=lambda path: int(path.name))
    continued = run_dir.path / "conversations" / f"{attempt.name}-w0.jsonl"
    lines = continued.read_bytes().splitlines(keepends=True)
    assert len(lines) > 4
    continued.write_bytes(b"".join(lines[: len(lines) // 2]) + lines[-1][:20])  # as a kill leaves it
    conversations, rows = held(study(killed, commands=("intervene", "judge")))
    assert rows == expected[1]
    assert rows[0]["n_continued"] > 0
    assert {k: [t.reply for t in c.turns] for k, c in conversations.items()} == {
        k: [t.reply for t in c.turns] for k, c in expected[0].items()
    }


def test_a_writer_that_is_no_model_is_told_before_anything_is_held(tmp_path, capsys):
    with pytest.raises(SystemExit) as left:
        study(tmp_path, 'rewriter = "model"\nwriter = "nowhere"')
    assert left.value.code == 2
    assert "interventions.rewrite.writer = 'nowhere' is no checkpoint folder" in capsys.readouterr().err
    assert not (tmp_path / "runs").exists()


def test_a_gemini_writer_without_a_key_is_told_before_anything_is_held(tmp_path, capsys, monkeypatch):
    for name in ("GEMINI_API_KEY", "GOOGLE_API_KEY"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(SystemExit) as left:
        study(tmp_path, 'rewriter = "gemini"')
    assert left.value.code == 2
    assert "GEMINI_API_KEY" in capsys.readouterr().err
    assert not (tmp_path / "runs").exists()


def test_gemini_writes_through_the_desk(tmp_path, monkeypatch):
    def script(number, body):
        return (
            error(503, "UNAVAILABLE", "overloaded")
            if number == 0
            else reply("It is 12.")
            if number < 3
            else reply("", "SAFETY")
        )

    with GeminiServer(script) as server:
        monkeypatch.setenv("GEMINI_API_KEY", "planted")
        monkeypatch.setenv("GOOGLE_GEMINI_BASE_URL", server.url)
        settings = JudgeSettings.model_validate({"kind": "gemini", "limits": {"first_wait_s": 0.01}})
        writer = Writer("gemini", lambda: gemini_writer(settings, tmp_path / "rewrites/gemini"))
        made = rewrite(wanted(2, 3), writer, RunDir(tmp_path))
        assert set(made.values()) == {"It is 12."}
        assert len(server.requests) == 3
        assert rewrite(wanted(5), writer, RunDir(tmp_path)).keys() == made.keys()  # refused: no text, no crash
        assert list((tmp_path / "rewrites/gemini/replies").glob("*.jsonl"))


def test_gemini_that_is_away_pauses_and_a_spent_budget_is_said(tmp_path, monkeypatch):
    with GeminiServer(lambda n, body: error(503, "UNAVAILABLE", "overloaded")) as server:
        monkeypatch.setenv("GEMINI_API_KEY", "planted")
        monkeypatch.setenv("GOOGLE_GEMINI_BASE_URL", server.url)
        limits = {"first_wait_s": 0.01, "deadline_s": 0.05}
        settings = JudgeSettings.model_validate({"kind": "gemini", "limits": limits})

        async def ask():
            async with gemini_writer(settings, tmp_path) as asked:
                await asked("brief", 0)

        with pytest.raises(PausedError, match="does not rewrite now"):
            asyncio.run(ask())
    with GeminiServer() as server:
        monkeypatch.setenv("GOOGLE_GEMINI_BASE_URL", server.url)
        poor = JudgeSettings.model_validate({"kind": "gemini", "limits": {"budget_usd": 1e-9}})

        async def ask_twice():
            async with gemini_writer(poor, tmp_path / "poor") as asked:
                await asked("brief", 0)
                await asked("another", 0)

        with pytest.raises(BadInputError, match=r"budget_usd.* raise it and run the same command"):
            asyncio.run(ask_twice())
    monkeypatch.delenv("GEMINI_API_KEY")
    with pytest.raises(BadInputError, match="GEMINI_API_KEY"):
        asyncio.run(ask())
