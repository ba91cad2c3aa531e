"""One screen about a run: what every stage last wrote into attempts/<n>/status.json. Reads only; loads nothing heavy.

    placid status runs/x            once
    placid status runs/x --watch    again every two seconds, until nothing runs any more
    placid status runs/x --json     the same numbers for a program

Each stage is shown as its newest attempt left it; conversations that ended in earlier attempts are counted as done.
Trainings are read where they write: <checkpoints>/<run>/<treatment>/status.json, from the folder that placid ran in.
"""

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rich.console import Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from placid.records import BadInputError
from placid.store import read_json

SILENT_S = 60.0
"""A stage that says it is running and wrote nothing for so long was probably killed."""
WATCH_S = 2.0
"""Watching: a look in this many seconds."""
DETAILED = ("rollout", "judge")
"""Parts of a status.json that are shown first, in this order; any other follows with its plain values."""


def read(run: Path) -> dict[str, Any]:
    """What is known of a run: every stage as it last was, with `before`, `silent_s` and its attempt added.

    Raises:
        BadInputError: no run directory, or nothing was started in it.
    """
    found = sorted(run.glob("attempts/*/status.json"), key=lambda p: int(p.parent.name))
    if not found:
        raise BadInputError(f"{run} is no run directory with an attempt; they are below runs/")
    stages: dict[str, Any] = {}
    listed: dict[str, str] = {}
    for file in found:
        parts = read_json(file)
        listed |= {name: state or listed.get(name, "") for name, state in parts.pop("stages", {}).items()}
        for name, stage in ((name, part) for name, part in parts.items() if isinstance(part, dict)):
            stages[name] = _aged(stage, file) | {"attempt": int(file.parent.name)}
    stages |= {f"train {file.parent.name}": _aged(read_json(file), file) for file in _trainings(run)}
    rollout = stages.get("rollout", {})
    turns = rollout.get("before", {}).get("turns", 0) + rollout.get("totals", {}).get("turns", 0)
    known = [f"{name} {state or 'to do'}" for name, state in listed.items()]
    return {"run": str(run), "turns": turns, "list": known, **stages}


def _aged(stage: dict[str, Any], file: Path) -> dict[str, Any]:
    """With `silent_s`: since when nothing was written."""
    return {**stage, "silent_s": max(0.0, time.time() - stage.get("updated", file.stat().st_mtime))}


def _trainings(run: Path) -> list[Path]:
    """The status of every training that this run has begun."""
    file = run / "config.json"
    config = read_json(file)["config"] if file.is_file() else {}
    if not config.get("train"):
        return []
    folder = Path(config["checkpoints"]) / config["name"]
    return [path for arm in config["train"]["rows"] if (path := folder / arm / "status.json").is_file()]


def running(known: dict[str, Any]) -> bool:
    """Does any stage say that it runs?"""
    return any(isinstance(stage, dict) and stage.get("state") == "running" for stage in known.values())


def screen(known: dict[str, Any]) -> RenderableType:
    """The whole screen."""
    stages = {name: stage for name, stage in known.items() if isinstance(stage, dict)}
    order = [name for name in DETAILED if name in stages] + [name for name in stages if name not in DETAILED]
    parts: list[RenderableType] = [Text(known["run"], style="bold"), _line(known["list"])]
    for name in order:
        parts += [Text(), _head(name, stages[name])]
        if name == "rollout":
            parts += _rollout(stages[name])
        elif name == "judge":
            parts += _judge(stages[name], known["turns"])
        elif name.startswith("train "):
            parts += _train(stages[name])
        else:
            parts += [_line(_plain(stages[name]))]
    return Group(*parts)


def _head(name: str, stage: dict[str, Any]) -> Text:
    """The stage, its state, its attempt; and whether it has been silent for too long to be alive."""
    state = str(stage.get("state", "?"))
    style = {"running": "cyan", "done": "green", "failed": "red"}.get(state, "yellow")
    text = Text(f"{name}  ", style="bold").append(state, style=style)
    if "attempt" in stage:
        text.append(f"  attempt {stage['attempt']}", "dim")
    engine = stage.get("engine")
    if engine:
        text.append(f"  {engine['name']} {engine['version']}", "dim")
    if state == "running" and stage["silent_s"] > SILENT_S:
        text.append(f"  no news for {duration(stage['silent_s'])}: killed? the same command goes on", "bold red")
    return text


