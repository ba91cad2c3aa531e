"""One node of a Ray cluster inside a Slurm job: `srun python -m placid.cluster.ray_node ROOM --run RUN --nodes N ...`.

The head writes ROOM/head (address:port) before its Ray starts and ROOM/address once all nodes have joined, or
ROOM/failed; all by rename, so whoever waits for a file finds it whole. SIGUSR2 stops this node's Ray; SIGTERM, which
Slurm sends to every step before a preemption or a cancellation, is left to the driver, whose engines must live while
they drain.

Slurm lets a job of several nodes live (--no-kill) when its first one dies, with the script and the driver; the
others then ask for the job to be started again.
"""

import argparse
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil

from placid.cluster import children, end, ports, scratch, slurm
from placid.cluster.own_ray import NO_MONITOR
from placid.environment import is_foreign_ray, without_launcher
from placid.records import BadInputError
from placid.store import write_atomic

STARTS = 5
"""Ray gives its own processes 30 s, too little where many nodes load Python from one file system or a node is busy: a
raylet then dies, and Ray with it. The next start finds the files at hand."""
YOUNG_S = 300.0
"""A Ray that ends after so long had come up, and is not started again."""
LOOK_S = 10.0
"""Seconds between two looks at the first node."""
OBJECT_STORE_BYTES = 200_000_000
"""Only leases and reports cross the network; histories stay with their engine."""
STRANGE = ("SLURM_", "SRUN_", "SBATCH_")
"""Variables that make libraries below an engine believe that they are one rank of srun's."""


