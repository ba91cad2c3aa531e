"""Site profiles and the sbatch texts that they give. No Slurm is needed here; tests/cluster has one.

The texts in slurm/*.sbatch are those that placid submits, for reading and for use by hand; `python tests/test_sbatch.py`
writes them again.
"""

import hashlib
import http.server
import json
import os
import socket
import subprocess
import sys
import threading
from pathlib import Path
from typing import ClassVar

import pytest

from placid.cli import main
from placid.cluster import doctor, ports, rank, slurm
from placid.cluster.end import Job, judge
from placid.cluster.sbatch import Place, Stage, options, script
from placid.cluster.site import SiteSettings, read, seconds
from placid.cluster.submit import points_of
from placid.config import canonical, describe
from placid.jobs import placed, stages
from placid.records import BadInputError
from placid.study.identity import identities
from placid.study.settings import read as read_study

ROOT = Path(__file__).parent.parent
SITES = sorted((ROOT / "slurm").glob("*.toml"))
CONFIG = "configs/study/demo.toml"
SHOWN = ("generic", "a100-4x")
"""Profiles whose texts are shipped: one node, several nodes."""


def shipped():
    """File name → text of slurm/*.sbatch."""
    place = Place(run="runs/demo", config=CONFIG, code="src", logs=".")
    texts = {}
    for name in SHOWN:
        site = read(ROOT / f"slurm/{name}.toml")
        words = placed(ROOT / CONFIG, [], site)
        for stage in stages(read_study(ROOT / CONFIG, words)):
            texts[f"{name}.{stage.name}.sbatch"] = script(stage, site, place, words)
    return texts


def test_the_shipped_texts_are_those_that_are_submitted():
    kept = {path.name: path.read_text() for path in (ROOT / "slurm").glob("*.sbatch")}
    assert kept == shipped(), "python tests/test_sbatch.py writes slurm/*.sbatch again"


def test_the_texts_pass_shellcheck(tmp_path):
    shellcheck = Path(sys.executable).with_name("shellcheck")
    texts = shipped()
    site = read(ROOT / "slurm/a100-4x.toml")
    place = Place(run="runs/demo.sweep", config="c.toml", code="code", logs="logs", sweep="sweep.txt")
    demo = stages(read_study(ROOT / CONFIG, []))
    texts |= {f"sweep.{s.name}.sbatch": script(s, site, place, ["--tag", "it's a name"], 3) for s in demo}
    own = Stage("eval", "eval", "engine")
    texts["one-engine.sbatch"] = script(own, site, place, [])
    for name, text in texts.items():
        (tmp_path / name).write_text(text)
    found = sorted(tmp_path.glob("*.sbatch")) + sorted((ROOT / "tests/cluster").glob("*.sh"))
    done = subprocess.run([shellcheck, "--severity=style", *found], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("file", SITES, ids=lambda p: p.stem)
def test_a_shipped_profile_says_what_it_is_for(file):
    assert file.read_text().startswith("# ")
    assert read(file).engines(1) >= 1


def test_every_key_of_a_profile_says_what_it_means():
    assert [key for key, _, text in describe(SiteSettings) if not text] == []


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--time", "8h"], "hours:minutes:seconds"),
        (["--partiton", "gpu"], "did you mean 'partition'"),
        (["--gpus_per_node", "-1"], "gpus_per_node = -1"),
        (["--extra", '["reservation=x"]'], "no sbatch option"),
    ],
)
def test_a_wrong_profile_is_one_sentence(words, says):
    with pytest.raises(BadInputError, match=says):
        read(ROOT / "slurm/generic.toml", words)


def test_durations():
    site = read(ROOT / "slurm/generic.toml", ["--time", "12:00:00", "--light.time", "00:30:00"])
    assert (site.time, site.light.time) == ("12:00:00", "00:30:00")  # no times of TOML
    assert [seconds(text) for text in ("00:00:01", "08:30:00", "2-00:00:00")] == [1, 30_600, 172_800]


def test_what_follows_from_the_profile_does_not_overrule_the_user():
    site = read(ROOT / "slurm/a100-4x.toml")
    assert placed(ROOT / CONFIG, [], site) == ["--workers", "8", "--launcher", "ray", "--train.recipe.processes", "8"]
    assert placed(ROOT / CONFIG, ["--workers", "3"], site)[:4] == ["--workers", "3", "--launcher", "ray"]


