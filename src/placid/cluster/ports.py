"""Addresses and ports inside an allocation. Jobs may share a node, so ports come from the job id.

Shell use: python -m placid.cluster.ports address [INTERFACE] | free
"""

import os
import socket
import sys
from contextlib import suppress
from pathlib import Path

import psutil

from placid.records import BadInputError

FIRST = 10_000
"""Below are ports of services."""
BLOCK = 200
"""Ports of one job on one node: ten for Ray's own processes, one for ranks to meet, the rest for workers."""
NAMED = 12
"""The first ports of a block, which must all be free."""
MEETING = 11
"""Of a block: where training ranks meet."""
RANGE = Path("/proc/sys/net/ipv4/ip_local_port_range")


def ephemeral() -> int:
    """First port that the system gives to whoever asks for any: above it a port may be taken between two looks."""
    floor = int(RANGE.read_text(encoding="utf-8").split()[0]) if RANGE.is_file() else 32_768
    return (
        floor if floor >= FIRST + 10 * BLOCK else 32_768
    )  # some sites use nearly all ports; then it is a matter of luck


def block(job: int, floor: int | None = None) -> int:
    """First port of a block of BLOCK free ones, the job's own if nobody sits there.

    Raises:
        BadInputError: none is free.
    """
    count = ((floor or ephemeral()) - FIRST) // BLOCK
    for step in range(count):
        first = FIRST + (job + step) % count * BLOCK
        if all(is_free(first + k) for k in range(NAMED)):
            return first
    raise BadInputError(f"no {NAMED} neighbouring ports are free from {FIRST} on; other jobs hold all of this node's")


def is_free(port: int) -> bool:
    """Whether one could listen there."""
    with socket.socket() as probe:
        probe.setsockopt(
            socket.SOL_SOCKET, socket.SO_REUSEADDR, 1
        )  # as a server: an old connection's rest is no holder
        try:
            probe.bind(("", port))
        except OSError:
            return False
    return True


def answers(address: str) -> bool:
    """Whether somebody takes connections at host:port."""
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host, int(port)), timeout=2).close()
    except OSError:
        return False
    return True


def address(interface: str = "") -> str:
    """This node's IPv4 address on `interface`, or without one that of its host name.

    Raises:
        BadInputError: no such interface, or no address.
    """
    if not interface:
        name, known = socket.gethostname(), "no address"
        with suppress(OSError):
            known = socket.gethostbyname(name)
        if known == "no address" or known.startswith("127."):  # Debian's /etc/hosts has 127.0.1.1
            raise BadInputError(
                f"the host name {name!r} has {known}, at which no other node could reach this one; set `interface` in "
                "the site profile (ip -br addr on a node shows their names)"
            )
        return known
    found = psutil.net_if_addrs()
    for entry in found.get(interface, []):
        if entry.family == socket.AF_INET:
            return entry.address
    raise BadInputError(
        f"interface = {interface!r} has no IPv4 address on {socket.gethostname()}; it has {', '.join(sorted(found))}"
    )


def job() -> int:
    """Number of the Slurm job, 0 outside of one."""
    return int(os.environ.get("SLURM_JOB_ID", "0"))


def main(words: list[str]) -> int:
    """Print what was asked for; exit code."""
    try:
        if words[:1] == ["address"]:
            print(address(*words[1:2]))  # noqa: T201 - the shell reads it
        elif words == ["free"]:
            print(block(job()) + MEETING)  # noqa: T201 - the shell reads it
        else:
            print(__doc__, file=sys.stderr)  # noqa: T201 - usage
            return 2
    except BadInputError as error:
        print(f"placid: {error}", file=sys.stderr)  # noqa: T201 - the job's log
        return 2
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
