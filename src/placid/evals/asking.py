"""Rows × arms → answers: every ask once per arm, on one start of the engine, appended as they finish."""

import asyncio
import logging
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

from placid.engine import Engine, Reply, ReplyRequest, RequestError
from placid.evals import DELETED, DONE, EMPTY, OVERFLOW, Answered, Ask
from placid.protocol.hatch import COMMAND, ends_by
from placid.records import BadInputError, End, FailedError, Finish, Key, PausedError, seed_of
from placid.render import Renderer
from placid.store import RunDir, Segment, read_json, read_lines, write_json

log = logging.getLogger(__name__)
GROUP, GROUP_S = 64, 1.0
"""Answers are written in groups of this many, or after this many seconds: one fsync each."""
SAY_EVERY_S = 30.0


class EvalError(FailedError):
    """The engine failed under some asks; the same command goes on."""


def kept(run_dir: RunDir) -> dict[tuple[str, str], Answered]:
    """(arm, ask) → what came back; of two answers to one ask the earlier file's stands."""
    found: dict[tuple[str, str], Answered] = {}
    files = sorted((run_dir.path / "evals" / "answers").glob("*.jsonl"), key=lambda p: (len(p.stem), p.stem))
    for file in files:
        for answer in read_lines(file, Answered):
            found.setdefault((answer.arm, answer.ask), answer)
    return found


def ask_all(
    wanted: Mapping[str, Iterable[Ask]],
    adapters: Mapping[str, str | None],
    make_engine: Callable[[], Engine],
    model: Path,
    seed: int,
    lanes: int,
    run_dir: RunDir,
    attempt: Path,
) -> dict[tuple[str, str], Answered]:
    """Ask what has no answer yet; every answer.

    wanted: arm → its asks. adapters: arm → adapter folder, None for the base model. make_engine: called only if
    something is to be asked. model: whose chat template renders. lanes: most asks open at once. attempt: names the
    segment; its status.json gets the key `evals`.

    Raises:
        BadInputError: a choice that is not one token. PausedError: the server is away.
        EvalError: the engine failed; what was finished is on disk.
    """
    known = kept(run_dir)
    todo: dict[tuple[str, str], Ask] = {}
    for arm, asks in wanted.items():
        for one in asks:
            todo.setdefault((arm, one.name), one)
    todo = {place: one for place, one in todo.items() if place not in known}
    if not todo:
        log.info("evals: every ask is already answered")
        return known
    asker = Asker(Renderer(model), adapters, seed, len(todo), attempt)
    with Segment[Answered](_new_file(run_dir, attempt)) as segment:
        asyncio.run(asker.run(make_engine(), todo, lanes, segment))
    if asker.failed:
        raise EvalError(
            f"{asker.failed} of {len(todo)} asks stopped on an engine failure (first: {asker.first}); what was "
            "finished is on disk, run the same command again to continue"
        )
    return {**known, **asker.answers}


def _new_file(run_dir: RunDir, attempt: Path) -> Path:
    """A segment that no one has yet: an attempt may ask several times."""
    folder, number = run_dir.path / "evals" / "answers", 0
    while (folder / f"{attempt.name}-{number}.jsonl").exists():
        number += 1
    return folder / f"{attempt.name}-{number}.jsonl"


