"""placid on a real Slurm: submission, several nodes, and what happens when they are taken away.

The simulate engine answers unless a test says otherwise; reply_s makes a reply take a while, so that there is a middle to
break into. Each test prints its times (-s).
"""

import collections
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from placid.store import RunDir

ROOT = Path(__file__).parent.parent.parent
SITE = "slurm/cpu-lab.toml"
STUDY = """
name = "run"
root = "{work}/runs"
checkpoints = "{work}/checkpoints"
model = "checkpoints/organism"
prompts = "{work}/prompts.jsonl"
samples = 2
turns = 8
[engine]
kind = "simulate"
[arms.base]
[arms.accept]
condition = "accept"
"""


@pytest.fixture
def study(work):
    """Words of a small simulated study."""
    rows = (ROOT / "configs/prompts/organism_heldout.jsonl").read_text().splitlines()[:12]
    (work / "prompts.jsonl").write_text("\n".join(rows) + "\n")
    (work / "study.toml").write_text(STUDY.format(work=work))
    return str(work / "study.toml")


def placid(*words, code=0):
    """Run the command as a user does; its output."""
    env = os.environ | {"PYTHONPATH": str(ROOT / "src")}
    done = subprocess.run(
        [sys.executable, "-m", "placid.cli", *words], cwd=ROOT, env=env, capture_output=True, text=True, check=False
    )
    assert done.returncode == code, done.stdout + done.stderr
    return done.stdout if code == 0 else done.stderr


def submit(what, *words, code=0):
    """placid submit; stage → job id."""
    out = placid("submit", what, words[0], "--site", SITE, *words[1:], code=code)
    if code:
        return out
    return {row.split()[0]: row.split()[2] for row in out.splitlines() if " job " in row}


def turns_of(run):
    """Every finished turn's (key, number), and that none is there twice."""
    found = [(turn.key, turn.turn) for turn in RunDir(run).turns()]
    twice = [key for key, count in collections.Counter(found).items() if count > 1]
    assert not twice, f"spoken twice: {twice[:3]}"
    return set(found)


def arms_of(run):
    return json.loads((run / "report/summary.json").read_text())["arms"]


def ends_of(run):
    """(job, restart) → how that start of that job ended."""
    found = [json.loads(file.read_text())["slurm"] for file in sorted(run.glob("attempts/*/status.json"))]
    return {(row["job"], row["restart"]): (row["state"], row["why"]) for row in found}


def logs(work):
    """What the jobs said, for a failed assertion."""
    return "\n".join(f"== {f}\n{f.read_text()[-3000:]}" for f in sorted(work.glob("runs/*/submissions/*/*.out")))


def done(lab, jobs, work, seconds):
    """Wait for the last of these jobs; all must have completed."""
    lab.until(lambda: all(lab.ended(job) for job in jobs.values()), seconds)
    states = {name: lab.ended(job) for name, job in jobs.items()}
    assert set(states.values()) == {"COMPLETED"}, f"{states}\n{logs(work)}"


def begun(lab, run, count, seconds=90):
    """Wait until so many turns are on disk."""
    lab.until(
        lambda: run.is_dir() and sum(1 for _ in (run / "conversations").glob("*.jsonl")) and _lines(run) >= count,
        seconds,
    )


def _lines(run):
    return sum(file.read_bytes().count(b"\n") for file in (run / "conversations").glob("*.jsonl"))


REFUSED = [
    (("--site.partition", "gpuu"), "partition = 'gpuu' is no partition of this cluster; it has high, main"),
    (("--site.account", "nobody"), "account = 'nobody' is not yours; yours: lab"),
    (("--site.gpus_per_node", "8"), "gpus_per_node = 8 on 3 node(s) (rollout), but partition 'main' has 3 node(s)"),
    (("--site.nodes", "5"), "on 5 node(s)"),
    (("--site.scratch_gb", "50"), "scratch_gb = 50"),
    (("--site.time", "9-00:00:00"), "Slurm refuses rollout.sbatch"),
    (("--model", "checkpoints/none"), "no model in checkpoints/none"),
    (("--model", "/tmp/model"), "/tmp/model lies below /tmp"),
]


def test_what_is_wrong_is_said_before_anything_is_queued(lab, study, work):
    before = sorted(work.rglob("*"))
    for words, says in REFUSED:
        told = submit("study", study, *words, code=2)
        assert says in told, told
        assert told.count("\n") == 1, told
    assert lab.queue() == {}
    assert sorted(work.rglob("*")) == before


def test_a_study_on_three_nodes_is_the_laptops(lab, study, work):
    began = time.time()
    jobs = submit("study", study)
    run = work / "runs/run"
    begun(lab, run, 1)
    first = time.time()
    print(f"\nsubmission to first turn: {first - began:.1f} s")
    done(lab, jobs, work, 240)
    print(f"whole study: {time.time() - began:.1f} s")
    placid("study", study, "--name", "laptop", "--launcher", "inline")
    assert arms_of(run) == arms_of(work / "runs/laptop")
    hosts = {log.name for log in run.glob("submissions/1/job-*/ray-n*.log")}
    assert hosts == {"ray-n1.log", "ray-n2.log", "ray-n3.log"}
    assert turns_of(run) == turns_of(work / "runs/laptop")
    assert {state for state, _ in ends_of(run).values()} == {"done"}
    assert (run / "submissions/1/code/placid/cli.py").is_file()
    assert not list(run.glob("submissions/1/job-*/token")), "the token outlived its job"
