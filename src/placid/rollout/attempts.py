"""attempts/<n>/status.json: progress, and who is alive. So that no conversation ever has two writers.

After `kill -9` of a driver its actors and engines end (cluster/children.py); those on other hosts end themselves when
nobody calls them (LEASE_S).

What a reader finds in status.json under "rollout", written every second:

    state       running | done | failed | drained
    host, driver (children.Group), updated, started (seconds since 1970)
    workers     [children.Group] on this machine; elsewhere: true if there are some on others
    engine      {name,version,endpoint}, null while engines load; endpoint: of a server
    totals      worker.Totals over all engines (add_up), and conversations (of this launch, all arms of one wave),
                queued (not leased to any engine), turns_per_second and reply_tokens_per_second (lately; at the end: of
                the whole), cached_share (of prompt tokens), eta_s (null: unknown), workers_lost,
                moved (conversations between engines)
    engines     one worker.Totals per engine now or formerly in use, with turns_per_second and
                reply_tokens_per_second lately and cached_share
    before      conversations that had ended and turns that were on disk when this rollout began, of all arms

So by state: totals.ended (kinds in .ends), .active, .parked, not begun: .waiting - .parked + .queued, .failed (kinds in
.failures).
"""

import logging
import socket
import sys
import time
from collections import Counter, deque
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

import msgspec

from placid.cluster.children import Group, keep
from placid.records import End
from placid.rollout.coordinator import Coordinator
from placid.rollout.worker import Totals
from placid.store import read_json, write_json

if TYPE_CHECKING:
    from rich.progress import Progress

log = logging.getLogger(__name__)

LOG_EVERY_S = 30.0
"""One progress line in this many seconds where there is no terminal."""
LEASE_S = 60.0
"""A worker that nobody calls for so long ends itself: a cut-off one must not write what another writes too."""
SILENT_S = LEASE_S + 10
"""A run on another host whose status is older than this is taken for dead, and its workers are."""
RATE_S = 10.0
"""Rates are those of about the last so many seconds."""


def wait_for_former(run_dir: Path) -> None:
    """Wait until workers of dead drivers on other hosts have ended; that those are dead, the lease has shown."""
    for file in sorted((run_dir / "attempts").glob("*/status.json")):
        status = read_json(file).get("rollout")
        if status is None or status["state"] != "running" or not status["elsewhere"]:
            continue
        if status["driver"].get("token") == keep().token:
            continue  # an earlier rollout of this very process
        wait = min(status["updated"] + SILENT_S - time.time(), SILENT_S)  # the clock may have been set
        if wait > 0:
            log.warning("waiting %.0f s until the workers of a dead run on other hosts have ended", wait)
            time.sleep(wait)


