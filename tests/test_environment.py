"""What lies in a caller's environment: another launcher's ranks, another Ray, proxies, long or foreign folders."""

import http.server
import json
import os
import subprocess
import sys
import threading
from pathlib import Path

import httpx
import pytest

from placid import environment, train
from placid.cli import main
from placid.cluster import own_ray, scratch
from placid.records import BadInputError

ROOT = Path(__file__).parent.parent
SRC = {"PYTHONPATH": str(ROOT / "src")}
OTHERS = {
    "WORLD_SIZE": "8", "RANK": "3", "LOCAL_RANK": "3", "MASTER_ADDR": "192.0.2.1", "MASTER_PORT": "29555",
    "TORCHELASTIC_RUN_ID": "x", "PET_NNODES": "4", "OMPI_COMM_WORLD_SIZE": "8",
}  # fmt: skip
RAYS = {
    "RAY_ADDRESS": "127.0.0.1:6399",
    "RAY_memory_usage_threshold": "0.01",
    "RAY_TMPDIR": "/nowhere",
    "RAY_AUTH_MODE": "disabled",
    "RAY_OVERRIDE_RESOURCES": '{"CPU": 0}',
    "RAY_memory_monitor_refresh_ms": "50",
}
OWN_RAY = """
import json, os, stat, sys, time
from pathlib import Path
os.umask(0)
import psutil
from placid.cluster import own_ray
from placid.cluster import children
made = []
make = children.scratch
children.scratch = lambda: made.append(make()) or made[-1]
with own_ray.seat(None):
    scratch = made[0]
    import ray
    @ray.remote(num_cpus=1)
    class Worker:
        def pid(self): return os.getpid()
        def block(self): return [bytearray(100_000_000) for _ in range(2)] and "WORLD_SIZE" in os.environ
    worker = Worker.remote()
    blind = not ray.get(worker.block.remote())
    time.sleep(0.5)
    same = ray.get(worker.pid.remote()) == ray.get(worker.pid.remote())
    below = [psutil.Process(), *psutil.Process().children(recursive=True)]
    ports = [c.laddr.ip for p in below for c in p.net_connections("inet") if c.status == "LISTEN"]
    folders = [scratch, scratch / "r", *(p for p in (scratch / "r").glob("session_2*"))]
    folders += [p for f in folders[2:] for p in f.glob("sockets")]
    modes = [oct(stat.S_IMODE(f.stat().st_mode)) for f in folders]
print(json.dumps(dict(blind=blind, same=same, ports=ports, modes=modes, left=scratch.exists())))
"""


def test_a_ray_of_our_own_is_ours_alone_and_nobodys_variables_steer_it():
    """No port but on loopback, no folder for others, no memory monitor that ends a worker for what others use."""
    env = os.environ | SRC | OTHERS | RAYS
    done = subprocess.run([sys.executable, "-c", OWN_RAY], env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout.splitlines()[-1])
    assert told["blind"]
    assert told["same"]
    assert len(told["ports"]) >= 4
    assert {ip.removeprefix("::ffff:") for ip in told["ports"]} == {"127.0.0.1"}
    assert len(told["modes"]) == 4
    assert set(told["modes"]) == {"0o700"}
    assert not told["left"]
    assert "not used: RAY_ADDRESS" in done.stderr


RANK = """
import psutil, sys
from placid.train import worker
ranks = worker.join()
import torch
total = torch.ones(1)
torch.distributed.all_reduce(total)
listening = {c.laddr.ip for c in psutil.Process().net_connections("inet") if c.status == "LISTEN"}
print("joined", ranks.rank, ranks.processes, int(total), sorted(listening))
"""


def test_training_alone_does_not_wait_for_ranks_of_another_launcher(monkeypatch, tmp_path):
    for name, value in OTHERS.items():
        monkeypatch.setenv(name, value)
    env = train._environment(1, tmp_path)
    assert not any(environment.is_launchers(name) for name in env)
    words = [sys.executable, "-c", RANK]
    done = subprocess.run(words, env=env | SRC, capture_output=True, text=True, timeout=120, check=False)
    assert "joined 0 1 1" in done.stdout, done.stderr