def main(words: list[str]) -> int:
    """Hold this node's Ray until it is told to stop; exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("room", type=Path)
    parser.add_argument("--run", type=Path, required=True)
    parser.add_argument("--nodes", type=int, required=True)
    parser.add_argument("--cpus", type=int, required=True)
    parser.add_argument("--gpus", type=int, default=0)
    parser.add_argument("--scratch-gb", type=float, default=0)
    parser.add_argument("--interface", default="")
    parser.add_argument("--requeues", type=int, default=0)
    asked = parser.parse_args(words)
    stops: list[int] = []
    signal.signal(signal.SIGUSR2, lambda number, _: stops.append(number))
    signal.signal(signal.SIGTERM, lambda *_: None)
    code, folder = 0, Path(os.environ["TMPDIR"])
    try:
        prepare(folder, asked.scratch_gb)
        chosen = command(asked, folder)
        for _ in range(STARTS):
            began = time.monotonic()
            code = hold(chosen, folder / "r", asked, stops)
            if stops or code == 2 or time.monotonic() - began > YOUNG_S:
                break
        if not is_head():
            wait(lambda: False, asked, stops)
    except BadInputError as error:
        print(f"placid: {error}", flush=True)  # noqa: T201 - this node's log
        code = 2
    if not is_head():  # there the job's script removes it, once nothing uses it any more
        shutil.rmtree(folder, ignore_errors=True)
    elif not (asked.room / "address").is_file():  # nobody can join: the job need not wait for the others
        write_atomic(asked.room / "failed", b"")
    return code


def hold(words: list[str], folder: Path, asked: argparse.Namespace, stops: list[int]) -> int:
    """One Ray from its start to its end; exit code."""
    with started(words, folder) as ray:
        wait(lambda: ray.poll() is not None, asked, stops)
        return 0 if stops else ray.returncode or 1


def wait(ended: Callable[[], bool], asked: argparse.Namespace, stops: list[int]) -> None:
    """Until it has ended or is told to stop; meanwhile every node but the first looks whether the first one lives."""
    looked = time.monotonic()
    while not stops and not ended():
        time.sleep(0.2)
        if not is_head() and time.monotonic() - looked > LOOK_S:
            if (asked.room / "head").is_file() and not ports.answers((asked.room / "head").read_text(encoding="utf-8")):
                look(asked.run, asked.requeues, stops)
            looked = time.monotonic()


def look(run: Path, requeues: int, stops: list[int]) -> None:
    """What to do without the first node: end, where Slurm has taken this one out of the job too (it was cut off, say);
    where it has taken away the first one, requeue the job, or cancel it if it came back often enough.
    """
    start = end.here()
    try:
        first, nodes = slurm.nodes_of(start["job"])
        if os.environ["SLURMD_NODENAME"] not in nodes:
            print("placid: the job goes on without this node", flush=True)  # noqa: T201 - this node's log
            stops.append(0)
        elif first not in nodes:
            again = start["restart"] < requeues
            slurm.call(*(("scontrol", "requeue") if again else ("scancel",)), start["job"])
            known = end.End("requeued" if again else "stopped", "its first node failed", again)
            end.mark(run, start, known)  # accounting does not tell this start from the next one
            print(f"placid: {known.state}: {known.why}", flush=True)  # noqa: T201 - this node's log
    except slurm.SlurmError as error:  # another node was faster, or Slurm cannot be reached: the next look will tell
        print(f"placid: {error}", flush=True)  # noqa: T201 - this node's log


def is_head() -> bool:
    """Whether this is the first node, where the batch script and the driver are."""
    return os.environ.get("SLURM_NODEID", "0") == "0"


def prepare(folder: Path, wanted_gb: float) -> None:
    """Make this job's folder on this node's disk.

    Raises:
        BadInputError: too little room, a path too long for Ray's sockets, or another user's folder.
    """
    scratch.check_length(folder, "scratch")
    scratch.own(folder)
    free_gb = shutil.disk_usage(folder).free / 2**30
    if free_gb < wanted_gb:
        raise BadInputError(
            f"{socket.gethostname()} has {free_gb:.1f} GiB free in {folder}, scratch_gb = {wanted_gb:g} are asked for"
        )


def command(asked: argparse.Namespace, folder: Path) -> list[str]:
    """What starts this node's Ray. The head announces itself; the others wait until it answers."""
    here, first = ports.address(asked.interface), ports.block(ports.job())
    parameters: dict[str, object] = {
        "node_ip_address": here,
        "node_name": here,
        "num_cpus": asked.cpus,
        "num_gpus": asked.gpus,
        "labels": {},
        "object_store_memory": OBJECT_STORE_BYTES,
        "temp_dir": str(folder / "r"),
        "node_manager_port": first + 1,
        "object_manager_port": first + 2,
        "metrics_export_port": first + 3,
        "runtime_env_agent_port": first + 4,
        "metrics_agent_port": first + 5,
        "dashboard_agent_listen_port": first + 6,
        "min_worker_port": first + ports.NAMED,
        "max_worker_port": first + ports.BLOCK - 1,
        "include_log_monitor": False,
        "no_monitor": True,  # of the autoscaler
    }
    if is_head():
        write_atomic(asked.room / "head", f"{here}:{first}".encode())
        parameters["gcs_server_port"] = first
    start = [sys.executable, "-m", "placid.cluster.ray_start"]
    return [*start, str(asked.room), str(asked.nodes), json.dumps(parameters)]


@contextmanager
def started(words: list[str], folder: Path) -> Iterator[subprocess.Popen[bytes]]:
    """This node's Ray; afterwards nothing of it is left, neither processes nor its `folder`."""
    group = children.keep()
    own = without_launcher(os.environ)
    kept = {name: value for name, value in own.items() if not name.startswith(STRANGE) and not is_foreign_ray(name)}
    kept |= {**NO_MONITOR, "RAY_DISABLE_IMPORT_WARNING": "1"}
    # else a Python process a core is started ahead, on every node; engines are few, and each starts its own
    # and engines run at nice 15, so that Ray's own processes and the judge starve them on a busy node
    kept |= {"RAY_prestart_worker_first_driver": "0", "RAY_worker_niceness": "0"}
    # a session of its own: signals that srun sends to this step are for this program alone
    ray = subprocess.Popen(words, env=kept, start_new_session=True)
    try:
        yield ray
    finally:
        ray.terminate()
        psutil.wait_procs(children.marked(group.token), timeout=5)
        children.end_marked(group.token)
        shutil.rmtree(folder, ignore_errors=True)  # Ray's last processes may still be writing their logs


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
