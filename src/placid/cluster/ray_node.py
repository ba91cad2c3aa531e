"""One node of a Ray cluster inside a Slurm job: `srun python -m placid.cluster.ray_node ROOM --nodes N ...`.

The head writes ROOM/head (address:port) before its Ray starts and ROOM/address once all nodes have joined, or
ROOM/failed; all by rename, so whoever waits for a file finds it whole. SIGUSR2 stops this node's Ray; SIGTERM, which
Slurm sends to every step before a preemption or a cancellation, is left to the driver, whose engines must live while
they drain.
"""

import argparse
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil

from placid.cluster import ports
from placid.records import BadInputError
from placid.store import write_atomic

PATIENCE_S = 300.0
"""The head waits so long for the next node to join, then goes on with those that came."""
STARTS = 5
"""Ray gives its own processes 30 s, too little where many nodes load Python from one file system or a node is busy: a
raylet then dies, and Ray with it. The next start finds the files at hand."""
OBJECT_STORE_BYTES = 200_000_000
"""Only leases and reports cross the network; histories stay with their engine."""
STRANGE = ("SLURM_", "SRUN_", "SBATCH_", "PMI_", "PMIX_", "OMPI_")
"""Variables that make libraries below an engine believe that they are one rank of srun's."""
SOCKET_ROOM = 70
"""Characters that Ray appends to its folder for a socket; the whole path may have 107."""


