"""The rows of docs/faults.md about Slurm, Ray and the machine: each fault is brought about here (see tests/faults.py)."""

import json
import os
from pathlib import Path

import pytest

import faults
from placid.cluster import end, own_ray, ports, preflight, scratch, slurm
from placid.cluster.end import Job
from placid.cluster.sbatch import Stage
from placid.cluster.site import SiteSettings, read
from placid.records import BadInputError

RUNNING = Job("RUNNING", 5000)
ENDS = {
    "told to stop (USR1, TERM)": (75, RUNNING, 0),
    "the time limit": (75, Job("RUNNING", 100), 0),
    "preempted by a higher priority": (75, Job("RUNNING", 15, preempted=True), 0),
    "told to stop, and requeues are used up": (75, RUNNING, 20),
    "scancel": (143, Job("CANCELLED", 5000), 0),
    "killed by the kernel (137)": (137, RUNNING, 0),
    "wrong input or a spent budget (2)": (2, RUNNING, 0),
    "a crash (1)": (1, RUNNING, 0),
}
SETTLED = {
    "a node fails before the stage has drained": "NODE_FAIL",
    "the time limit before the stage has drained": "TIMEOUT",
    "out of memory, by Slurm": "OUT_OF_MEMORY",
}


@pytest.mark.parametrize("fault", ENDS)
def test_how_a_job_ends(fault):
    code, job, restart = ENDS[fault]
    ended = end.judge(code, job, restart, requeues=20, grace_s=180)
    faults.check("slurm", fault, ended.state, ended.why)


@pytest.mark.parametrize("fault", SETTLED)
def test_how_a_job_ended_that_could_not_say_so(fault, tmp_path, monkeypatch):
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    (tmp_path / "attempts/1").mkdir(parents=True)
    end.begin(tmp_path / "attempts/1", "rollout")
    monkeypatch.setattr(slurm, "here", lambda: True)
    monkeypatch.setattr(slurm, "queued", lambda jobs: {})
    monkeypatch.setattr(slurm, "starts", lambda jobs: {"7": [SETTLED[fault]]})
    end.settle(tmp_path)
    status = json.loads((tmp_path / "attempts/1/status.json").read_text())
    assert status["stage"] == "rollout"
    faults.check("slurm", fault, status["slurm"]["state"], status["slurm"]["why"])


def profile(key, value, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    Path("site.toml").write_text(f"{key} = {json.dumps(value)}\n")
    read(Path("site.toml"))


def submission(monkeypatch, **values):
    groups = [slurm.Nodes(name, name == "cpu", 4, 64, 500, 0, "", 0, "infinite") for name in ("cpu", "gpu")]
    monkeypatch.setattr(slurm, "nodes", lambda: groups)
    monkeypatch.setattr(slurm, "accounts", lambda: ["align"])
    preflight.check_cluster(SiteSettings(**values), [Stage("report", "report", "light")])


def host(monkeypatch):
    monkeypatch.setattr("socket.gethostname", lambda: "node17")
    monkeypatch.setattr("socket.gethostbyname", lambda _: "127.0.1.1")
    ports.address()


def foreign_folder(monkeypatch):
    monkeypatch.setattr(Path, "mkdir", lambda *_, **__: (_ for _ in ()).throw(FileExistsError))
    there = Path("/").stat()
    monkeypatch.setattr(Path, "lstat", lambda _: there)
    monkeypatch.setattr("os.getuid", lambda: 4711)
    scratch.own(Path("/tmp/p77.x"))


STOPS = {
    "a time that Slurm reads otherwise": lambda m, t: profile("time", "04:00", m, t),
    "a line break in a name": lambda m, t: profile("partition", "gpu\n#SBATCH --wrap=x", m, t),
    "a partition that is none": lambda m, t: submission(m, partition="gpuu"),
    "an account of somebody else": lambda m, t: submission(m, account="them"),
    "sbatch names no job": lambda m, t: slurm.job_of("quota: 3 jobs\n"),
    "a host name that means the node itself": lambda m, t: host(m),
    "TMPDIR too long for Ray's sockets": lambda m, t: scratch.check_length(
        Path("/a/very/long/folder/for/temporary/files/of/ours/ray-12345678"), "TMPDIR"
    ),
    "somebody else's folder in place of the job's": lambda m, t: foreign_folder(m),
}


@pytest.mark.parametrize("fault", STOPS)
def test_what_is_refused(fault, monkeypatch, tmp_path):
    with pytest.raises(BadInputError) as refused, monkeypatch.context() as patched:
        STOPS[fault](patched, tmp_path)
    faults.check("slurm", fault, "stop", str(refused.value))


def test_another_ray_is_not_joined(monkeypatch, caplog):
    monkeypatch.setattr("os.environ", {"RAY_ADDRESS": "127.0.0.1:6399", "RAY_AUTH_MODE": "token"})
    own_ray.forget_others.__wrapped__()
    assert os.environ == {"RAY_AUTH_MODE": "token"}
    faults.check("slurm", "variables of another Ray", "not used", f"a warning, once: {caplog.messages[0]}")