class Status:
    """Writes status.json (key `rollout`), engine.json, and the progress that a person sees. A context manager.

    A resumed rollout shows what is done of the whole run, not of this launch.
    """

    INTERVAL_S = 1.0

    def __init__(
        self, run_dir: Path, attempt: Path, conversations: int, before: Mapping[str, int], endpoint: str = ""
    ) -> None:
        """conversations: to be held now. before: see above. endpoint: address of the server that answers."""
        self._conversations, self._endpoint = conversations, endpoint
        self._engine_file = run_dir / "engine.json"
        self._file = attempt / "status.json"
        # other stages may keep their own keys in this file
        self._all: dict[str, Any] = read_json(self._file) if self._file.is_file() else {}
        self._data: dict[str, Any] = {
            "state": "running",
            "host": socket.gethostname(),
            "driver": msgspec.to_builtins(keep()),
            "workers": [],
            "elsewhere": False,
            "started": time.time(),
            "engine": None,
            "totals": {},
            "before": dict(before),
        }
        self._marks: deque[tuple[float, list[tuple[int, int]]]] = deque()
        """When, and turns and reply tokens of each engine then."""
        self._said = time.monotonic()
        self._bar = _bar() if sys.stderr.isatty() else None

    def __enter__(self) -> "Status":
        self._write()
        if self._bar:
            self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar:
            self._bar.stop()
        if self._data["state"] == "running":
            self._data["state"] = "failed"
            self._write()

    def worker(self, group: Group) -> None:
        """A worker on this machine."""
        self._data["workers"].append(msgspec.to_builtins(group))
        self._write()

    def elsewhere(self) -> None:
        """There are workers on other hosts."""
        self._data["elsewhere"] = True
        self._write()

    def update(self, coordinator: Coordinator) -> None:
        """What is known now."""
        name, version = coordinator.engine
        if version and self._data["engine"] is None:
            engine = {"name": name, "version": version} | ({"endpoint": self._endpoint} if self._endpoint else {})
            before = read_json(self._engine_file) if self._engine_file.is_file() else engine
            if before != engine:
                log.warning("rollout: attempts before this one were answered by %s, this one by %s", before, engine)
            self._data["engine"] = engine
            write_json(self._engine_file, engine)
        self._count(coordinator)
        self._write()
        self._tell()

    def finish(self, coordinator: Coordinator) -> None:
        """All workers are closed."""
        self._count(coordinator)
        totals = self._data["totals"]
        for name in ("turns", "reply_tokens"):
            totals[f"{name}_per_second"] = totals[name] / max(totals["seconds"], 1e-9)
        left = coordinator.open + coordinator.given_up
        self._data["state"] = ("drained" if coordinator.draining else "failed") if left else "done"
        self._write()
        log.info("rollout: %s", self._line())

    def _count(self, coordinator: Coordinator) -> None:
        """Totals and rates of everything and of each engine."""
        now, totals = time.monotonic(), coordinator.totals
        self._marks.append((now, [(t.turns, t.reply_tokens) for t in totals]))
        while len(self._marks) > 2 and now - self._marks[1][0] > RATE_S:
            self._marks.popleft()
        then, earlier = self._marks[0]
        engines = [msgspec.to_builtins(t) for t in totals]
        for k, engine in enumerate(engines):
            turns, tokens = earlier[k] if k < len(earlier) else (0, 0)
            seconds = max(now - then, 1e-9)
            engine["turns_per_second"] = max(0, engine["turns"] - turns) / seconds
            engine["reply_tokens_per_second"] = max(0, engine["reply_tokens"] - tokens) / seconds
            engine["cached_share"] = engine["cached_tokens"] / max(engine["prompt_tokens"], 1)
        whole = add_up(totals)
        for name in ("turns_per_second", "reply_tokens_per_second"):
            whole[name] = sum(engine[name] for engine in engines)
        left = coordinator.queued_turns + whole["turns_left"]
        self._data["engines"] = engines
        self._data["totals"] = whole | {
            "conversations": self._conversations,
            "queued": coordinator.queued,
            "eta_s": left / whole["turns_per_second"] if whole["turns_per_second"] else None,
            "workers_lost": coordinator.deaths,
            "moved": coordinator.moved,
        }

    def _tell(self) -> None:
        totals = self._data["totals"]
        rate = f"{totals['turns_per_second']:.0f} turns/s"
        ended, total = self._ended()
        if self._bar:
            self._bar.update(self._bar.task_ids[0], total=total, completed=ended, rate=rate)
        elif time.monotonic() - self._said > LOG_EVERY_S:
            self._said = time.monotonic()
            log.info("rollout: %s", self._line())

    def _ended(self) -> tuple[int, int]:
        """Conversations that are over, and all there are."""
        totals, before = self._data["totals"], self._data["before"]["conversations"]
        return before + totals["ended"], before + totals["conversations"]

    def _line(self) -> str:
        t, (ended, total) = self._data["totals"], self._ended()
        if not t["turns"] and not t.get("start_seconds"):
            return f"{ended}/{total} conversations, the engines are starting"
        return (
            f"{ended}/{total} conversations, {t['turns']} turns now, "
            f"{t['turns_per_second']:.1f} turns/s, "
            f"{t['cached_share']:.0%} of prompt tokens cached, {t['failed']} failed"
            + "".join(f", {n} {end}" for end, n in t["ends"].items() if not End(end).own)
        )

    def _write(self) -> None:
        self._data["updated"] = time.time()
        write_json(self._file, {**self._all, "rollout": self._data})


def _bar() -> "Progress":
    """For a person at a terminal; rich is not loaded where there is none, as in a job or an engine's process."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    bar = Progress(
        TextColumn("rollout"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]}"),
        TimeRemainingColumn(),
    )
    bar.add_task("rollout", total=None, rate="")
    return bar


def add_up(totals: list[Totals]) -> dict[str, Any]:
    """Totals of all workers: counts add, times are the longest worker's, shares of the pool the highest."""
    result: dict[str, Any] = {}
    for name in Totals.__struct_fields__:
        values = [getattr(t, name) for t in totals]
        if name == "first_failure":
            result[name] = next((v for v in values if v), "")
        elif name in ("ends", "failures"):
            result[name] = dict(sum((Counter(v) for v in values), Counter()))
        elif name in ("kv_use", "kv_expected") or "seconds" in name:
            result[name] = max(values)
        else:
            result[name] = min(values) if name == "budget" else sum(values)
    result["cached_share"] = result["cached_tokens"] / max(result["prompt_tokens"], 1)
    return result