@pytest.mark.parametrize(
    ("config", "words", "jobs"),
    [
        ("demo", [], "rollout:engines pairs:light train:ranks rollout-trained:engines report:light"),
        ("simulate", [], "rollout:engines report:light"),
        ("interventions", [], "rollout:engines intervene:engines report:light"),
        (
            "interventions",
            ["--judge.kind", "gemini"],
            "rollout:engines judge:light intervene:engines report:light",
        ),
        (
            "interventions",
            ["--judge.kind", "local"],
            "rollout:engines judge:engine intervene:engines judge-all:engine report:light",
        ),
        (
            "consistency",
            [],
            "rollout:engines pairs:engine train:ranks rollout-trained:engines eval:engine report:light",
        ),
    ],
)
def test_the_jobs_of_a_study(config, words, jobs):
    found = stages(read_study(ROOT / f"configs/study/{config}.toml", words))
    assert " ".join(f"{stage.name}:{stage.kind}" for stage in found) == jobs


def test_one_engine_takes_its_share_of_a_node():
    site = read(ROOT / "slurm/a100-4x.toml", ["--exclusive", "true"])
    lines = options(Stage("eval", "eval", "engine", gpus=2), site, Place(run="r", config="c", code="src", logs="."))
    assert {"--nodes=1", "--cpus-per-task=32", "--mem=245760M", "--gres=gpu:a100:2"} <= set(lines)
    assert "--exclusive" not in lines
    assert "--exclusive" in options(Stage("rollout", "rollout", "engines"), site, Place("r", "c", "src", "."))


def test_how_many_processes_train_is_outside_a_runs_identity():
    one, two = (
        canonical(read_study(ROOT / CONFIG, ["--train.recipe.processes", n, "--train.recipe.zero", zero]))
        for n, zero in (("1", "0"), ("16", "3"))
    )
    assert identities(one, {}) == identities(two, {})
    other = canonical(read_study(ROOT / CONFIG, ["--train.recipe.lr", "1e-4"]))
    assert identities(one, {}) != identities(other, {})


def test_a_sweep_is_every_combination_under_its_own_name():
    points = points_of(["seed=1,2", "arms.base.condition=harsh"], "demo")
    assert points[0] == ["--name", "demo.seed-1.condition-harsh", "--seed", "1", "--arms.base.condition", "harsh"]
    assert len(points) == 2
    with pytest.raises(BadInputError, match="--sweep seed=1,2,3"):
        points_of(["seed"], "demo")


@pytest.mark.parametrize(
    ("gres", "gpus"),
    [
        ("gpu:8", (8, "")),
        ("gpu:h200:8(S:0-1)", (8, "h200")),
        ("shard:16,gpu:a100_80gb:4", (4, "a100_80gb")),
        ("(null)", (0, "")),
    ],
)
def test_gpus_of_a_node(gres, gpus):
    assert slurm.gpus_of(gres) == gpus


RUNNING, CANCELLED = Job("RUNNING", 5000), Job("CANCELLED", 5000)


@pytest.mark.parametrize(
    ("code", "job", "restart", "state", "why", "again"),
    [
        (0, RUNNING, 0, "done", "", False),
        (75, RUNNING, 0, "requeued", "told to stop", True),
        (75, Job("RUNNING", 15, preempted=True), 0, "requeued", "preempted", True),
        (75, Job("RUNNING", 100), 0, "requeued", "time limit", True),
        (138, RUNNING, 3, "requeued", "told to stop", True),
        (75, RUNNING, 20, "stopped", "requeues = 20", False),
        (75, CANCELLED, 0, "stopped", "cancelled", False),
        (143, CANCELLED, 0, "stopped", "cancelled", False),
        (137, RUNNING, 0, "failed", "out of memory", False),
        (2, RUNNING, 0, "failed", "bad input", False),
        (1, RUNNING, 0, "failed", "exit code 1", False),
    ],
)
def test_how_a_job_ended(code, job, restart, state, why, again):
    end = judge(code, job, restart, requeues=20, grace_s=180)
    assert (end.state, end.requeue) == (state, again)
    assert why in end.why


def test_a_start_that_lost_a_node_is_one_start(monkeypatch):
    """Accounting opens a new record when a job goes on with fewer nodes."""
    said = "7|2026-11-28T11:25:24|COMPLETED\n7|2026-11-28T11:24:19|RESIZING\n7|2026-11-28T11:20:00|CANCELLED by 0\n"
    monkeypatch.setattr(slurm, "call", lambda *words: said)
    assert slurm.starts(["7"]) == {"7": ["CANCELLED", "COMPLETED"]}


@pytest.mark.parametrize(
    ("state", "left", "found"),
    [("RUNNING", "n2", ("n1", ["n2"])), ("RUNNING", "n[1-2]", ("n1", ["n1", "n2"])), ("PENDING", "(null)", ("", []))],
)
def test_the_nodes_of_a_job_without_those_that_it_lost(monkeypatch, state, left, found):
    shown = f"JobId=7\n JobState={state} Reason=None\n ReqNodeList=(null)\n NodeList={left}\n BatchHost=n1\n"
    nodes = {"n2": "n2\n", "n[1-2]": "n1\nn2\n"}
    monkeypatch.setattr(slurm, "call", lambda *words: shown if words[2] == "job" else nodes[words[3]])
    assert slurm.nodes_of("7") == found


