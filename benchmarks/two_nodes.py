"""Two vLLM engines on two Ray nodes; one node is killed midway, and the rollout still ends.

    python benchmarks/two_nodes.py [--kind simulate]

Both nodes are raylets of this machine (ray.cluster_utils), joined as a user joins a cluster: `ray_address`. The node
that is killed is the one without the driver. Prints one JSON object; exit 1 if a turn is lost or said twice.
"""

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import psutil

from placid.rollout.settings import RolloutSettings
from placid.store import RunDir, read_prompts, write_lines

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


def measure(args: argparse.Namespace, root: Path) -> dict[str, Any]:
    """Start a cluster, hold conversations on it, kill one node."""
    from ray.cluster_utils import Cluster

    prompts = read_prompts(ROOT / "configs/prompts/organism_heldout.jsonl")[: args.prompts]
    write_lines(root / "prompts.jsonl", prompts)
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    node = cluster.add_node(num_cpus=1)
    settings = RolloutSettings.model_validate(
        {
            "model": ROOT / "checkpoints/organism",
            "workers": 2,
            "ray_address": cluster.address,
            "max_tokens": 96,
            "engine": {"kind": args.kind, "max_concurrent": 8, "kv_gib": 0.25},
            "arms": {"base": {"prompts": root / "prompts.jsonl", "samples": args.samples, "turns": args.turns}},
        }
    )
    began = time.monotonic()
    environment = {**os.environ, "RAY_USAGE_STATS_ENABLED": "0"}
    words = [sys.executable, "-c", LAUNCH, settings.model_dump_json(), str(root / "run")]
    process = subprocess.Popen(words, env=environment, stderr=(root / "stderr.txt").open("w"))
    segments = root / "run/conversations"
    killed_after = 0
    while process.poll() is None:
        lines = (
            {file.name: file.read_bytes().count(b"\n") for file in segments.glob("*.jsonl")}
            if segments.exists()
            else {}
        )
        if not killed_after and len(lines) == 2 and min(lines.values()) >= args.after:
            killed_after = sum(lines.values())
            raylet = psutil.Process(node.all_processes["raylet"][0].process.pid)
            for victim in [*raylet.children(recursive=True), raylet]:
                victim.send_signal(signal.SIGKILL)
            killed_at = time.monotonic()
        time.sleep(0.05)
    seconds = time.monotonic() - began
    found = RunDir(root / "run").conversations(prompts) if process.returncode == 0 else {}
    status = json.loads((root / "run/attempts/1/status.json").read_text())["rollout"]
    cluster.shutdown()
    if process.returncode:
        print((root / "stderr.txt").read_text()[-6000:], file=sys.stderr)
    said = [line for line in (root / "stderr.txt").read_text().splitlines() if "node(s)" in line or "lost" in line]
    return {
        "benchmark": "two_nodes",
        "engine": args.kind,
        "exit": process.returncode,
        "conversations": len(found),
        "wanted": len(prompts) * args.samples,
        "ended": sum(c.end is not None for c in found.values()),
        "turns": sum(len(c.turns) for c in found.values()),
        "killed_after_turns": killed_after,
        "workers_lost": status["totals"]["workers_lost"],
        "seconds": round(seconds, 1),
        "seconds_after_the_kill": round(time.monotonic() - killed_at, 1) if killed_after else None,
        "said": said,
    }


def main() -> None:
    """Print one JSON object."""
    parse = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parse.add_argument("--kind", default="vllm", choices=["vllm", "simulate"])
    parse.add_argument("--prompts", type=int, default=8)
    parse.add_argument("--samples", type=int, default=4)
    parse.add_argument("--turns", type=int, default=12)
    parse.add_argument("--after", type=int, default=20, help="kill when both nodes have said so many turns")
    parse.add_argument("--out", type=Path)
    args = parse.parse_args()
    root = Path(tempfile.mkdtemp(prefix="placid-nodes-"))
    try:
        result = measure(args, root)
    finally:
        shutil.rmtree(root, ignore_errors=True)
    text = json.dumps(result, indent=2)
    if args.out:
        args.out.write_text(text + "\n")
    print(text)
    raise SystemExit(result["exit"] or result["ended"] != result["wanted"] or not result["killed_after_turns"])


if __name__ == "__main__":
    main()
