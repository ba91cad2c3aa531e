"""Protocol × engine → conversations: who holds which conversation, resume, and what is known while it runs."""

import asyncio
import logging
from pathlib import Path

from placid.engine import Engine
from placid.protocol import Script, Study, condition_name
from placid.records import BadInputError, Conversation, Key, Prompt
from placid.render import Renderer
from placid.rollout.attempts import Status, stop_former
from placid.rollout.branch import copy_histories
from placid.rollout.settings import RolloutSettings
from placid.rollout.worker import Totals, Worker
from placid.store import RunDir, read_prompts

log = logging.getLogger(__name__)


class RolloutError(Exception):
    """The engine failed under some conversations; the same command continues them."""


def run(settings: RolloutSettings, run_dir: RunDir, attempt: Path) -> None:
    """Hold every conversation of `settings` that is not finished in `run_dir`; blocks until all are done.

    Turns go to conversations/<attempt>-w<k>.jsonl as they finish; progress to <attempt>/status.json.

    Raises:
        BadInputError: wrong settings or files, or another live run in this directory.
        RolloutError: an engine failed; what was finished is on disk and the same call continues.
    """
    stop_former(run_dir.path, attempt)
    for wave in waves(settings):
        copy_histories(wave, all_prompts(wave), run_dir, attempt)
        _hold(wave, run_dir, attempt)


def waves(settings: RolloutSettings) -> list[RolloutSettings]:
    """The settings cut by arms: first those that begin with prompts, then those that continue them, and so on.

    Raises:
        BadInputError: arms branch from each other in a circle.
    """
    left, found = dict(settings.arms), list[RolloutSettings]()
    while left:
        ready = {name: arm for name, arm in left.items() if not arm.branch or arm.branch.arm not in left}
        if not ready:
            raise BadInputError(f"arms {', '.join(left)} branch from each other; one must begin with its prompts")
        found.append(settings.model_copy(update={"arms": ready}))
        left = {name: arm for name, arm in left.items() if name not in ready}
    return found


def _hold(settings: RolloutSettings, run_dir: RunDir, attempt: Path) -> None:
    """Every unfinished conversation of these arms, on one start of the engines."""
    todo = unfinished(settings, run_dir)
    if not todo:
        log.info("rollout: every conversation of %s is already finished", ", ".join(settings.arms))
        return
    with Status(run_dir.path, attempt) as status:
        if settings.launcher == "inline":
            totals = [asyncio.run(_inline(settings, run_dir, attempt, todo, status))]
        else:
            from placid.rollout.ray_workers import hold  # ray is heavy

            totals = hold(settings, run_dir, attempt, todo, status)
        status.finish(totals)
    failed = sum(t.failed for t in totals)
    if failed:
        first = next(t.first_failure for t in totals if t.failed)
        raise RolloutError(
            f"{failed} of {len(todo)} conversations stopped on an engine failure (first: {first}); everything finished "
            "is on disk, run the same command again to continue"
        )


def prompt_sets(settings: RolloutSettings) -> dict[str, list[Prompt]]:
    """Arm → its prompts."""
    return {name: read_prompts(arm.prompts) for name, arm in settings.arms.items()}


def all_prompts(settings: RolloutSettings) -> list[Prompt]:
    """The prompts of all arms, each once."""
    return list({p.id: p for prompts in prompt_sets(settings).values() for p in prompts}.values())


def plan(settings: RolloutSettings) -> list[Conversation]:
    """Every conversation that begins with a prompt, empty, in the order of arms, prompts and samples."""
    sets = prompt_sets(settings)
    return [
        Conversation(
            key=Key(
                arm=name,
                condition=condition_name(arm.condition, arm.hatch, arm.system),
                prompt_id=prompt.id,
                sample=sample,
            ),
            prompt=prompt,
        )
        for name, arm in settings.arms.items()
        if not arm.branch
        for prompt in sets[name]
        for sample in range(arm.samples)
    ]


def unfinished(settings: RolloutSettings, run_dir: RunDir) -> list[Conversation]:
    """The conversations without an end, with the turns that are already on disk: the planned ones and the branches."""
    stored = run_dir.conversations(all_prompts(settings))
    planned = [stored.get(conversation.key, conversation) for conversation in plan(settings)]
    branches = [c for key, c in stored.items() if key.arm in settings.arms and settings.arms[key.arm].branch]
    return [conversation for conversation in [*planned, *branches] if conversation.end is None]


def scripts(settings: RolloutSettings) -> dict[str, Script]:
    """Arm → its script."""
    sets = prompt_sets(settings)
    return {
        name: Study(
            run_seed=settings.seed,
            condition=arm.condition,
            turns=arm.turns,
            tag=settings.tag,
            hatch=arm.hatch,
            system=arm.system,
            probe=arm.probe,
            prompts=tuple(sets[name]),
        )
        for name, arm in settings.arms.items()
    }


def make_engine(settings: RolloutSettings, core: int | None = None) -> Engine:
    """The engine that the settings ask for; light, nothing is loaded before its start()."""
    model, engine = settings.model, settings.engine
    adapters = {name: str(arm.adapter) if arm.adapter else None for name, arm in settings.arms.items()}
    if engine.kind == "vllm":
        from placid.engine.vllm import VllmEngine

        return VllmEngine(engine, model, tuple(path for path in adapters.values() if path), core)
    if engine.kind == "http":
        from placid.engine.http import HttpEngine

        return HttpEngine(engine, model, tuple(path for path in adapters.values() if path))
    if engine.kind == "simulate":
        from placid.engine.simulate import SimulateEngine

        known = {p.text: p.answers for prompts in prompt_sets(settings).values() for p in prompts}
        return SimulateEngine(engine, model, known)
    from placid.engine.replay import ReplayEngine

    if engine.recorded is None:
        raise BadInputError(
            "engine.kind = 'replay' needs engine.recorded, the run directory whose replies are given again"
        )
    return ReplayEngine(engine, model, RunDir(engine.recorded).turns(), adapters)


def writer_names(run_dir: RunDir, attempt: Path, count: int) -> list[str]:
    """Segment names <attempt>-w<k> that no file has yet: one attempt may hold several rollouts."""
    taken = [int(p.stem.rpartition("-w")[2]) for p in (run_dir.path / "conversations").glob(f"{attempt.name}-w*.jsonl")]
    first = max(taken, default=-1) + 1
    return [f"{attempt.name}-w{first + k}" for k in range(count)]


def make_worker(settings: RolloutSettings, run_dir: RunDir, writer: str, core: int | None = None) -> Worker:
    """A worker with its engine, its scripts and the segment `writer`."""
    return Worker(
        settings, make_engine(settings, core), Renderer(settings.model), run_dir.segment(writer), scripts(settings)
    )


async def _inline(
    settings: RolloutSettings, run_dir: RunDir, attempt: Path, todo: list[Conversation], status: Status
) -> Totals:
    """One worker in this process."""
    worker = make_worker(settings, run_dir, writer_names(run_dir, attempt, 1)[0])
    held = asyncio.create_task(worker.run(todo))
    while not held.done():
        status.update([worker.totals], worker.engine.name, worker.engine.version, [])
        await asyncio.wait({held}, timeout=status.INTERVAL_S)
    status.update([worker.totals], worker.engine.name, worker.engine.version, [])
    return held.result()