def test_a_job_that_is_over_has_no_nodes(monkeypatch):
    def call(*_):
        raise slurm.SlurmError("slurm_load_jobs error: Invalid job id specified")

    monkeypatch.setattr(slurm, "call", call)
    assert slurm.nodes_of("7") == ("", [])


LEAVES = """
import subprocess, sys
subprocess.Popen(["sleep", "600"], start_new_session=True)
"""


def test_nothing_of_a_ray_that_died_is_left(tmp_path):
    """Its starter is gone, and what it had started has no parent any more."""
    script = f"""
import sys
from pathlib import Path
from placid.cluster import children, ray_node
with ray_node.started([sys.executable, "-c", {LEAVES!r}], Path({str(tmp_path / "r")!r})) as ray:
    ray.wait()
    left = children.marked(children.token())
    assert [p.name() for p in left] == ["sleep"], left
assert not children.marked(children.token())
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_ports_of_jobs_are_apart_and_below_the_ephemeral_ones():
    first = {ports.block(job, floor=32_768) for job in range(100)}
    assert len(first) == 100
    assert max(first) + ports.BLOCK <= 32_768
    assert min(abs(a - b) for a in first for b in first if a != b) >= ports.BLOCK


def test_a_taken_port_moves_the_block():
    with socket.socket() as other:
        own = ports.block(7, floor=32_768)
        other.bind(("", own + 3))
        other.listen()
        assert ports.block(7, floor=32_768) == own + ports.BLOCK


def test_an_unknown_interface_is_named():
    with pytest.raises(BadInputError, match="interface = 'ib9'"):
        ports.address("ib9")


def test_a_rank_knows_its_place_and_nothing_of_pmi():
    given = {
        "SLURM_PROCID": "5", "SLURM_LOCALID": "1", "SLURM_NTASKS": "8", "SLURM_STEP_NUM_NODES": "2",
        "SLURM_CPUS_PER_TASK": "4", "PMI_RANK": "5", "HOME": "/",
    }  # fmt: skip
    env = rank.environment(given, "ib0")
    assert (env["RANK"], env["LOCAL_RANK"], env["WORLD_SIZE"], env["LOCAL_WORLD_SIZE"]) == ("5", "1", "8", "4")
    assert env["NCCL_SOCKET_IFNAME"] == env["GLOO_SOCKET_IFNAME"] == "ib0"
    assert "PMI_RANK" not in env


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("study", "--site", "none.toml"), "none.toml"),
        (("studdy", "--site", "slurm/generic.toml"), "'studdy' is no stage"),
        (("study", "--site", "slurm/generic.toml", "--site.nodse", "2"), "did you mean 'nodes'"),
        (("study", "--site", "slurm/generic.toml", "--model", "none"), "no model in none"),
        (("study", "--site", "slurm/generic.toml", "--root", "/local/runs"), "/local/runs lies below /local"),
        (("study", "--site", "slurm/generic.toml", "--site.gpu_memory_gb", "0.001"), "GiB of weights"),
        (("study", "--site", "slurm/generic.toml", "--judge.kind", "gemini"), "light.offline"),
    ],
)
def test_refused_before_anything_is_queued(words, says, capsys, monkeypatch):
    monkeypatch.setattr(slurm, "here", lambda: False)
    with pytest.raises(SystemExit) as left:
        main(["submit", words[0], CONFIG, *words[1:], "--site.node_local", '["/local"]', "--dry-run"])
    shown = capsys.readouterr()
    assert left.value.code == 2
    assert shown.err.count("\n") == 1
    assert says in shown.err
    assert "sbatch" not in shown.out


def test_a_slurm_that_does_not_answer(tmp_path, monkeypatch, capsys):
    """Its commands are there, its controller is not: a dry run says that nothing was asked, a submission one sentence."""
    for name in ("sinfo", "sbatch", "squeue", "sacctmgr", "srun"):
        (tmp_path / name).write_text("#!/bin/sh\necho no controller >&2; exit 1\n")
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    words = ["submit", "study", CONFIG, "--site", "slurm/generic.toml", "--site.node_local", "[]"]
    words += ["--root", str(tmp_path / "runs")]
    main([*words, "--dry-run"])
    assert "the cluster was not asked whether it has all this: Slurm: no controller" in capsys.readouterr().out
    with pytest.raises(SystemExit) as left:
        main(words)
    assert (left.value.code, capsys.readouterr().err) == (2, "placid: Slurm: no controller\n")
    assert not (tmp_path / "runs").exists()


A100 = slurm.Nodes("gpu", False, 4, 64, 503, 4, "a100", 900, "2-00:00:00")
CPU = slurm.Nodes("cpu", True, 20, 32, 125, 0, "", 0, "infinite")


def test_a_first_profile_fits_the_cluster_it_came_from(tmp_path, monkeypatch):
    monkeypatch.setattr(slurm, "nodes", lambda: [CPU, A100])
    monkeypatch.setattr(slurm, "accounts", lambda: ["ours"])
    monkeypatch.setattr(slurm, "here", lambda: True)
    file = tmp_path / "mine.toml"
    assert f"profile   {file} written; look it over" in doctor.examine(file)
    site = read(file)
    assert (site.partition, site.gpus_per_node, site.gpu_type, site.account) == ("gpu", 4, "a100", "ours")
    assert site.light.partition == "cpu"
    assert doctor.examine(file)[-1] == f"profile   {file} fits"
    wrong = read(file, ["--gpu_type", "h200", "--gpus_per_node", "8"])
    told = doctor.mismatches(wrong, [CPU, A100])
    assert len(told) == 2
    assert all(word in " ".join(told) for word in ("at most 4 each", "'a100'"))
    assert "2-00:00:00" in doctor.mismatches(read(file, ["--time", "3-00:00:00"]), [CPU, A100])[0]


def test_a_first_profile_of_small_nodes_has_small_light_jobs(tmp_path, monkeypatch):
    small = slurm.Nodes("only", True, 3, 2, 3.0, 1, "", 0, "02:00:00")
    monkeypatch.setattr(slurm, "nodes", lambda: [small])
    monkeypatch.setattr(slurm, "accounts", lambda: [])
    monkeypatch.setattr(slurm, "here", lambda: True)
    file = tmp_path / "mine.toml"
    doctor.examine(file)
    light = read(file).light
    assert (light.partition, light.cpus, light.memory_gb, light.time) == ("", 2, 2, "02:00:00")
    assert doctor.examine(file)[-1] == f"profile   {file} fits"
    assert "light.memory_gb = 16" in doctor.mismatches(read(file, ["--light.memory_gb", "16"]), [small])[0]
    assert "light.time = '04:00:00'" in doctor.mismatches(read(file, ["--light.time", "04:00:00"]), [small])[0]


def test_times_of_sinfo():
    assert [slurm.limit_s(text) for text in ("infinite", "30:00", "4:00:00", "1-00:00:00")] == [
        0,
        1800,
        14_400,
        86_400,
    ]


class Hub(http.server.BaseHTTPRequestHandler):
    """Just enough of the Hub's API for one model of two files."""

    FILES: ClassVar = {"config.json": b"{}", "model.safetensors": b"weights", "pytorch_model.bin": b"the same again"}

    def do_HEAD(self):
        self.do_GET()

    def do_GET(self):
        name = self.path.partition("?")[0].rpartition("/")[2]
        known = "/tiny" in self.path
        listing = {"id": "us/tiny", "sha": "a" * 40, "siblings": [{"rfilename": file} for file in self.FILES]}
        tree = [{"type": "file", "path": file, "size": len(held), "oid": "b" * 40} for file, held in self.FILES.items()]
        told = tree if "/tree/" in self.path else listing
        body = json.dumps(told).encode() if "/api/" in self.path else self.FILES.get(name, b"")
        self.send_response(200 if known else 404)
        if not known:
            self.send_header("X-Error-Code", "RepoNotFound")
            body = b""
        self.send_header("X-Repo-Commit", "a" * 40)
        self.send_header("ETag", f'"{hashlib.sha256(body).hexdigest()}"')
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    def log_message(self, *_):
        pass


