"""One rank of a training run: `python -m placid.train.worker job.json`, alone or below torch.distributed.run."""

import json
import logging
import os
import shutil
import sys
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import torch

os.environ.setdefault("DS_ACCELERATOR", "cuda" if torch.cuda.is_available() else "cpu")  # read at DeepSpeed's import

import deepspeed
import deepspeed.ops

import placid
from placid import store
from placid.config import build as build_settings
from placid.config import canonical
from placid.records import Pair
from placid.render import Rendered, Renderer
from placid.train import data, model, probe
from placid.train.settings import TrainSettings

log = logging.getLogger("placid.train")


class Job(NamedTuple):
    """What launch() hands to the ranks."""

    settings: TrainSettings
    pairs: Path
    out: Path
    identity: str
    hashes: dict[str, str]


class Ranks(NamedTuple):
    """This process among the others."""

    rank: int
    processes: int
    device: torch.device


def read_job(path: Path) -> Job:
    """The job file that launch() wrote."""
    job = json.loads(path.read_text())
    settings = build_settings(TrainSettings, job["settings"], str(path))
    return Job(settings, Path(job["pairs"]), Path(job["out"]), job["identity"], job["hashes"])


def join() -> Ranks:
    """Meet the other ranks (environment of torch.distributed.run); alone, no port is opened."""
    rank, count = int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))
    cuda = os.environ["DS_ACCELERATOR"] == "cuda"
    device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0"))) if cuda else torch.device("cpu")
    if cuda:
        torch.cuda.set_device(device)
    # A C++ extension that only DeepSpeed's CPU *inference* all-reduce uses; building it would cost 45 s at first use.
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    backend = "nccl" if cuda else "gloo"
    if count == 1:
        os.environ.setdefault("LOCAL_RANK", "0")  # DeepSpeed insists on it
        store_here = torch.distributed.HashStore()  # pyright: ignore[reportPrivateImportUsage] - public in its docs
        torch.distributed.init_process_group(backend, store=store_here, rank=0, world_size=1)
    deepspeed.init_distributed(dist_backend=backend, auto_mpi_discovery=False, verbose=False)
    return Ranks(rank, count, device)


def deepspeed_config(settings: TrainSettings) -> dict[str, Any]:
    """DeepSpeed's own configuration; the real rows per rank come from the plan, so its batch numbers are nominal."""
    return {
        "train_micro_batch_size_per_gpu": 1,
        "gradient_accumulation_steps": settings.accumulate,
        "gradient_clipping": settings.grad_clip,
        "bf16": {"enabled": settings.dtype == "bfloat16"},
        "zero_optimization": {"stage": settings.zero},
        "zero_allow_untested_optimizer": True,
        "zero_force_ds_cpu_optimizer": False,
        "steps_per_print": 1_000_000_000,
    }


def start(settings: TrainSettings, steps: int) -> tuple[Any, model.Learner]:
    """DeepSpeed's engine around the learner."""
    config = deepspeed_config(settings)
    keep = None
    if settings.zero == 3:
        from transformers.integrations.deepspeed import HfDeepSpeedConfig

        keep = HfDeepSpeedConfig(config)  # alive while the model loads: weights are split as they are read
    learner = model.build(settings)
    trained = [parameter for parameter in learner.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=settings.lr, weight_decay=settings.weight_decay)

    def schedule(adam: torch.optim.Optimizer) -> torch.optim.lr_scheduler.LambdaLR:
        return torch.optim.lr_scheduler.LambdaLR(adam, lambda step: data.learning_rate(step, steps, settings.warmup))

    engine, *_ = deepspeed.initialize(
        model=learner,
        model_parameters=trained,  # type: ignore[arg-type]
        optimizer=optimizer,
        lr_scheduler=schedule,  # pyright: ignore[reportArgumentType] - its hint names torch's old base class
        config=config,
    )
    del keep
    return engine, learner


