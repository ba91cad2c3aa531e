"""What follows from the settings of a rollout alone: its conversations, its scripts, its engines and workers."""

import itertools
from collections.abc import Iterator
from pathlib import Path

import msgspec

from placid.engine import Engine
from placid.inputs.prompts import read_prompts
from placid.protocol.hatch import condition_name
from placid.protocol.script import Script, Study
from placid.records import BadInputError, Conversation, Key, Prompt, Turn
from placid.render import Renderer
from placid.rollout.settings import RolloutSettings
from placid.rollout.worker import Worker
from placid.store import Index, RunDir


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


def missing(settings: RolloutSettings, index: Index) -> int:
    """How many conversations are not over; nothing of them is read. Of a branching arm that has none yet, one."""
    turns_of = {name: arm.turns for name, arm in settings.arms.items()}
    branching = {name for name, arm in settings.arms.items() if arm.branch}
    begun = [key for key in index if key.arm in branching]
    keys = [*(conversation.key for conversation in plan(settings)), *begun]
    unborn = branching - {key.arm for key in begun}
    return sum(not index.ended(key, turns_of[key.arm]) for key in keys) + len(unborn)


def unfinished(settings: RolloutSettings, index: Index) -> list[Conversation]:
    """The conversations without an end, with the turns that are already on disk: the planned ones and the branches."""
    prompts = {prompt.id: prompt for prompt in all_prompts(settings)}
    turns_of = {name: arm.turns for name, arm in settings.arms.items()}
    planned = [c for c in plan(settings) if not index.ended(c.key, turns_of[c.key.arm])]
    branching = {name for name, arm in settings.arms.items() if arm.branch}
    begun = [c.key for c in planned if c.key in index]
    begun += [
        key
        for key in index
        if key.arm in branching and key.prompt_id in prompts and not index.ended(key, turns_of[key.arm])
    ]
    stored = {
        key: Conversation(key=key, prompt=prompts[key.prompt_id], turns=_reopened(turns))
        for key, turns in zip(begun, index.walk(begun), strict=True)
    }
    return [*(stored.pop(c.key, c) for c in planned), *stored.values()]


def _reopened(turns: tuple[Turn, ...]) -> tuple[Turn, ...]:
    """The turns of a conversation that goes on: one that ended at a former limit has no end any more."""
    return (*turns[:-1], msgspec.structs.replace(turns[-1], end=None))


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
            probe_at=arm.probe_at,
            prompts=tuple(sets[name]),
        )
        for name, arm in settings.arms.items()
    }


def make_engine(settings: RolloutSettings, core: int | None = None, run_dir: RunDir | None = None) -> Engine:
    """The engine that the settings ask for; light, nothing is loaded before its start().

    run_dir: whose replies a served model must go on with, by its name; None: any.
    """
    model, engine = settings.model, settings.engine
    adapters = {name: str(arm.adapter) if arm.adapter else None for name, arm in settings.arms.items()}
    if engine.kind == "vllm":
        from placid.engine.vllm import VllmEngine

        return VllmEngine(engine, model, tuple(path for path in adapters.values() if path), core)
    if engine.kind == "http":
        from placid.engine.http import HttpEngine

        served = run_dir.path / "served.json" if run_dir else None
        return HttpEngine(engine, model, tuple(path for path in adapters.values() if path), served)
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


def writer_names(run_dir: RunDir, attempt: Path) -> Iterator[str]:
    """Segment names <attempt>-w<n> that no file has yet: one attempt may hold several rollouts and replace workers."""
    taken = [int(p.stem.rpartition("-w")[2]) for p in (run_dir.path / "conversations").glob(f"{attempt.name}-w*.jsonl")]
    for number in itertools.count(max(taken, default=-1) + 1):
        yield f"{attempt.name}-w{number}"


def make_worker(settings: RolloutSettings, run_dir: RunDir, writer: str, core: int | None = None) -> Worker:
    """A worker with its engine, its scripts and the segment `writer`."""
    return Worker(
        settings,
        make_engine(settings, core, run_dir),
        Renderer(settings.model),
        run_dir.segment(writer),
        scripts(settings),
    )
