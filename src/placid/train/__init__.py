"""Pairs → checkpoint: DeepSpeed, LoRA or full, loss on target tokens only; export with a probe for the engine's gate.

    <out>/step_<n>/{manifest.json,loss.csv,probe.json,README.md,adapter_model.safetensors,adapter_config.json | a model}
    <out>/{status.json,metrics.jsonl}     how far it is (progress.py)
    <out>/resume/step_<n>/                what a killed or paused training goes on from (checkpoint.py)

This file stays light: torch and DeepSpeed are imported by the ranks alone.
"""

import json
import logging
import os
import shlex
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec

from placid import store
from placid.checkpoint_files import weight_files
from placid.cluster import children
from placid.config import canonical, difference, file_sha, sha
from placid.environment import without_launcher
from placid.records import BadInputError, PausedError
from placid.train.settings import LoraSettings, TrainSettings

__all__ = ["LoraSettings", "TrainError", "TrainSettings", "check", "essential", "finished", "launch"]

log = logging.getLogger(__name__)

LOG_EVERY_S = 30.0
"""One progress line in this many seconds where there is no terminal."""


class TrainError(RuntimeError):
    """The ranks failed; the message ends with the last lines of their log."""


def launch(settings: TrainSettings, pairs_file: Path, out: Path, log: Path, val: Path | None = None) -> Path:
    """Train on the rows of `pairs_file` in `settings.processes` ranks; the finished step folder below `out`.

    val: rows that are not trained on; the loss on them is told before the first step and after the last one.

    Returns at once if `out` already holds the result of the same settings, rows and base weights, and goes on from the
    newest checkpoint of an unfinished one, whatever its number of processes was. On USR1 or TERM all ranks agree on a
    step boundary, save and stop. The ranks' output is appended to `log`.

    Raises:
        BadInputError: rows or a base that cannot be trained on; another process trains in `out`, or it holds an
            unfinished training of something else.
        PausedError: it was asked to stop and can go on.
        TrainError: a rank failed, or the loss became no number.
    """
    check(settings)
    hashes = _hashes(settings, pairs_file)
    identity = _identity(settings, hashes)
    _end_former(out)
    done = finished(out, identity)
    if done:
        if _saved(out).get("identity") == identity:  # killed between its last two file operations
            shutil.rmtree(out / "resume")
        return done
    _may_go_on(out, settings, identity, hashes)
    job = out / "job.json"
    paths = {"pairs": str(pairs_file.resolve()), "out": str(out.resolve()), "val": str(val.resolve()) if val else None}
    owner = msgspec.to_builtins(children.keep())
    wanted = {"settings": canonical(settings), **paths, "identity": identity, "hashes": hashes, "owner": owner}
    store.write_json(job, wanted)  # from now on ranks of a former launch, on other machines say, can publish nothing
    store.write_json(out / "status.json", {"state": "starting"})
    log.parent.mkdir(parents=True, exist_ok=True)
    meeting = children.scratch()
    command = _command(settings.processes, job, meeting)
    code, asked = _run(command, _environment(settings.processes, meeting), log, out / "status.json")
    done = finished(out, identity)
    if done and asked:  # whoever asked wants all of it to stop, not this training alone
        raise PausedError(f"stopped as asked; the training in {done} is done, the same command goes on after it")
    if done:
        facts = store.read_json(done / "manifest.json")
        for what, key in (("left out", "rows_too_long_by_turn"), ("cut from the left", "rows_cut_by_turn")):
            if facts[key]:
                logging.getLogger(__name__).warning(
                    "train: of %d rows these are longer than max_tokens = %d and were %s: %s",
                    facts["rows"] + facts["rows_too_long"], settings.max_tokens, what, told(facts[key]),
                )  # fmt: skip
        return done
    ended = store.read_json(out / "status.json")
    if ended["state"] == "refused":
        raise BadInputError(ended["sentence"])
    if ended["state"] == "paused":
        raise PausedError(ended["sentence"])
    if ended["state"] == "diverged":
        kept = (
            f"what was saved before it is kept in {out / 'resume'}"
            if (out / "resume").is_dir()
            else "nothing was saved"
        )
        raise TrainError(f"{ended['sentence']} ({kept}; with another recipe it is another run)")
    if asked:  # before the ranks listened: nothing was done that could be lost
        raise PausedError("stopped as asked before the first step; the same command goes on")
    raise TrainError(f"training ended with exit code {code}; the end of {log}:\n{_tail(log)}")