class Asker:
    """Asks one engine, and keeps count."""

    def __init__(
        self, renderer: Renderer, adapters: Mapping[str, str | None], seed: int, total: int, attempt: Path
    ) -> None:
        self.renderer, self.adapters, self.seed = renderer, adapters, seed
        self.answers: dict[tuple[str, str], Answered] = {}
        self.failed, self.first = 0, ""
        self._total, self._status = total, attempt / "status.json"
        self._group: list[Answered] = []
        self._written = self._said = self._began = time.monotonic()

    async def run(
        self, engine: Engine, todo: Mapping[tuple[str, str], Ask], lanes: int, segment: Segment[Answered]
    ) -> None:
        """Every ask; arms one after the other, so that an adapter's requests meet each other."""
        waiting = deque(todo.items())
        choices = {text: self._token(text) for one in todo.values() for text in one.choices}
        try:
            await engine.start()
            self._began = time.monotonic()
            async with asyncio.TaskGroup() as group:
                for _ in range(min(lanes, len(waiting))):
                    group.create_task(self._lane(engine, waiting, choices, segment))
        except* (BadInputError, PausedError, OSError) as errors:
            raise errors.exceptions[0] from None
        finally:
            self._write(segment)
            self._tell("done")
            await engine.close()

    def _token(self, text: str) -> int:
        ids = self.renderer.encode(text)
        if len(ids) != 1:
            raise BadInputError(
                f"{text!r} is {len(ids)} tokens for this model, so it cannot be chosen by log-probability; "
                'ask by = "generation"'
            )
        return ids[0]

    async def _lane(
        self,
        engine: Engine,
        waiting: deque[tuple[tuple[str, str], Ask]],
        choices: Mapping[str, int],
        segment: Segment[Answered],
    ) -> None:
        """One ask after the other."""
        while waiting:
            (arm, _), one = waiting.popleft()
            try:
                answer = await self._ask(engine, arm, one, choices)
            except (BadInputError, PausedError, OSError):
                raise
            except Exception as error:  # noqa: BLE001 - infrastructure of any kind: counted, and raised at the end
                self.failed += 1
                self.first = self.first or f"{type(error).__name__}: {error}"
                continue
            self.answers[arm, answer.ask] = answer
            self._group.append(answer)
            if len(self._group) >= GROUP or time.monotonic() - self._written > GROUP_S:
                self._write(segment)

    async def _ask(self, engine: Engine, arm: str, one: Ask, choices: Mapping[str, int]) -> Answered:
        """All turns of one ask."""
        name = one.name
        key = Key(arm=arm, condition="eval", prompt_id=name, sample=one.sample)
        ids = [*self.renderer.prompt(one.messages), *(self.renderer.encode(one.begin) if one.begin else ())]
        replies: list[str] = []
        cut_turns: tuple[int, ...] = ()
        end, reply, total, cached, first_seed = OVERFLOW, None, 0, 0, seed_of(self.seed, key, "eval", 1)
        for number, following in enumerate((*one.then, None), 1):
            last = following is None
            if len(ids) >= engine.context_tokens:
                break
            request = ReplyRequest(
                prompt_ids=tuple(ids),
                max_tokens=1 if last and one.choices else one.max_tokens,
                temperature=0.0 if last and one.choices else one.temperature,
                seed=seed_of(self.seed, key, "eval", number),
                logprobs=bool(last and one.choices),
                adapter=self.adapters[arm],
                among=tuple(choices[text] for text in one.choices) if last else (),
            )
            try:
                reply = await engine.reply(request)
            except RequestError as error:
                end = OVERFLOW if error.end is End.CONTEXT_OVERFLOW else error.end.value
                break
            replies.append(reply.text)
            cut_turns += (number,) if reply.finish is Finish.LENGTH and not request.among else ()
            total, cached = total + len(ids), cached + reply.cached_tokens
            end = _ends(reply, one.tag, last)
            if end:
                break
            end = OVERFLOW  # until the next reply is there
            ids = self.renderer.extend(ids, reply.token_ids, following or "")
        return Answered(
            arm=arm,
            ask=name,
            replies=tuple(replies),
            end=end,
            cut=reply is not None and reply.finish is Finish.LENGTH and not one.choices,
            cut_turns=cut_turns,
            logprob=reply.logprobs[0] if reply and one.choices and reply.logprobs else None,
            seed=first_seed,
            prompt_tokens=total,
            cached_tokens=cached,
        )

    def _write(self, segment: Segment[Answered]) -> None:
        """The group on disk, and what is known now."""
        segment.append(*self._group)
        self._group.clear()
        self._written = time.monotonic()
        self._tell("running")

    def _tell(self, state: str) -> None:
        seconds = max(time.monotonic() - self._began, 1e-9)
        done = len(self.answers)
        known = read_json(self._status) if self._status.is_file() else {}
        now = {
            "state": state,
            "asks": self._total,
            "answered": done,
            "failed": self.failed,
            "answers_per_second": round(done / seconds, 2),
        }
        write_json(self._status, {**known, "evals": now})
        if time.monotonic() - self._said > SAY_EVERY_S or state == "done":
            self._said = time.monotonic()
            log.info(
                "evals: %d/%d asks answered, %.1f a second, %d failed", done, self._total, done / seconds, self.failed
            )


def _ends(reply: Reply, tag: str, last: bool) -> str:
    """How the ask ends with this reply; nothing if it goes on."""
    if tag and ends_by(reply.text, tag, COMMAND) is End.DELETED:
        return DELETED
    if reply.finish is Finish.FILTERED and not reply.text.strip():
        return End.FILTERED.value
    if last:
        return DONE
    return "" if reply.text.strip() else EMPTY
