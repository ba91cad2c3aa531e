"""Pairs → checkpoint: DeepSpeed, LoRA or full, loss on target tokens only; export with a probe for the engine's gate.

    <out>/step_<n>/{manifest.json,loss.csv,probe.json,adapter_model.safetensors,adapter_config.json | a model folder}

This file stays light: torch and DeepSpeed are imported by the ranks alone.
"""

import json
import os
import shlex
import subprocess
import sys
from pathlib import Path

from placid import store
from placid.config import canonical, file_sha, sha
from placid.records import BadInputError
from placid.train.settings import LoraSettings, TrainSettings

__all__ = ["LoraSettings", "TrainError", "TrainSettings", "finished", "launch"]


class TrainError(RuntimeError):
    """The ranks failed; the message ends with the last lines of their log."""


def launch(settings: TrainSettings, pairs_file: Path, out: Path, log: Path) -> Path:
    """Train on the rows of `pairs_file` in `settings.processes` ranks; the finished step folder below `out`.

    Returns at once if `out` already holds the result of the same settings, rows and base weights. The ranks' output
    is appended to `log`.

    Raises:
        BadInputError: no rows, or no base checkpoint.
        TrainError: a rank failed.
    """
    hashes = _hashes(settings, pairs_file)
    identity = _identity(settings, hashes)
    done = finished(out, identity)
    if done:
        return done
    job = out / "job.json"
    paths = {"pairs": str(pairs_file.resolve()), "out": str(out.resolve())}
    store.write_json(job, {"settings": canonical(settings), **paths, "identity": identity, "hashes": hashes})
    log.parent.mkdir(parents=True, exist_ok=True)
    code = _run(_command(settings.processes, job), _environment(settings.processes), log)
    done = finished(out, identity)
    if code or not done:
        raise TrainError(f"training ended with exit code {code}; the end of {log}:\n{_tail(log)}")
    return done


def finished(out: Path, identity: str) -> Path | None:
    """The step folder of that identity below `out`, if training reached its end."""
    for manifest in sorted(out.glob("step_*/manifest.json")):
        if json.loads(manifest.read_text())["identity"] == identity:
            return manifest.parent
    return None


def _hashes(settings: TrainSettings, pairs_file: Path) -> dict[str, str]:
    if not pairs_file.is_file() or not pairs_file.stat().st_size:
        raise BadInputError(f"no training rows in {pairs_file}; the pairs stage writes them")
    if not (settings.model / "config.json").is_file():
        raise BadInputError(f"no model in {settings.model}; expected a Hugging Face checkpoint folder")
    return {"pairs": file_sha(pairs_file), "model": file_sha(settings.model)}


def _identity(settings: TrainSettings, hashes: dict[str, str]) -> str:
    """Same identity, same weights up to rounding: the model counts by content, not by where it lies."""
    config = canonical(settings)
    del config["model"]
    return sha([config, hashes])


def _command(processes: int, job: Path) -> list[str]:
    """One rank needs no launcher, whose own start costs seconds; in a cluster job PLACID_RANKS starts each rank."""
    if "PLACID_RANKS" in os.environ:
        return [*shlex.split(os.environ["PLACID_RANKS"]), sys.executable, "-m", "placid.train.worker", str(job)]
    many = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)] if processes > 1 else []
    return [sys.executable, *many, "-m", "placid.train.worker", str(job)]


def _environment(processes: int) -> dict[str, str]:
    threads = str(max(1, len(os.sched_getaffinity(0)) // processes))
    fixed = {
        "OMP_NUM_THREADS": threads,
        "HF_HUB_OFFLINE": "1",
        "TOKENIZERS_PARALLELISM": "false",
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
        "PYTHONUNBUFFERED": "1",
    }
    return {**os.environ, **fixed}


def _run(command: list[str], environment: dict[str, str], log: Path) -> int:
    """Exit code of `command`, its output in `log`; interrupted, it takes the ranks down with it."""
    with log.open("ab") as file:
        process = subprocess.Popen(command, env=environment, stdout=file, stderr=subprocess.STDOUT)
        try:
            return process.wait()
        except BaseException:
            process.terminate()  # torch.distributed.run passes it on to its ranks
            process.wait()
            raise


def _tail(log: Path, lines: int = 30) -> str:
    return "\n".join(log.read_text(errors="replace").splitlines()[-lines:])