def main(words: list[str]) -> int:
    """Hold this node's Ray until it is told to stop; exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("room", type=Path)
    parser.add_argument("--nodes", type=int, required=True)
    parser.add_argument("--cpus", type=int, required=True)
    parser.add_argument("--gpus", type=int, default=0)
    parser.add_argument("--scratch-gb", type=float, default=0)
    parser.add_argument("--interface", default="")
    asked = parser.parse_args(words)
    stops: list[int] = []
    signal.signal(signal.SIGUSR2, lambda number, _: stops.append(number))
    signal.signal(signal.SIGTERM, lambda *_: None)
    code, folder = 0, Path(os.environ["TMPDIR"])
    try:
        scratch(folder, asked.scratch_gb)
        chosen = command(asked, folder)
        for _ in range(STARTS):
            began = time.monotonic()
            code = hold(chosen, folder / "r", asked, stops)
            if stops or time.monotonic() - began > PATIENCE_S:
                break
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
        if is_head():
            gather(asked.room, asked.nodes, ray, stops)
        while not stops and ray.poll() is None:
            time.sleep(0.2)
        return 0 if stops else ray.returncode or 1


def is_head() -> bool:
    """Whether this is the first node, where the batch script and the driver are."""
    return os.environ.get("SLURM_NODEID", "0") == "0"


def scratch(folder: Path, wanted_gb: float) -> None:
    """Make this job's folder on this node's disk.

    Raises:
        BadInputError: too little room, or a path too long for Ray's sockets.
    """
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    free_gb = shutil.disk_usage(folder).free / 2**30
    if free_gb < wanted_gb:
        raise BadInputError(
            f"{socket.gethostname()} has {free_gb:.1f} GiB free in {folder}, scratch_gb = {wanted_gb:g} are asked for"
        )
    if len(str(folder)) + SOCKET_ROOM > 107:
        raise BadInputError(f"scratch: {folder} is too long for Ray's sockets; at most {107 - SOCKET_ROOM} characters")


def command(asked: argparse.Namespace, folder: Path) -> list[str]:
    """The `ray start` of this node. The head announces itself; the others wait until it answers."""
    here, first = ports.address(asked.interface), ports.block(ports.job())
    if is_head():
        write_atomic(asked.room / "head", f"{here}:{first}".encode())
        role = ["--head", f"--port={first}", f"--ray-client-server-port={first + 7}", "--include-dashboard=false"]
        role += ["--no-monitor"]  # of the autoscaler
    else:
        role = [f"--address={head(asked.room)}"]
    return [
        sys.executable, "-m", "ray.scripts.scripts", "start", *role, "--block", "--disable-usage-stats",
        f"--node-ip-address={here}",
        f"--num-cpus={asked.cpus}",
        f"--num-gpus={asked.gpus}",
        "--include-log-monitor=false",
        f"--object-store-memory={OBJECT_STORE_BYTES}",
        f"--temp-dir={folder / 'r'}",
        f"--node-manager-port={first + 1}",
        f"--object-manager-port={first + 2}",
        f"--metrics-export-port={first + 3}",
        f"--runtime-env-agent-port={first + 4}",
        f"--dashboard-agent-grpc-port={first + 5}",
        f"--dashboard-agent-listen-port={first + 6}",
        f"--min-worker-port={first + ports.NAMED}",
        f"--max-worker-port={first + ports.BLOCK - 1}",
    ]  # fmt: skip


def head(room: Path) -> str:
    """Address of the head, once it has joined its own Ray.

    Raises:
        BadInputError: it did not come up.
    """
    end = time.monotonic() + PATIENCE_S
    while time.monotonic() < end and not (room / "failed").is_file():
        if (room / "head").is_file():
            found = (room / "head").read_text()
            if alive(found):
                return found
        time.sleep(0.1)
    raise BadInputError(f"the first node's Ray did not come up in {PATIENCE_S:.0f} s; see its log in {room}")


def alive(address: str) -> int:
    """Nodes of the Ray at `address`; 0 while it does not answer."""
    # Ray's own command line asks it too (ray.nodes() would need a driver); compiled, so without types
    from ray._raylet import GcsClient  # pyright: ignore[reportAttributeAccessIssue]

    try:
        return sum(node.state == 0 for node in GcsClient(address=address).get_all_node_info(timeout=2).values())
    except Exception as error:  # noqa: BLE001 - not up yet, whatever Ray calls it; the last one is shown
        print(f"placid: waiting for Ray: {type(error).__name__}", flush=True)  # noqa: T201 - this node's log
        return 0


@contextmanager
def started(words: list[str], folder: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A running `ray start --block`; afterwards nothing of it is left, neither processes nor its `folder`."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(STRANGE)}
    # Ray's memory monitor reads the machine and not the job's share of it, and kills workers for what others use.
    kept |= {"RAY_memory_monitor_refresh_ms": "0", "RAY_DISABLE_IMPORT_WARNING": "1"}
    # else a Python process a core is started ahead, on every node; engines are few, and each starts its own
    # and engines run at nice 15, so that Ray's own processes and the judge starve them on a busy node
    kept |= {"RAY_prestart_worker_first_driver": "0", "RAY_worker_niceness": "0"}
    # a session of its own: signals that srun sends to this step are for this program alone
    ray = subprocess.Popen(words, env=kept, start_new_session=True)
    try:
        yield ray
    finally:
        ended = _family(ray)
        ray.terminate()
        _, left = psutil.wait_procs(ended, timeout=5)
        for process in left:
            try:
                process.kill()
            except psutil.NoSuchProcess:
                continue
        psutil.wait_procs(left, timeout=5)
        shutil.rmtree(folder, ignore_errors=True)  # Ray's last processes may still be writing their logs


def _family(ray: subprocess.Popen[bytes]) -> list[psutil.Process]:
    """`ray start` with all that it has started."""
    try:
        parent = psutil.Process(ray.pid)
        return [parent, *parent.children(recursive=True)]
    except psutil.NoSuchProcess:
        return []


def gather(room: Path, nodes: int, ray: subprocess.Popen[bytes], stops: list[int]) -> None:
    """Wait for the nodes, then write ROOM/address."""
    found = (room / "head").read_text()
    end, joined = time.monotonic() + PATIENCE_S, 0
    while joined < nodes and time.monotonic() < end and ray.poll() is None and not stops:
        before, joined = joined, alive(found)
        if joined > before:
            end = time.monotonic() + PATIENCE_S
        time.sleep(0.1)
    if joined:
        print(f"placid: {joined} of {nodes} nodes joined", flush=True)  # noqa: T201 - this node's log
        write_atomic(room / "address", found.encode())


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
