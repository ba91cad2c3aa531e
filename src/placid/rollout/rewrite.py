"""A model rewrites histories: each turn until its facts survive, every try kept, none of it asked twice.

rewrites/<writer>/<n>.jsonl     one line per try (Rewriting), on disk before anything is made of it
"""

import asyncio
import hashlib
import json
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import NamedTuple

from placid.engine import ReplyRequest, RequestError
from placid.engine.faults import without_thought
from placid.protocol.history import changed
from placid.records import SCHEMA, Key, Message, Record, Turn
from placid.render import Renderer
from placid.rollout.planned import make_engine
from placid.rollout.settings import RolloutSettings
from placid.store import RunDir, Segment, read_lines

log = logging.getLogger(__name__)
TRIES = 3
"""A rewriting that changes a fact is asked for again, twice; its words are never sent back."""
LANES = 32
"""Rewritings in work at once."""

Ask = Callable[[str, int], Awaitable[str]]
"""(what is asked, number of the try) → the rewritten reply; empty: none was given."""
Place = tuple[Key, int, str]
"""Which turn of which stored conversation, for which history."""


class Wanted(NamedTuple):
    """One rewriting that is needed."""

    turn: Turn
    history: str
    brief: str

    @property
    def place(self) -> Place:
        """What it is known by."""
        return (self.turn.key, self.turn.turn, self.history)


class Writer(NamedTuple):
    """Who rewrites. `open` loads it, and only when something has to be written."""

    name: str
    open: Callable[[], AbstractAsyncContextManager[Ask]]


class Rewriting(Record, frozen=True, kw_only=True):
    """One try at one turn."""

    schema: int = SCHEMA
    key: Key
    turn: int
    history: str
    attempt: int
    """From 0."""
    text: str
    fault: str
    """What it changed; empty: the facts survived, and this text is used."""

    @property
    def place(self) -> Place:
        """What it is known by."""
        return (self.key, self.turn, self.history)


def rewrite(wanted: Iterable[Wanted], writer: Writer, run_dir: RunDir) -> dict[Place, str]:
    """The rewritten replies; a turn whose facts survived no try is missing.

    Raises what `writer` raises; what was written before is kept and not asked for again.
    """
    folder = run_dir.path / "rewrites" / writer.name
    tries: dict[Place, list[Rewriting]] = {}
    for file in sorted(folder.glob("*.jsonl")):
        for kept in read_lines(file, Rewriting):
            tries.setdefault(kept.place, []).append(kept)
    todo = [job for job in {job.place: job for job in wanted}.values() if not _settled(tries.get(job.place, []))]
    if todo:
        log.info("%s rewrites %d turns", writer.name, len(todo))
        asyncio.run(_write_all(todo, writer, folder, tries))
    return {place: made.text for place, found in tries.items() for made in found if not made.fault}


def _settled(found: list[Rewriting]) -> bool:
    return len(found) >= TRIES or any(not made.fault for made in found)


async def _write_all(todo: list[Wanted], writer: Writer, folder: Path, tries: dict[Place, list[Rewriting]]) -> None:
    waiting = iter(todo)
    segment = Segment[Rewriting].numbered(folder)

    async def lane(ask: Ask) -> None:
        for job in waiting:
            found = tries.setdefault(job.place, [])
            while not _settled(found):
                text = (await ask(job.brief, len(found))).strip()
                made = Rewriting(
                    key=job.turn.key, turn=job.turn.turn, history=job.history, attempt=len(found), text=text,
                    fault=changed(job.turn, text),
                )  # fmt: skip
                segment.append(made)
                found.append(made)

    with segment:
        async with writer.open() as ask:
            try:
                async with asyncio.TaskGroup() as lanes:
                    for _ in range(min(LANES, len(todo))):
                        lanes.create_task(lane(ask))
            except BaseExceptionGroup as errors:
                raise errors.exceptions[0] from None


@asynccontextmanager
async def through_engine(settings: RolloutSettings, model: Path) -> AsyncIterator[Ask]:
    """A chat model of the study's engine settings, in this process; its first try is greedy, later ones are sampled."""
    renderer = Renderer(model)
    engine = make_engine(settings.model_copy(update={"model": model, "arms": {}}))

    async def ask(brief: str, attempt: int) -> str:
        ids = tuple(renderer.prompt([Message(role="user", content=brief)]))
        digest = hashlib.sha256(json.dumps([settings.seed, brief, attempt]).encode()).digest()
        try:
            reply = await engine.reply(
                ReplyRequest(
                    prompt_ids=ids, max_tokens=settings.max_tokens, temperature=1.0 if attempt else 0.0,
                    seed=int.from_bytes(digest[:8], "big") >> 1,
                )
            )  # fmt: skip
        except RequestError:  # the brief is too long for this writer, or filtered: the turn stays unwritten
            return ""
        return without_thought(reply.text)[0]

    try:
        await engine.start()
        yield ask
    finally:
        await engine.close()
