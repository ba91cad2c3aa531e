"""One rank of a training run: `python -m placid.train.worker job.json`, alone or below torch.distributed.run."""

import hashlib
import json
import logging
import math
import os
import shutil
import signal
import socket
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
from placid.cluster import children
from placid.config import build as build_settings
from placid.config import canonical
from placid.records import BadInputError, Pair, PausedError
from placid.render import Renderer
from placid.train import card, checkpoint, data, losses, model, planner, probe
from placid.train.progress import Progress, flops_per_token
from placid.train.settings import TrainSettings

log = logging.getLogger("placid.train")
RESUME = "resume"
"""Below a run's folder: the checkpoints that it goes on from."""
VAL_ROWS = 64
"""Rows of the validation loss: a few steps' time, and on a GPU once a kernel without gradients is compiled."""


class DivergedError(Exception):
    """The loss or the gradient is no number."""


class Job(NamedTuple):
    """What launch() hands to the ranks."""

    settings: TrainSettings
    pairs: Path
    out: Path
    identity: str
    hashes: dict[str, str]
    val: Path | None = None


class Ranks(NamedTuple):
    """This process among the others."""

    rank: int
    processes: int
    device: torch.device


def read_job(path: Path) -> Job:
    """The job file that launch() wrote."""
    job = store.read_json(path)
    settings = build_settings(TrainSettings, job["settings"], str(path))
    val = Path(job["val"]) if job["val"] else None
    return Job(settings, Path(job["pairs"]), Path(job["out"]), job["identity"], job["hashes"], val)


def check_owner(out: Path) -> None:
    """Leave at once if another launch has taken `out`: what this one has made is not to be seen there any more."""
    if not children.owned(out / "job.json"):
        raise SystemExit(f"{out} was taken by another launch; this one ends and publishes nothing")


def meeting(rank: int, count: int) -> Any:  # noqa: ANN401 - a torch.distributed.Store
    """Where ranks meet: alone in memory, on one machine in PLACID_MEETING, a file in a folder of this user's alone.

    In a cluster job it is a port of rank 0, at MASTER_ADDR only (torch's own listens on every address of the node).
    """
    from torch.distributed import FileStore, HashStore, TCPStore  # pyright: ignore[reportPrivateImportUsage] - public

    if count == 1:
        return HashStore()
    if "PLACID_MEETING" in os.environ:
        return FileStore(os.environ["PLACID_MEETING"], count)
    host, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    if rank:
        return TCPStore(host, port, count, is_master=False)
    listener = socket.create_server((host, port), backlog=2048)
    return TCPStore(host, port, count, is_master=True, master_listen_fd=listener.detach(), use_libuv=False)


def join() -> Ranks:
    """Meet the other ranks (environment of torch.distributed.run or of cluster/rank.py)."""
    rank, count = int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))
    cuda = os.environ["DS_ACCELERATOR"] == "cuda"
    device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0"))) if cuda else torch.device("cpu")
    if cuda:
        torch.cuda.set_device(device)
    # A C++ extension that only DeepSpeed's CPU *inference* all-reduce uses; building it would cost 45 s at first use.
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    backend = "nccl" if cuda else "gloo"
    os.environ.setdefault("LOCAL_RANK", "0")  # DeepSpeed insists on it
    torch.distributed.init_process_group(backend, store=meeting(rank, count), rank=rank, world_size=count)
    deepspeed.init_distributed(dist_backend=backend, auto_mpi_discovery=False, verbose=False)
    return Ranks(rank, count, device)


def deepspeed_config(settings: TrainSettings) -> dict[str, Any]:
    """DeepSpeed's own configuration; the real rows per rank come from the plan, so its batch numbers are nominal."""
    zero: dict[str, Any] = {"stage": settings.zero}
    if settings.offload:
        zero["offload_optimizer"] = {"device": "cpu"}
    return {
        "train_micro_batch_size_per_gpu": 1,
        "gradient_accumulation_steps": settings.accumulate,
        "gradient_clipping": settings.grad_clip,
        "bf16": {"enabled": settings.dtype == "bfloat16"},
        "zero_optimization": zero,
        "zero_allow_untested_optimizer": True,
        "zero_force_ds_cpu_optimizer": False,
        "steps_per_print": 1_000_000_000,
    }


