"""`placid status`: what stands on the screen, from files as the stages write them; a resumed run counts what was done."""

import json

import pytest
from rich.console import Console

from placid import status
from placid.cli import main

TOTALS = {
    "conversations": 20, "ended": 5, "turns": 60, "turns_per_second": 4.0, "reply_tokens_per_second": 640.0,
    "cached_share": 0.931, "failed": 2, "active": 8, "parked": 1, "queued": 6, "eta_s": 150.0,
    "ends": {"finished": 4, "deleted": 1}, "failures": {"EngineDiedError": 2}, "preemptions": 3, "workers_lost": 1,
}  # fmt: skip
ENGINE = {
    "active": 8, "parked": 1, "turns_per_second": 4.0, "reply_tokens_per_second": 640.0, "cached_share": 0.931,
    "kv_use": 0.62, "preemptions": 3, "failed": 2,
}  # fmt: skip
JUDGE = {
    "judge_id": "lexical-1", "state": "paused", "graded": 40, "graded_now": 40, "turns_per_second": 10.0,
    "unscored": {"outage": 3}, "requests": 41, "usd": 0.125, "failures": {"status 503": 7},
}  # fmt: skip


def write(run, attempt, **stages):
    file = run / f"attempts/{attempt}/status.json"
    file.parent.mkdir(parents=True)
    file.write_text(json.dumps(stages))


@pytest.fixture
def run(tmp_path):
    """Two launches: the first ended 12 conversations and was killed, the second is at work; the judge is paused. A
    treatment is being trained, another not yet."""
    write(tmp_path, 1, rollout={"state": "running", "totals": {"ended": 11, "turns": 100}, "updated": 0}, judge=JUDGE)
    now = {
        "state": "running", "updated": status.time.time(), "engine": {"name": "vllm", "version": "0.32"},
        "totals": TOTALS, "engines": [ENGINE, {**ENGINE, "active": 0}],
        "before": {"conversations": 12, "turns": 109},
    }  # fmt: skip
    write(tmp_path, 2, rollout=now, stage="rollout")
    config = {"name": "x", "checkpoints": str(tmp_path / "made"), "train": {"rows": {"bct": "train", "sft": "sft"}}}
    (tmp_path / "config.json").write_text(json.dumps({"identity": "", "config": config}))
    training = tmp_path / "made/x/bct/status.json"
    training.parent.mkdir(parents=True)
    training.write_text(json.dumps({"state": "running", "steps": 40, "updated": 0, "step": 12, "loss": 0.25}))
    return tmp_path


def shown(known):
    console = Console(width=160, record=True, file=open("/dev/null", "w"))  # noqa: SIM115, PTH123
    console.print(status.screen(known))
    return console.export_text()


def test_the_screen_says_everything(run):
    text = shown(status.read(run))
    for words in (
        "rollout  running  attempt 2  vllm 0.32", "17/32 conversations  2 min left", "12 ended in earlier launches",
        "active 8", "parked 1", "queued 6", "169 turns", "4.0 turns/s", "640 output tok/s", "prefix hits 93.1%",
        "ends: finished 4, deleted 1", "failed 2: EngineDiedError 2", "engines lost 1", "KV use", "62%", "preempted",
        "judge  paused  attempt 1", "40/169 turns", "unscored: outage 3", "41 requests", "0.12 dollars", "status 503 7",
        "train bct  running  no news for", "killed?", "12/40 steps", "loss 0.25",
    ):  # fmt: skip
        assert words in text, f"{words!r} is not in\n{text}"


def test_the_same_numbers_as_json(run, capsys):
    main(["status", str(run), "--json"])
    known = json.loads(capsys.readouterr().out)
    assert known["rollout"]["before"] == {"conversations": 12, "turns": 109}
    assert known["rollout"]["totals"] == TOTALS
    assert known["turns"] == 169


def test_watching_ends_when_nothing_runs_any_more(run, monkeypatch, capsys):
    file = run / "attempts/2/status.json"

    def passes(_):
        written = json.loads(file.read_text())
        written["rollout"]["state"] = "done"
        file.write_text(json.dumps(written))
        (run / "made/x/bct/status.json").write_text(json.dumps({"state": "done", "step": 40, "steps": 40}))

    monkeypatch.setattr(status.time, "sleep", passes)
    main(["status", str(run), "--watch"])
    assert "17/32 conversations" in capsys.readouterr().out
    assert not status.running(status.read(run))


def test_a_simulated_run_is_shown_and_what_is_none_is_refused(tmp_path, capsys):
    prompts = tmp_path / "p.jsonl"
    prompts.write_text('{"id": "a", "text": "What is 2 + 3?", "answers": ["5"]}\n')
    main(["study", "configs/study/simulate.toml", "--root", str(tmp_path), "--name", "r", "--prompts", str(prompts),
          "--turns", "3", "--samples", "1"])  # fmt: skip
    capsys.readouterr()
    main(["status", str(tmp_path / "r")])
    text = capsys.readouterr().out
    assert "rollout  done  attempt 1  simulate 1" in text
    assert "3/3 conversations" in text
    assert "judge  done" in text
    for words, says in (
        ([tmp_path / "none"], "no run directory"),
        ([tmp_path / "r", "--wach"], "status takes no --wach"),
    ):
        with pytest.raises(SystemExit) as left:
            main(["status", *map(str, words)])
        assert left.value.code == 2
        assert says in capsys.readouterr().err


@pytest.mark.parametrize(("seconds", "text"), [(5, "5 s"), (89, "89 s"), (125, "2 min"), (7500, "2 h 5 min")])
def test_durations(seconds, text):
    assert status.duration(seconds) == text