def told(counts: dict[str, int]) -> str:
    """Rows by the turn that their target answers."""
    turns = ", ".join(f"turn {turn}: {number}" for turn, number in counts.items())
    return f"{sum(counts.values())} ({turns})"


def check(settings: TrainSettings) -> None:
    """What can be wrong with a recipe and its base, before anything is written.

    Raises:
        BadInputError: no model, shards without an index, a context shorter than max_tokens, or a loss that the method
            cannot have.
    """
    config = settings.model / "config.json"
    if not config.is_file():
        raise BadInputError(f"no model in {settings.model}; expected a Hugging Face checkpoint folder")
    if any(settings.model.glob("*.safetensors")):  # else they may not be fetched yet
        weight_files(settings.model)
    shape = json.loads(config.read_text(encoding="utf-8"))
    text = shape.get("text_config", shape)
    if text.get("attn_logit_softcapping"):
        raise BadInputError(
            f"{settings.model} caps its attention scores (attn_logit_softcapping, Gemma 2), which training here does "
            "not; train a Gemma 3, a Gemma 4 or a Llama, or leave [train] and [pairs] out"
        )
    context = text.get("max_position_embeddings")
    if context and settings.max_tokens > context:
        raise BadInputError(
            f"max_tokens = {settings.max_tokens}, but {settings.model} reads at most {context} tokens; longer rows are "
            f"dropped, so set max_tokens to {context} or less"
        )
    if settings.method == "full" and settings.loss != "cross_entropy":
        raise BadInputError(
            f"loss = {settings.loss!r} compares with the untrained model, of which method = 'full' keeps no copy; "
            "use method = 'lora', of a high rank if need be"
        )


def _end_former(out: Path) -> None:
    """End what a dead launch in `out` left on this machine.

    Raises:
        BadInputError: it is alive.
    """
    job = out / "job.json"
    owner = store.read_json(job).get("owner") if job.is_file() else None
    if not owner:  # none yet, or of a placid before 2026-12
        return
    former = msgspec.convert(owner, children.Group)
    if former == children.keep():  # an earlier training of this process, which has waited for its ranks
        return
    if former.alive():
        raise BadInputError(f"process {former.pid} trains in {out}; stop it first, wait, or choose another folder")
    if former.here():
        children.end(former)


def _may_go_on(out: Path, settings: TrainSettings, identity: str, hashes: dict[str, str]) -> None:
    """Raises BadInputError if `out` holds an unfinished training of other settings, rows or base."""
    old = _saved(out)
    if not old or old["identity"] == identity:
        return
    lines = difference(essential(old["config"]), essential(canonical(settings)))
    lines += [f"the {name} changed" for name in ("model", "pairs") if old["hashes"][name] != hashes[name]]
    raise BadInputError(
        f"{out} holds an unfinished training of something else ({'; '.join(lines)}); it goes on only with the "
        f"same base, rows and recipe: remove {out / 'resume'} or choose another folder"
    )


def _saved(out: Path) -> dict[str, Any]:
    """A manifest of the unfinished training in `out`; all of them are of one training. Empty if there is none."""
    manifest = next((out / "resume").glob("step_*/manifest.json"), None)
    return store.read_json(manifest) if manifest else {}


def finished(out: Path, identity: str) -> Path | None:
    """The step folder of that identity below `out`, if training reached its end."""
    for manifest in sorted(out.glob("step_*/manifest.json")):
        if store.read_json(manifest)["identity"] == identity:
            return manifest.parent
    return None


def _hashes(settings: TrainSettings, pairs_file: Path) -> dict[str, str]:
    if not pairs_file.is_file() or not pairs_file.stat().st_size:
        raise BadInputError(f"no training rows in {pairs_file}; the pairs stage writes them")
    return {"pairs": file_sha(pairs_file), "model": file_sha(settings.model)}


def _identity(settings: TrainSettings, hashes: dict[str, str]) -> str:
    """Same identity, same weights up to rounding: the model counts by content, not by where it lies."""
    return sha([essential(canonical(settings)), hashes])


def essential(config: dict[str, Any]) -> dict[str, Any]:
    """Without what changes only how the weights are computed, saved or told of."""
    free = ("model", "processes", "zero", "recompute", "recompute_mlp", "offload", "save_every", "keep", "track")
    later = {"schedule": "linear", "too_long": "drop"}  # keys that older trainings did not have, and what they did
    return {key: value for key, value in config.items() if key not in free and later.get(key) != value}