def start(settings: TrainSettings) -> tuple[Any, model.Learner]:
    """The learner, and DeepSpeed's engine around it."""
    keep = None
    if settings.recompute is None and settings.dtype == "bfloat16" and torch.cuda.is_available():
        memory = torch.cuda.get_device_properties(0).total_memory
        settings = planner.at_hand(settings, torch.distributed.get_world_size(), memory)
        log.info(
            "recompute %s of the layers and the MLPs of %s of the others", settings.recompute, settings.recompute_mlp
        )
    if settings.zero == 3:
        from transformers.integrations.deepspeed import HfDeepSpeedConfig

        # alive while the model loads: weights are split as they are read
        keep = HfDeepSpeedConfig(deepspeed_config(settings))
    learner = model.build(settings)
    engine = around(learner, settings)
    del keep
    return engine, learner


def around(learner: model.Learner, settings: TrainSettings) -> Any:  # noqa: ANN401 - a DeepSpeedEngine
    """DeepSpeed's engine around a learner that exists already."""
    trained = [parameter for parameter in learner.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=settings.lr, weight_decay=settings.weight_decay)
    engine, *_ = deepspeed.initialize(
        model=learner,
        model_parameters=trained,  # type: ignore[arg-type]
        optimizer=optimizer,
        config=deepspeed_config(settings),
    )
    return engine


