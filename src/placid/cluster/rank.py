"""One training rank under srun: `srun ... python -m placid.cluster.rank [--interface IB0] COMMAND...` becomes COMMAND.

torch.distributed and DeepSpeed meet by these variables alone; neither ssh nor mpi4py is asked.
"""

import os
import socket
import sys
from pathlib import Path

from placid.cluster import ports, scratch
from placid.environment import without_launcher


def environment(given: dict[str, str], interface: str) -> dict[str, str]:
    """`given` with this rank's place. Slurm's and PMI's own variables go, since libraries would believe them first."""
    place = {
        "RANK": given["SLURM_PROCID"],
        "LOCAL_RANK": given["SLURM_LOCALID"],
        "WORLD_SIZE": given["SLURM_NTASKS"],
        "LOCAL_WORLD_SIZE": str(int(given["SLURM_NTASKS"]) // int(given["SLURM_STEP_NUM_NODES"])),
        "OMP_NUM_THREADS": given.get("SLURM_CPUS_PER_TASK", "1"),
    }
    if interface:
        place |= {"GLOO_SOCKET_IFNAME": interface, "NCCL_SOCKET_IFNAME": interface}
    meeting = {name: given[name] for name in ("MASTER_ADDR", "MASTER_PORT") if name in given}
    return without_launcher(given) | meeting | place


def main(words: list[str]) -> None:
    """Become the command that follows."""
    interface = ""
    if words[:1] == ["--interface"]:
        interface, words = words[1], words[2:]
        ports.address(interface)  # a name that is wrong on this node is said here, not by a hang in NCCL
    if "TMPDIR" in os.environ:
        scratch.own(Path(os.environ["TMPDIR"]))
    place = environment(dict(os.environ), interface)
    which = f"rank {place['RANK']} of {place['WORLD_SIZE']} on {socket.gethostname()}"
    print(f"placid: {which}, meets at {place['MASTER_ADDR']}:{place['MASTER_PORT']}", flush=True)  # noqa: T201 - its log
    os.execvpe(words[0], words, place)


if __name__ == "__main__":
    main(sys.argv[1:])