@pytest.mark.parametrize("where", ["one machine", "a job"])
def test_ranks_meet_where_others_cannot(where, monkeypatch, tmp_path):
    """By a file on one machine, at the job's own address in a job; torch's own port would answer on every address."""
    for name, value in OTHERS.items():
        monkeypatch.setenv(name, value)
    env = train._environment(2, tmp_path) | SRC
    if where == "a job":
        port = own_port()
        env |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
        del env["PLACID_MEETING"]
    words = [sys.executable, "-c", RANK]
    ranks = [
        subprocess.Popen(words, env=env | {"RANK": str(k), "LOCAL_RANK": str(k), "WORLD_SIZE": "2"},
                         stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) for k in range(2)
    ]  # fmt: skip
    for k, rank in enumerate(ranks):
        out, err = rank.communicate(timeout=120)
        assert f"joined {k} 2 2 ['127.0.0.1']" in out, err


def own_port():
    import socket

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def test_in_a_job_the_ranks_keep_where_they_meet(monkeypatch):
    for name, value in (OTHERS | {"PLACID_RANKS": "srun rank"}).items():
        monkeypatch.setenv(name, value)
    env = train._environment(2, Path())
    assert {name for name in env if environment.is_launchers(name)} == {"MASTER_ADDR", "MASTER_PORT"}
    assert "PLACID_MEETING" not in env


@pytest.mark.parametrize(
    ("mask", "says"),
    [(0o022, "everybody (umask 022)"), (0o027, "your group (umask 027)"), (0o077, "you alone (umask 077)")],
)
def test_doctor_says_who_can_read_a_run(mask, says, capsys):
    before = os.umask(mask)
    try:
        main(["doctor"])
    finally:
        os.umask(before)
    assert f"files     what a run writes can be read by {says}" in capsys.readouterr().out


class Hello(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b"here")

    def log_message(self, *_):
        pass


@pytest.mark.parametrize("name", ["http_proxy", "HTTP_PROXY", "all_proxy"])
@pytest.mark.parametrize("spared", [None, "example.org, .internal"])
def test_no_proxy_is_asked_for_this_machine(monkeypatch, name, spared):
    for variable in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(variable, raising=False)
        if spared:
            monkeypatch.setenv(variable, spared)
    monkeypatch.setenv(name, "http://127.0.0.1:9")
    environment.spare_local_hosts()
    environment.spare_local_hosts()
    kept = spared.replace(" ", "").split(",") if spared else []
    assert os.environ["no_proxy"].split(",") == [*kept, "127.0.0.1", "localhost", "::1"]
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Hello)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    for host in ("127.0.0.1", "localhost"):
        assert httpx.get(f"http://{host}:{server.server_port}").text == "here"
    server.shutdown()


@pytest.mark.parametrize("length", [35, 70, 120])
def test_a_folder_too_long_for_sockets_is_one_sentence(monkeypatch, tmp_path, length):
    folder = tmp_path / ("x" * length)
    folder.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(folder))
    with pytest.raises(BadInputError, match=r"TMPDIR: .*x+/p\w+ is too long .* at most 37 fit"), own_ray.seat(None):
        pass


def test_a_folder_is_own_or_refused(tmp_path, monkeypatch):
    scratch.own(tmp_path / "new/p1.x")
    scratch.own(tmp_path / "new/p1.x")  # a second rank of the same job
    assert (tmp_path / "new/p1.x").stat().st_mode & 0o777 == 0o700
    (tmp_path / "open").mkdir()
    (tmp_path / "open").chmod(0o755)
    (tmp_path / "target").mkdir(mode=0o700)
    (tmp_path / "link").symlink_to(tmp_path / "target")
    (tmp_path / "file").touch(mode=0o600)
    for name in ("open", "link", "file"):
        with pytest.raises(BadInputError, match="another user's or open to others"):
            scratch.own(tmp_path / name)
    monkeypatch.setattr("os.getuid", lambda: 4711)
    with pytest.raises(BadInputError, match="another user's"):
        scratch.own(tmp_path / "new/p1.x")