class Trainer:
    """One rank's part of the loop: examples and plan in, steps done, state saved."""

    def __init__(self, job: Job, ranks: Ranks) -> None:
        """Reads and plans; every rank gets the same plan.

        Raises:
            BadInputError: rows that cannot be trained on.
        """
        self.job, self.ranks, s = job, ranks, job.settings
        self.renderer = Renderer(s.model)
        self.pairs = list(store.read_lines(job.pairs, Pair))
        loss = losses.of(s)
        self.encoded = data.encode(loss, self.renderer, self.pairs, s.max_tokens, s.too_long)
        self.examples = self.encoded.examples
        self.steps = data.plan(loss, self.examples, s.batch * s.accumulate, s.epochs, s.seed, s.share_prefixes)
        self.val = self._val(loss)
        self.stop = False
        check_owner(job.out)
        for name in (signal.SIGUSR1, signal.SIGTERM):
            signal.signal(name, self._asked)
        self.micro = s.micro_batches(ranks.processes)
        if torch.cuda.is_available():  # whose memory the planner has counted out
            self.micro = data.micro_batches(
                self.examples, self.steps, ranks.processes, self.micro, s.max_tokens, s.share_prefixes
            )
        self.validating_s = 0.0
        self.engine, self.learner = start(s.model_copy(update={"accumulate": self.micro}))
        found = checkpoint.latest(job.out / RESUME)
        self.done = checkpoint.restore(self.engine, self.learner, found[0]) if found else 0
        self.progress = self._progress() if ranks.rank == 0 else None

    def _val(self, loss: losses.Loss) -> list[data.Example]:
        """Rows that are not trained on, at most VAL_ROWS of those that fit; none where none are given."""
        file, s = self.job.val, self.job.settings
        pairs = list(store.read_lines(file, Pair)) if file and file.is_file() else []
        try:
            return data.sample(data.encode(loss, self.renderer, pairs, s.max_tokens, s.too_long).examples, VAL_ROWS)
        except BadInputError:  # none fits
            return []

    def _asked(self, *_: object) -> None:
        self.stop = True

    def _progress(self) -> Progress:
        counts = [(getattr(p, "ds_numel", p.numel()), p.requires_grad) for p in self.learner.parameters()]
        total, trained = sum(n for n, _ in counts), sum(n for n, yes in counts if yes)
        flops = flops_per_token(total, trained)
        return Progress(self.job.out, self.job.settings, len(self.steps), self.done, flops, self.ranks.processes)

    def run(self) -> None:
        """All steps that are left.

        Raises:
            PausedError: asked to stop; the state is saved.
            DivergedError: a loss is no number; what was saved before stays.
        """
        s = self.job.settings
        if not self.done:
            self._validate(0)
        self.engine.train()
        for number in range(self.done + 1, len(self.steps) + 1):
            loss, norm, stop = self._step(number)
            step = self.steps[number - 1]
            if not math.isfinite(loss) or not math.isfinite(norm):
                raise DivergedError(
                    f"step {number}: the loss is {loss} and the gradient's norm {norm}; lower lr = {s.lr:g} or look at "
                    f"the {len(step.rows)} rows of this step"
                )
            last = number == len(self.steps)
            if self.progress:
                computed = data.size([self.examples[n] for n in step.rows], s.share_prefixes)
                facts = self.progress.step(number, loss, norm, self._rate(number), step.tokens, computed)
                if number % 10 == 0 or last:
                    rate = facts["tokens_per_second"]
                    log.info("step %d/%d loss %.4f, %.0f tokens/s", number, len(self.steps), loss, rate)
            if not last and (stop or (s.save_every and number % s.save_every == 0)):
                self._save(number)
            if stop and not last:
                raise PausedError(
                    f"stopped as asked after step {number} of {len(self.steps)}; the same command goes on"
                )
        self._validate(len(self.steps))

    def _validate(self, number: int) -> None:
        """Tell the loss of the validation rows after step `number`; nothing is learned."""
        if not self.val:
            return
        s, ranks, began = self.job.settings, self.ranks, time.monotonic()
        self.engine.eval()
        total = torch.zeros(1, device=ranks.device, dtype=torch.float64)
        steps = data.plan(self.learner.loss, self.val, s.batch * s.accumulate, 1, s.seed, s.share_prefixes)
        with torch.no_grad():
            for step in steps:
                packs = data.spread(self.val, step, self.micro * ranks.processes, s.share_prefixes)
                for mine in packs[ranks.rank :: ranks.processes]:
                    taken = [self.val[n] for n in mine] or [self.val[step.rows[0]]]  # ZeRO 3 needs every rank
                    total += self.engine(taken) * bool(mine)
        torch.distributed.all_reduce(total)
        self.validating_s += time.monotonic() - began
        if self.progress:
            self.progress.validated(number, total.item() / sum(step.learned for step in steps))

    def _rate(self, number: int) -> float:
        s = self.job.settings
        return s.lr * data.learning_rate(number - 1, len(self.steps), s.warmup, s.schedule)

    def _step(self, number: int) -> tuple[float, float, bool]:
        """Optimizer step `number`: (mean loss of all ranks, gradient norm before clipping, is any rank to stop)."""
        s, ranks, step = self.job.settings, self.ranks, self.steps[number - 1]
        if ranks.rank == 0:  # the others cannot go on without it
            check_owner(self.job.out)
        # every random number of a step (LoRA dropout) follows from (seed, step, rank), so nothing of it is state
        digest = hashlib.sha256(json.dumps([s.seed, number, ranks.rank]).encode()).digest()
        torch.manual_seed(int.from_bytes(digest[:7], "big"))
        for group in self.engine.optimizer.param_groups:
            group["lr"] = self._rate(number)
        total = torch.zeros(2, device=ranks.device, dtype=torch.float64)
        packs = data.spread(self.examples, step, self.micro * ranks.processes, s.share_prefixes)
        norm = 0.0
        for mine in packs[ranks.rank :: ranks.processes]:
            taken = [self.examples[n] for n in mine] or [self.examples[step.rows[0]]]
            loss = self.engine(taken) * (1.0 if mine else 0.0)  # an idle rank still takes part in the collectives
            # DeepSpeed divides by both: the gradient becomes that of (sum over all ranks) / weight of the step
            self.engine.backward(loss * (self.micro * ranks.processes / step.learned))
            norm = self._own_norm()
            self.engine.step()
            total[0] += loss.detach()
        total[1] = float(self.stop)
        torch.distributed.all_reduce(total)
        theirs = self.engine.get_global_grad_norm()
        return total[0].item() / step.learned, float(norm if theirs is None else theirs), bool(total[1].item())

    def _own_norm(self) -> float:
        """The gradient's norm where DeepSpeed keeps none: ZeRO 0 in float32, after the last micro-batch."""
        if self.job.settings.zero or self.job.settings.dtype != "float32":
            return 0.0
        if not self.engine.is_gradient_accumulation_boundary():
            return 0.0
        grads = [p.grad for p in self.learner.parameters() if p.grad is not None]
        return torch.nn.utils.get_total_norm(grads).item()

    def _save(self, number: int) -> None:
        facts = {
            "schema": 1,
            "step": number,
            "identity": self.job.identity,
            "config": canonical(self.job.settings),
            "hashes": self.job.hashes,
            "processes": self.ranks.processes,
        }
        checkpoint.save(
            self.engine, self.learner, self.job.out / RESUME, facts, self.job.settings.keep,
            lambda: check_owner(self.job.out),
        )  # fmt: skip