@pytest.fixture
def hub():
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()


def fetch(hub, tmp_path, *words):
    """placid fetch in a process of its own: the Hub's client reads its environment once."""
    env = os.environ | {"HF_ENDPOINT": hub, "HF_HUB_OFFLINE": "0", "HF_HOME": str(tmp_path / "hf")}
    words = [sys.executable, "-m", "placid.cli", "fetch", *words]
    return subprocess.run(words, cwd=tmp_path, env=env, capture_output=True, text=True, check=False)


def test_fetch_puts_a_model_where_the_config_names_it(hub, tmp_path):
    done = fetch(hub, tmp_path, "us/tiny")
    assert done.returncode == 0, done.stderr
    assert {path.name for path in (tmp_path / "models/tiny").iterdir()} - {".cache"} == {
        "config.json",
        "model.safetensors",
    }


def test_fetch_says_what_is_missing(hub, tmp_path):
    done = fetch(hub, tmp_path, "us/other")
    assert (done.returncode, "there is no model 'us/other'" in done.stderr) == (2, True), done.stderr
    done = fetch("http://127.0.0.1:9", tmp_path, "us/tiny")
    assert (done.returncode, "where there is internet" in done.stderr) == (2, True), done.stderr


if __name__ == "__main__":
    for name, text in shipped().items():
        (ROOT / "slurm" / name).write_text(text)