def train(engine: Any, steps: list[data.Step], rows: list[Rendered], ranks: Ranks) -> list[str]:  # noqa: ANN401
    """Run all steps; lines of loss.csv. The loss is the mean over all learned tokens of the step, on all ranks."""
    lines = ["step,loss,lr,tokens"]
    engine.train()
    started, seen = time.monotonic(), 0
    for number, step in enumerate(steps, 1):
        total = torch.zeros((), device=ranks.device)
        rate = engine.optimizer.param_groups[0]["lr"]
        for chunk in step.batches:
            mine = data.share(chunk, ranks.rank, ranks.processes)
            batch = model.collate([rows[row] for row in mine] or [rows[0]], ranks.device)
            loss = engine(*batch) * (1.0 if mine else 0.0)  # an idle rank still takes part in the collectives
            # DeepSpeed divides by both: the gradient becomes that of (sum over all ranks) / learned
            engine.backward(loss * (len(step.batches) * ranks.processes / step.learned))
            engine.step()
            total += loss.detach()
        torch.distributed.all_reduce(total)
        seen += step.tokens
        mean = total.item() / step.learned
        lines.append(f"{number},{mean:.6f},{rate:.8g},{step.tokens}")
        if ranks.rank == 0 and (number % 10 == 0 or number == len(steps)):
            log.info(
                "step %d/%d loss %.4f, %.0f tokens/s", number, len(steps), mean, seen / (time.monotonic() - started)
            )
    return lines


def publish(
    job: Job, learner: model.Learner, state: dict[str, Any], facts: dict[str, Any], ids: list[list[int]]
) -> None:
    """Write the step folder under a temporary name, check it by its probe, then rename it. Rank 0 only."""
    final = job.out / f"step_{facts['steps']}"
    folder = job.out / f".{final.name}.tmp"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    model.export(learner, state, folder, job.settings)
    (folder / "loss.csv").write_text("\n".join(facts.pop("loss")) + "\n")
    # ZeRO-3's configuration is gone by now, so these are ordinary models
    store.write_json(folder / "probe.json", probe.measure(job.settings.model, folder, ids, job.settings.method))
    store.write_json(folder / "manifest.json", facts)
    if final.exists():  # an older run with other settings
        shutil.rmtree(final)
    folder.rename(final)
    log.info("wrote %s", final)


def main(path: str) -> None:
    """Train and, on rank 0, publish."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s %(message)s", force=True)
    logging.getLogger("DeepSpeed").setLevel(logging.WARNING)
    began = time.monotonic()
    job, ranks = read_job(Path(path)), join()
    renderer = Renderer(job.settings.model)
    pairs = list(store.read_lines(job.pairs, Pair))
    rows, dropped = data.encode(renderer, pairs, job.settings.max_tokens)
    s = job.settings
    steps = data.plan(rows, s.batch, s.accumulate, s.epochs, s.seed)
    engine, learner = start(s, len(steps))
    ready = time.monotonic()
    if ranks.rank == 0:
        log.info("%d rows (%d too long), %d steps, ready after %.1f s", len(rows), dropped, len(steps), ready - began)
    lines = train(engine, steps, rows, ranks)
    trained = time.monotonic()
    state = model.weights(learner, s.zero)
    if ranks.rank == 0:
        losses = [float(line.split(",")[1]) for line in lines[1:]]
        tokens = sum(step.tokens for step in steps)
        facts = {
            "schema": 1,
            "identity": job.identity,
            "config": canonical(s),
            "hashes": job.hashes,
            "steps": len(steps),
            "rows": len(rows),
            "rows_too_long": dropped,
            "tokens": tokens,
            "tokens_learned": sum(step.learned for step in steps),
            "loss_first": losses[0],
            "loss_last": losses[-1],
            "seconds": {"start": round(ready - began, 2), "train": round(trained - ready, 2)},
            "tokens_per_second": round(tokens / (trained - ready), 1),
            "versions": {name: version(name) for name in ("torch", "deepspeed", "peft", "transformers")}
            | {"placid": placid.__version__},
            "loss": lines,
        }
        publish(job, learner, state, facts, probe.choose(renderer, pairs))
    torch.distributed.barrier()
    torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main(sys.argv[1])