def publish(trainer: Trainer, state: dict[str, Any], seconds: dict[str, float]) -> Path:
    """Write the step folder under a temporary name, check it by its probe, then rename it. Rank 0 only."""
    job, s = trainer.job, trainer.job.settings
    told = [json.loads(line) for line in trainer.progress.lines] if trainer.progress else []
    lines = [line for line in told if "loss" in line]
    val = {line["step"]: line["val_loss"] for line in told if "val_loss" in line}
    tokens = sum(step.tokens for step in trainer.steps)
    facts = {
        "schema": 1,
        "identity": job.identity,
        "config": canonical(s),
        "hashes": job.hashes,
        "steps": len(trainer.steps),
        "rows": len(trainer.examples),
        "rows_too_long": trainer.encoded.dropped.total(),
        "rows_too_long_by_turn": dict(sorted(trainer.encoded.dropped.items())),
        "rows_cut_by_turn": dict(sorted(trainer.encoded.cut.items())),
        "tokens": tokens,
        "tokens_learned": sum(step.learned for step in trainer.steps),
        "loss_first": lines[0]["loss"],
        "loss_last": lines[-1]["loss"],
        "val_rows": len(trainer.val),
        "val_loss_first": val.get(0),
        "val_loss_last": val.get(len(trainer.steps)),
        "seconds": seconds,
        "tokens_per_second": round(sum(step.tokens for step in trainer.steps[trainer.done :]) / seconds["train"], 1),
        "versions": {name: version(name) for name in ("torch", "deepspeed", "peft", "transformers")}
        | {"placid": placid.__version__},
    }
    final = job.out / f"step_{facts['steps']}"
    folder = job.out / f".{final.name}.tmp"
    for killed in job.out.glob(".step_*.tmp"):
        shutil.rmtree(killed)
    folder.mkdir(parents=True)
    model.export(trainer.learner, state, folder, s)
    curve = [f"{line['step']},{line['loss']},{line['grad_norm']},{line['lr']:.8g},{line['tokens']}" for line in lines]
    (folder / "loss.csv").write_text("\n".join(["step,loss,grad_norm,lr,tokens", *curve]) + "\n", encoding="utf-8")
    (folder / "README.md").write_text(card.text(facts), encoding="utf-8")
    # ZeRO-3's configuration is gone by now, so these are ordinary models
    ids = probe.choose(trainer.renderer, trainer.pairs)
    store.write_json(folder / "probe.json", probe.measure(s.model, folder, ids, s.method), checksum=False)
    store.write_json(folder / "manifest.json", {**facts, "sha256": store.hashes_of(folder)})
    check_owner(job.out)
    checkpoint.discard(final)  # of an older run with other settings
    folder.rename(final)
    shutil.rmtree(job.out / RESUME, ignore_errors=True)
    log.info("wrote %s", final)
    return final


def work(job: Job, ranks: Ranks) -> None:
    """Train and, on rank 0, publish."""
    began = time.monotonic()
    trainer = Trainer(job, ranks)
    ready = time.monotonic()
    if ranks.rank == 0:
        log.info(
            "%d rows (%d more too long, %d cut), %d steps (%d done before), ready after %.1f s",
            len(trainer.examples), trainer.encoded.dropped.total(), trainer.encoded.cut.total(),
            len(trainer.steps), trainer.done, ready - began,
        )  # fmt: skip
    trainer.run()
    validated = trainer.validating_s
    trained = max(time.monotonic() - ready - validated, 0.01)
    seconds = {"start": round(ready - began, 2), "train": round(trained, 2), "validate": round(validated, 2)}
    state = model.weights(trainer.learner, job.settings)
    if trainer.progress:
        folder = publish(trainer, state, seconds)
        trainer.progress.state("done", step=len(trainer.steps), folder=str(folder))
        trainer.progress.close()


def main(path: str) -> None:
    """One rank from start to end; how it ended stands in status.json."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s %(message)s", force=True)
    logging.getLogger("DeepSpeed").setLevel(logging.WARNING)
    job, ranks = read_job(Path(path)), join()
    try:
        work(job, ranks)
    except (PausedError, DivergedError, BadInputError) as end:  # every rank comes to the same end
        states = {PausedError: "paused", DivergedError: "diverged", BadInputError: "refused"}
        if ranks.rank == 0:
            log.info("%s", end)
            store.write_json(job.out / "status.json", {"state": states[type(end)], "sentence": str(end)})
    torch.distributed.barrier()
    torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main(sys.argv[1])
