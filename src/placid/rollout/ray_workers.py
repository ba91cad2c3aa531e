"""Workers as Ray actors, one engine each: on this machine, or on a Ray cluster that is joined by its address.

An actor lives on one node and so do all GPUs that it holds, hence tensor parallel engines need no placement group: one
actor asks for as many GPUs as its engine has ranks. The driver only leases and watches; it writes no data.
"""

import asyncio
import contextlib
import logging
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec

from placid.cluster import children
from placid.cluster.own_ray import seat
from placid.records import BadInputError, Conversation
from placid.rollout.attempts import LEASE_S, Status
from placid.rollout.chatter import divert
from placid.rollout.coordinator import Coordinator, WorkerLostError
from placid.rollout.planned import make_worker, writer_names
from placid.rollout.settings import RolloutSettings
from placid.rollout.worker import Report
from placid.store import RunDir

log = logging.getLogger(__name__)

ENGINE_LOG = "engine.log"
"""In attempts/<n>/: what the engines and their child processes print, and what placid logs inside them."""
ANSWER_S = 120.0
"""A worker that does not answer for so long is taken for lost (its reports come twice a second)."""


class Actor:
    """One worker in its own process."""

    def __init__(self, settings: dict[str, Any], run_dir: str, writer: str, core: int | None) -> None:
        self._group = children.keep()  # a killed actor leaves no engine, under a Ray of the cluster's too
        divert(Path(run_dir) / "attempts" / writer.partition("-w")[0] / ENGINE_LOG)
        RunDir(Path(run_dir)).freeze_date()  # a cluster that was joined has another environment
        logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
        self._args = RolloutSettings.model_validate(settings), RunDir(Path(run_dir)), writer, core
        self._heard = time.monotonic()

    async def where(self) -> children.Group:
        """This process and its engine's."""
        return self._group

    async def start(self) -> tuple[str, str]:
        """Load the engine; its name and version."""
        self._worker = make_worker(*self._args)
        await self._worker.start()
        self._heard = time.monotonic()
        self._fence = asyncio.create_task(self._end_when_forgotten())
        return self._worker.engine.name, self._worker.engine.version

    async def work(self, batch: bytes, more: bool, give_back: int, drain: bool, one_turn: bool) -> bytes:
        """Worker.work with conversations and report as msgpack."""
        self._heard = time.monotonic()
        told = msgspec.msgpack.decode(batch, type=list[Conversation])
        return msgspec.msgpack.encode(await self._worker.work(told, more, give_back, drain, one_turn))

    async def close(self) -> None:
        """End the engine and the segment in order."""
        self._fence.cancel()
        await self._worker.close()

    async def _end_when_forgotten(self) -> None:
        while time.monotonic() - self._heard < LEASE_S:
            await asyncio.sleep(1)
        os._exit(1)


class RayHandle:
    """A worker in an actor, seen from the driver."""

    def __init__(self, actor: Any, segment: Path, status: Status) -> None:  # noqa: ANN401 - Ray's
        """status: hears of the process before it writes anything."""
        self.segment, self._actor, self._status = segment, actor, status
        self._group: children.Group | None = None
        self._fed = False
        """Whether it was ever given a conversation; before, it has nothing to write."""
        self._heard = time.monotonic()

    async def start(self) -> tuple[str, str]:
        """Raises WorkerLostError, or what the engine raised."""
        group: children.Group = await self._value(self._actor.where.remote(), None)
        self._group = group
        if group.here():
            self._status.worker(group)
        else:
            self._status.elsewhere()
        return await self._value(self._actor.start.remote(), None)

    async def work(self, batch: list[Conversation], more: bool, give_back: int, drain: bool, one_turn: bool) -> Report:
        """Raises WorkerLostError, or what the worker raised."""
        told = msgspec.msgpack.encode(batch)
        self._fed = self._fed or bool(batch)
        report = await self._value(self._actor.work.remote(told, more, give_back, drain, one_turn), ANSWER_S)
        self._heard = time.monotonic()
        return msgspec.msgpack.decode(report, type=Report)

    async def close(self) -> None:
        """Raises WorkerLostError."""
        await self._value(self._actor.close.remote(), ANSWER_S)

    async def kill(self) -> None:
        """On this host the process is gone when this returns; elsewhere its lease has run out, if it had any."""
        import ray

        with contextlib.suppress(ValueError):  # Ray has forgotten it already
            ray.kill(self._actor)
        if self._group and self._group.here():
            await asyncio.to_thread(children.end, self._group)
        elif self._group and self._fed:
            await asyncio.sleep(max(0.0, self._heard + LEASE_S + 5 - time.monotonic()))

    async def _value(self, reference: Any, timeout_s: float | None) -> Any:  # noqa: ANN401 - an ObjectRef's value
        """Await one reference, with Ray's errors turned into ours."""
        import ray.exceptions

        try:
            return await asyncio.wait_for(_awaited(reference), timeout_s)
        except ray.exceptions.RayTaskError as error:
            if isinstance(error.cause, Exception):
                raise error.cause from None
            raise
        except (
            ray.exceptions.RayActorError,
            ray.exceptions.RaySystemError,
            ray.exceptions.OutOfMemoryError,  # by the memory monitor of a Ray that was joined
            ray.exceptions.WorkerCrashedError,
            TimeoutError,
        ) as error:
            raise WorkerLostError(f"{type(error).__name__}: {str(error).strip().splitlines()[:1]}") from None


