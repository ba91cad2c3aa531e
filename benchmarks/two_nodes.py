"""Two vLLM engines on two Ray nodes with addresses of their own; one node is lost midway, and the rollout still ends.

    sudo python benchmarks/two_nodes.py [--how cut] [--samples 2]     # the demo's base arm: 30 prompts x 7 x 20 turns

Root, because a node is a set of namespaces: its own network and address, host name, processes, /tmp and /dev/shm; the
rest of the file system is shared, as by NFS. The driver runs on the first node, which also heads the Ray cluster.

    kill    every process of the second node ends at once, as when its power fails
    cut     its network cable is pulled: its engine lives on and writes, until it takes itself for forgotten

Prints one JSON object; exit 1 if a conversation is missing, not ended, or holds a turn twice.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from placid.inputs.prompts import read_prompts
from placid.rollout.settings import RolloutSettings
from placid.store import RunDir, write_lines

ROOT = Path(__file__).parent.parent
LAUNCH = """
import json, logging, sys
from pathlib import Path
from placid.rollout import run
from placid.rollout.settings import RolloutSettings
from placid.store import RunDir
logging.basicConfig(level=logging.INFO)
run_dir = RunDir(Path(sys.argv[2]))
run(RolloutSettings.model_validate(json.loads(sys.argv[1])), run_dir, run_dir.new_attempt())
"""
FIRST = """
hostname {name}
mount --make-rprivate /; mount -t tmpfs tmpfs /tmp; mount -t tmpfs tmpfs /dev/shm; mount -t proc proc /proc
exec {ray} start --block --num-cpus 1 --object-store-memory 80000000 --node-ip-address {own} {role}
"""
"""The first process of a node, and so its only parent: with it ends everything on it."""
ADDRESS = "10.79.0.{}"
PORT = 6400


class Node:
    """One machine that is none."""

    def __init__(self, number: int, root: Path) -> None:
        """number: 1 heads the cluster."""
        self.name = f"placid-node{number}"
        role = f"--head --port {PORT} --include-dashboard false"
        if number > 1:
            role = f"--address {ADDRESS.format(1)}:{PORT}"
        ray = Path(sys.executable).with_name("ray")
        first = FIRST.format(name=self.name, ray=ray, own=ADDRESS.format(number), role=role)
        words = ["unshare", "--mount", "--uts", "--ipc", "--pid", "--fork", "--kill-child", "sh", "-c", first]
        self.said = root / f"{self.name}.txt"
        environment = os.environ | {
            "RAY_USAGE_STATS_ENABLED": "0",
            "RAY_memory_monitor_refresh_ms": "0",  # it would judge by the whole machine's memory
            "RAY_worker_niceness": "0",  # else Ray's own daemons starve the engines of a busy machine
        }
        words = ["nsenter", f"--net=/run/netns/{self.name}", *words]
        with self.said.open("w") as said:
            self.process = subprocess.Popen(words, env=environment, stdout=said, stderr=said)

    def inside(self, *words: str) -> list[str]:
        """The command that runs `words` on this node."""
        below = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text().split()
        return ["nsenter", "--target", below[0], "--mount", "--uts", "--ipc", "--net", "--pid", f"--wd={ROOT}", *words]

    def off(self) -> None:
        """Power off."""
        self.process.kill()
        self.process.wait()

    def up(self) -> bool:
        """Wait until its Ray says that it runs; False if it ends before."""
        while "Ray runtime started" not in self.said.read_text():
            if self.process.poll() is not None:
                return False
            time.sleep(0.2)
        return True

    def cut(self) -> None:
        """Pull the cable."""
        shell(f"ip -n {self.name} link set eth0 down")


def shell(command: str) -> None:
    """Run it."""
    subprocess.run(command.split(), check=True)


def connect() -> None:
    """Two network namespaces and a cable between them; there is no way out."""
    for number in (1, 2):
        shell(f"ip netns add placid-node{number}")
    shell("ip link add eth0 netns placid-node1 type veth peer name eth0 netns placid-node2")
    for number in (1, 2):
        node = f"placid-node{number}"
        shell(f"ip -n {node} addr add {ADDRESS.format(number)}/24 dev eth0")
        for device in ("lo", "eth0"):
            shell(f"ip -n {node} link set {device} up")


def lines(run: Path) -> dict[str, int]:
    """Finished turns by segment."""
    return {file.name: file.read_bytes().count(b"\n") for file in run.glob("conversations/*.jsonl")}


def measure(args: argparse.Namespace, root: Path) -> dict[str, Any]:
    """Make two nodes, hold conversations on them, lose one."""
    prompts = read_prompts(ROOT / "configs/prompts/organism_heldout.jsonl")[: args.prompts]
    write_lines(root / "prompts.jsonl", prompts)
    arm = {"prompts": root / "prompts.jsonl", "samples": args.samples, "turns": args.turns}
    settings = RolloutSettings.model_validate(
        {
            "model": ROOT / "checkpoints/organism",
            "workers": 2,
            "ray_address": f"{ADDRESS.format(1)}:{PORT}",
            "max_tokens": 96,
            "engine": {"kind": args.kind, "max_concurrent": args.concurrent, "kv_gib": 0.25},
            "arms": {"base": arm},
        }
    )
    nodes, run, lost, lost_at = list[Node](), root / "run", dict[str, int](), 0.0
    try:
        for number in (1, 2):
            tries = (Node(number, root) for _ in range(5))  # Ray gives a node 30 s, which a busy machine may need
            nodes.append(next(node for node in tries if node.up()))
        began = time.monotonic()
        words = nodes[0].inside(sys.executable, "-c", LAUNCH, settings.model_dump_json(), str(run))
        process = subprocess.Popen(words, stderr=(root / "stderr.txt").open("w"))
        while process.poll() is None:
            found = lines(run)
            if not lost and len(found) == 2 and min(found.values()) >= args.after:
                lost, lost_at = found, time.monotonic()
                nodes[1].off() if args.how == "kill" else nodes[1].cut()
            time.sleep(0.05)
        ended = time.monotonic()
        after = lines(run)
    finally:
        for node in nodes:
            node.off()
    said, log = (root / "stderr.txt").read_text(), run / "attempts/1/engine.log"
    if process.returncode:
        print(said[-6000:], file=sys.stderr)
    conversations = RunDir(run).conversations(prompts)  # raises if a turn is there twice
    status = json.loads((run / "attempts/1/status.json").read_text())["rollout"]
    return {
        "benchmark": "two_nodes",
        "engine": args.kind,
        "lost_by": args.how,
        "exit": process.returncode,
        "wanted": len(prompts) * args.samples,
        "ended": sum(c.end is not None for c in conversations.values()),
        "turns": sum(len(c.turns) for c in conversations.values()),
        "turns_when_lost": lost,
        "turns_at_the_end": after,
        "workers_lost": status["totals"]["workers_lost"],
        "seconds": round(ended - began, 1),
        "seconds_after_the_loss": round(ended - lost_at, 1) if lost else None,
        "lines_said": len(said.splitlines()),
        "lines_in_engine_log": len(log.read_text().splitlines()),
        "said": [line for line in said.splitlines() if "node(s)" in line or "lost" in line],
    }


def main() -> None:
    """Print one JSON object."""
    parse = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parse.add_argument("--kind", default="vllm", choices=["vllm", "simulate"])
    parse.add_argument("--how", default="kill", choices=["kill", "cut"])
    parse.add_argument("--prompts", type=int, default=30)
    parse.add_argument("--samples", type=int, default=7)
    parse.add_argument("--turns", type=int, default=20)
    parse.add_argument("--concurrent", type=int, default=32, help="conversations active in one engine")
    parse.add_argument("--after", type=int, default=200, help="the node is lost when both have said so many turns")
    parse.add_argument("--out", type=Path)
    args = parse.parse_args()
    (ROOT / "runs").mkdir(exist_ok=True)
    root = Path(tempfile.mkdtemp(prefix="two-nodes-", dir=ROOT / "runs"))  # not in /tmp, of which each node has its own
    connect()
    try:
        result = measure(args, root)
    finally:
        for number in (1, 2):
            shell(f"ip netns del placid-node{number}")
        shutil.rmtree(root, ignore_errors=True)
    text = json.dumps(result, indent=2)
    if args.out:
        args.out.write_text(text + "\n")
    print(text)
    raise SystemExit(bool(result["exit"] or result["ended"] != result["wanted"] or not result["turns_when_lost"]))


if __name__ == "__main__":
    main()