def _command(processes: int, job: Path, meeting: Path) -> list[str]:
    """One rank needs no launcher, whose own start costs seconds; in a cluster job PLACID_RANKS starts each rank."""
    if "PLACID_RANKS" in os.environ:
        return [*shlex.split(os.environ["PLACID_RANKS"]), sys.executable, "-m", "placid.train.worker", str(job)]
    many = ["-m", "torch.distributed.run", "--nproc-per-node", str(processes), "--rdzv-backend", "c10d"]
    # by a file in a folder of this user's alone: the port that --standalone opens answers everybody on the network
    many += ["--rdzv-conf", "store_type=file", "--rdzv-endpoint", f"{meeting}/launcher"]
    return [sys.executable, *(many if processes > 1 else ()), "-m", "placid.train.worker", str(job)]


def _environment(processes: int, meeting: Path) -> dict[str, str]:
    """That of the ranks. Of another launcher's variables only those stay by which this job's own ranks meet."""
    own = without_launcher(os.environ)
    if "PLACID_RANKS" in os.environ:
        own |= {name: os.environ[name] for name in ("MASTER_ADDR", "MASTER_PORT") if name in os.environ}
    else:
        own |= {"PLACID_MEETING": f"{meeting}/ranks", "GLOO_SOCKET_IFNAME": "lo", "NCCL_SOCKET_IFNAME": "lo"}
    threads = str(max(1, len(os.sched_getaffinity(0)) // processes))
    fixed = {
        "OMP_NUM_THREADS": threads,
        "HF_HUB_OFFLINE": "1",
        "TOKENIZERS_PARALLELISM": "false",
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
        "PYTHONUNBUFFERED": "1",
    }
    return own | fixed


def _run(command: list[str], environment: dict[str, str], log: Path, status: Path) -> tuple[int, bool]:
    """Exit code of `command`, its output in `log`; and was it asked to stop? Then the ranks save before they end."""
    with log.open("ab") as file:
        # a group of their own: Ctrl-C reaches this process alone, which then asks the ranks to save
        process = subprocess.Popen(command, env=environment, stdout=file, stderr=subprocess.STDOUT, process_group=0)
        with _passed_on(process) as asked:
            try:
                return _watched(process, status), bool(asked)
            except BaseException:
                _ask_ranks(process)
                process.wait()
                raise


def _watched(process: subprocess.Popen[bytes], status: Path) -> int:
    """Its exit code; meanwhile a bar on a terminal, elsewhere a line in LOG_EVERY_S, of what rank 0 wrote last."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    said, columns = time.monotonic(), (BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[loss]}"))
    console = Console(stderr=True)
    with Progress(
        TextColumn("steps"), *columns, TimeRemainingColumn(), console=console, disable=not console.is_terminal
    ) as bar:
        task = bar.add_task("steps", total=None, loss="")
        while True:
            try:
                return process.wait(timeout=1)
            except subprocess.TimeoutExpired:
                known = store.read_json(status)
            if "loss" not in known:  # it has not begun, or it is over and writes its weights
                continue
            bar.update(task, completed=known["step"], total=known["steps"], loss=f"loss {known['loss']:.3f}")
            if bar.disable and time.monotonic() - said > LOG_EVERY_S:
                said = time.monotonic()
                log.info("train: step %d of %d, loss %.3f", known["step"], known["steps"], known["loss"])


@contextmanager
def _passed_on(process: subprocess.Popen[bytes]) -> Iterator[list[int]]:
    """Inside, USR1 and TERM ask the ranks to stop, where this is the thread that gets signals; those that came."""
    asked: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield asked
        return

    def pass_on(number: int, _frame: object) -> None:
        asked.append(number)
        _ask_ranks(process)

    chosen = (signal.SIGUSR1, signal.SIGTERM)
    before = [signal.signal(number, pass_on) for number in chosen]
    try:
        yield asked
    finally:
        for number, handler in zip(chosen, before, strict=True):
            signal.signal(number, handler)


def _ask_ranks(process: subprocess.Popen[bytes]) -> None:
    """USR1 to every rank, past torch.distributed.run: that would kill them after 30 s. srun hands it on by itself."""
    import psutil

    if "PLACID_RANKS" in os.environ:
        process.send_signal(signal.SIGUSR1)
        return
    try:
        top = psutil.Process(process.pid)
        below = [top, *top.children(recursive=True)]
        ranks = [
            p for p in below if "placid.train.worker" in p.cmdline() and "torch.distributed.run" not in p.cmdline()
        ]
        for rank in ranks:
            rank.send_signal(signal.SIGUSR1)
    except psutil.NoSuchProcess:  # ended by itself in the meantime
        return


def _tail(log: Path) -> str:
    return "\n".join(log.read_text(encoding="utf-8", errors="replace").splitlines()[-30:])
