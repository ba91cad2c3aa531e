"""Ray's processes on one node, until one of them ends: `python -m placid.cluster.ray_start ROOM NODES PARAMETERS`.

What `ray start --block` does, by the parts that it and ray.init() are made of. The command itself loads pandas and Ray
Serve on every node (2.5 CPU seconds), and on the head it starts a dashboard, with --include-dashboard=false too, and a
server for Ray's clients; nobody asks them anything here. Ray is loaded before the head is waited for, not after.
"""

import json
import sys
import time
from pathlib import Path

from ray._private.node import Node
from ray._private.parameter import RayParams

# Ray's own command line asks it too (ray.nodes() would need a driver); compiled, so without types
from ray._raylet import GcsClient  # pyright: ignore[reportAttributeAccessIssue]

from placid.cluster import ports
from placid.cluster.scratch import close
from placid.records import BadInputError
from placid.store import write_atomic

PATIENCE_S = 300.0
"""The head waits so long for the next node to join, then goes on with those that came; the others so long for it."""
LOOK_S = 0.1
"""Seconds between two looks."""


class Quiet(Node):
    """Without a dashboard."""

    def start_api_server(self, **_: object) -> None:
        """Not here."""


def main(words: list[str]) -> int:
    """Start them and watch; exit code.

    Raises:
        Exception: Ray's own; its processes did not come up in its 30 s, say.
    """
    room, nodes, parameters = Path(words[0]), int(words[1]), json.loads(words[2])
    is_head = "gcs_server_port" in parameters
    try:
        address = (room / "head").read_text(encoding="utf-8") if is_head else head(room)
    except BadInputError as error:
        print(f"placid: {error}", flush=True)  # noqa: T201 - this node's log
        return 2
    if not is_head:
        parameters["gcs_address"] = address
    node = Quiet(RayParams(**parameters), head=is_head, shutdown_at_exit=True, spawn_reaper=True)
    close(Path(parameters["temp_dir"]))
    if is_head:
        gather(room, address, nodes, node)
    while not (dead := node.dead_processes()):
        time.sleep(1)
    print(f"placid: Ray's {', '.join(name for name, _ in dead)} ended by itself", flush=True)  # noqa: T201
    node.kill_all_processes(check_alive=False, allow_graceful=False)
    return 1


def head(room: Path) -> str:
    """Address of the head, once it has joined its own Ray.

    Raises:
        BadInputError: it did not come up.
    """
    end = time.monotonic() + PATIENCE_S
    while time.monotonic() < end and not (room / "failed").is_file():
        if (room / "head").is_file():
            found = (room / "head").read_text(encoding="utf-8")
            # a port that nobody listens at is found closed at once; Ray's client would wait for it by seconds
            if ports.answers(found) and alive(found):
                return found
        time.sleep(LOOK_S)
    raise BadInputError(f"the first node's Ray did not come up in {PATIENCE_S:.0f} s; see its log in {room}")


def alive(address: str) -> int:
    """Nodes of the Ray at `address`; 0 while it does not answer."""
    try:
        return sum(node.state == 0 for node in GcsClient(address=address).get_all_node_info(timeout=2).values())
    except Exception as error:  # noqa: BLE001 - not up yet, whatever Ray calls it; the last one is shown
        print(f"placid: waiting for Ray: {type(error).__name__}", flush=True)  # noqa: T201 - this node's log
        return 0


def gather(room: Path, address: str, nodes: int, node: Node) -> None:
    """Wait for the nodes, then write ROOM/address."""
    end, joined = time.monotonic() + PATIENCE_S, 0
    while joined < nodes and time.monotonic() < end and not node.dead_processes():
        before, joined = joined, alive(address)
        if joined > before:
            end = time.monotonic() + PATIENCE_S
        time.sleep(LOOK_S)
    if joined:
        print(f"placid: {joined} of {nodes} nodes joined", flush=True)  # noqa: T201 - this node's log
        write_atomic(room / "address", address.encode())


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