def _rollout(stage: dict[str, Any]) -> Iterator[RenderableType]:
    t, before = stage.get("totals") or {}, stage["before"]
    if not t:
        yield Text("  starting")
        return
    done, total = before["conversations"] + t["ended"], before["conversations"] + t["conversations"]
    yield _bar(done, total, "conversations", t.get("eta_s") if stage.get("state") == "running" else None)
    yield _line([
        f"{before['conversations']} ended in earlier launches" if before["conversations"] else "",
        *(f"{name} {t[name]}" for name in ("active", "parked", "waiting", "queued") if t.get(name)),
        f"{before['turns'] + t['turns']} turns",
        f"{t['turns_per_second']:.1f} turns/s",
        f"{t['reply_tokens_per_second']:.0f} output tok/s",
        f"prefix hits {t['cached_share']:.1%}",
    ])  # fmt: skip
    yield _line([f"ends: {_counts(t.get('ends'))}" if t.get("ends") else ""])
    if t.get("failed"):
        kinds = _counts(t.get("failures")) or t.get("first_failure", "")
        yield Text(f"  failed {t['failed']}: {kinds}", style="red")
    if t.get("workers_lost"):
        yield Text(f"  engines lost {t['workers_lost']}; their conversations went on elsewhere", style="yellow")
    if stage.get("engines"):
        yield _engines(stage["engines"])


def _engines(engines: list[dict[str, Any]]) -> Table:
    """One row an engine."""
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim")
    heads = ("engine", "active", "parked", "turns/s", "tok/s", "hits", "KV use", "preempted", "failed")
    for head in heads:
        table.add_column(f"  {head}" if head == "engine" else head, justify="right")
    for number, e in enumerate(engines):
        table.add_row(
            f"  {number}", str(e["active"]), str(e["parked"]), f"{e['turns_per_second']:.1f}",
            f"{e['reply_tokens_per_second']:.0f}", f"{e['cached_share']:.1%}", f"{e['kv_use']:.0%}",
            str(e["preemptions"]), str(e["failed"]),
        )  # fmt: skip
    return table


def _judge(stage: dict[str, Any], turns: int) -> Iterator[RenderableType]:
    graded, rate = stage["graded"], stage["turns_per_second"]
    left = max(0, turns - graded)
    live = stage.get("state") == "running"
    yield _bar(graded, max(turns, graded), "turns", left / rate if live and rate else None)
    yield _line([
        stage["judge_id"],
        f"{rate:.1f} turns/s",
        f"unscored: {_counts(stage['unscored'])}" if stage["unscored"] else "",
        f"{stage['requests']} requests" if "requests" in stage else "",
        f"{stage['usd']:.2f} dollars" if "usd" in stage else "",
        f"passing failures: {_counts(stage['failures'])}" if stage.get("failures") else "",
    ])  # fmt: skip


def _train(stage: dict[str, Any]) -> Iterator[RenderableType]:
    if "step" in stage:
        yield _bar(stage["step"], stage["steps"], "steps", None)
    yield _line([word for word in _plain(stage) if not word.startswith("step")])


def _bar(done: int, total: int, what: str, left_s: float | None) -> Table:
    row = Table.grid(padding=(0, 2))
    words = f"{done}/{total} {what}" + (f"  {duration(left_s)} left" if left_s is not None else "")
    row.add_row("", ProgressBar(total=max(total, 1), completed=done, width=40), words)
    return row


def _line(words: list[str]) -> Text:
    """The words that are there, in one line."""
    return Text("  " + " · ".join(word for word in words if word))


def _counts(counts: dict[str, int] | None) -> str:
    return ", ".join(f"{name} {count}" for name, count in sorted((counts or {}).items(), key=lambda item: -item[1]))


def _plain(stage: dict[str, Any]) -> list[str]:
    """Numbers and words of a stage that has no screen of its own."""
    hidden = ("state", "attempt", "silent_s", "updated", "started")
    shown = {k: v for k, v in stage.items() if k not in hidden and isinstance(v, int | float | str)}
    return [f"{name} {value:.4g}" if isinstance(value, float) else f"{name} {value}" for name, value in shown.items()]


def duration(seconds: float) -> str:
    """The two largest units: 45 s, 3 min, 2 h 5 min."""
    minutes = round(seconds / 60)
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


def watch(run: Path) -> None:
    """The screen again and again, until no stage runs; at least once."""
    known = read(run)
    with Live(screen(known), auto_refresh=False) as live:
        while running(known):
            time.sleep(WATCH_S)
            known = read(run)
            live.update(screen(known), refresh=True)