async def _awaited(reference: Any) -> Any:  # noqa: ANN401 - an ObjectRef's value
    return await reference


async def hold(
    settings: RolloutSettings, run_dir: RunDir, attempt: Path, coordinator: Coordinator, status: Status
) -> None:
    """Start or join Ray and serve the coordinator's slots with actors; what Ray started here is stopped afterwards."""
    with seat(settings.ray_address, len(coordinator.slots)):
        coordinator.limit(_engines_that_fit(settings, len(coordinator.slots)))
        await coordinator.run(_launcher(settings, run_dir, attempt, len(coordinator.slots), status))


def _gpus(settings: RolloutSettings) -> int:
    """GPUs of one engine."""
    import ray

    needs = settings.engine.kind == "vllm" and ray.cluster_resources().get("GPU")
    return settings.engine.tensor_parallel if needs else 0


def _engines_that_fit(settings: RolloutSettings, wanted: int) -> int:
    """How many of `wanted` engines the cluster can hold now; says what there is and what is taken of it.

    Raises:
        BadInputError: no node can hold one.
    """
    import ray

    gpus = _gpus(settings)
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    per_node = [int(has.get("GPU", 0) // gpus if gpus else has.get("CPU", 0)) for has in nodes]
    chosen = min(wanted, sum(per_node))
    if not chosen:
        raise BadInputError(f"no node of the cluster has the {gpus or 1} {'GPU' if gpus else 'core'}s of one engine")
    log.log(
        logging.INFO if chosen == wanted else logging.WARNING,
        "rollout: %d node(s) with %s and %d GPUs in all; %d engine(s) of %d wanted, each with %s",
        len(nodes), f"{sum(int(has.get('CPU', 0)) for has in nodes)} cores",
        sum(int(has.get("GPU", 0)) for has in nodes), chosen, wanted, f"{gpus} GPU(s)" if gpus else "one core",
    )  # fmt: skip
    return chosen


def _launcher(
    settings: RolloutSettings, run_dir: RunDir, attempt: Path, count: int, status: Status
) -> Callable[[int], RayHandle]:
    """Slot number → a new actor."""
    import ray

    gpus = _gpus(settings)
    decorate: Any = ray.remote  # its overloads know no keyword form
    # "SPREAD": engines on all nodes; several methods at a time, because start() and work() take their time
    make = decorate(num_cpus=1, num_gpus=gpus, max_concurrency=8, max_restarts=0, scheduling_strategy="SPREAD")(Actor)
    dump, cores = settings.model_dump(mode="json"), cores_for(count) if settings.ray_address is None else [None] * count

    names = writer_names(run_dir, attempt)

    def launch(slot: int) -> RayHandle:
        writer = next(names)
        actor = make.remote(dump, str(run_dir.path.absolute()), writer, cores[slot])
        return RayHandle(actor, run_dir.path / "conversations" / f"{writer}.jsonl", status)

    return launch


def cores_for(count: int) -> list[int | None]:
    """One core per engine where there are enough; a single engine is left to the operating system."""
    cores = sorted(os.sched_getaffinity(0))
    return [None] * count if count == 1 or count > len(cores) else list(cores[:count])
