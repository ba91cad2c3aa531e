"""Graded runs through the scripted Gemini server: conversations, settings, a key, and what was paid."""

from pathlib import Path

import pytest

from placid.judge import run
from placid.judge.desk import KeptReply
from placid.judge.settings import JudgeSettings
from placid.records import End, Finish, Key, Prompt, Turn
from placid.store import read_lines

KEY = "planted-key-5f1c0e"
PROMPT = Prompt(id="p", text="How long?")
SOON = {"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": "0.05s"}


def once(response):
    """The failure on the first request, grades afterwards."""
    return lambda n, body: response() if n == 0 else None


def always(response):
    return lambda n, body: response()


def talk(run_dir, count=1, turns=1, writer="w"):
    with run_dir.segment(writer) as segment:
        for sample in range(count):
            key = Key("base", "neutral", "p", sample)
            segment.append(*(
                Turn(key=key, turn=n, user="u", reply=f"I am lost. {sample} {n}", reply_ids=(1,), finish=Finish.STOP, prompt_tokens=1,
                     cached_tokens=0, seed=1, end=End.FINISHED if n == turns else None)
                for n in range(1, turns + 1)
            ))  # fmt: skip
    return run_dir


def settings(**more):
    limits = {"rpm": 60_000, "tpm": 10**9, "deadline_s": 600, "first_wait_s": 0.02} | more.pop("limits", {})
    return JudgeSettings.model_validate({"kind": "gemini", "rubric": "frustration_turn", "limits": limits, **more})


@pytest.fixture(autouse=True)
def environment(monkeypatch):
    monkeypatch.setenv("GEMINI_API_KEY", KEY)
    monkeypatch.delenv("GOOGLE_API_KEY", raising=False)


def grade(server, run_dir, monkeypatch, **more):
    monkeypatch.setenv("GOOGLE_GEMINI_BASE_URL", server.url)
    return list(run_dir.verdicts(run(settings(**more), run_dir, [PROMPT])).values())


def ledger(folder: Path):
    """Every paid reply below verdicts/<judge_id>/."""
    return [kept for file in sorted((folder / "replies").glob("*.jsonl")) for kept in read_lines(file, KeptReply)]
