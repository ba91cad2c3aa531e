"""The lab: a real Slurm of three nodes, started once for all tests here and taken down after them."""

import os
import subprocess
import time
from pathlib import Path

import pytest

HERE = Path(__file__).parent
LAB = Path(os.environ.get("LAB", "/srv/placid-lab"))


def why_not() -> str:
    """Why there can be no lab here; empty if there can."""
    if os.geteuid() != 0:
        return "the lab needs root: it makes namespaces and starts Slurm's daemons"
    release = Path("/etc/os-release").read_text()
    if "ID=debian" not in release or 'VERSION_ID="12"' not in release:
        return "the lab is made for Debian 12"
    if Path(__file__).resolve().is_relative_to("/tmp"):
        return "nodes have a /tmp of their own, so the working copy must lie elsewhere"
    if not Path("/sys/fs/cgroup/freezer").is_dir():
        return "the lab tracks processes by the freezer of cgroup v1, which this machine does not have"
    return ""


def pytest_collection_modifyitems(items):
    reason = why_not()
    for item in items:
        if HERE in Path(item.path).parents:
            item.add_marker(pytest.mark.cluster)
            if reason:
                item.add_marker(pytest.mark.skip(reason=reason))


class Lab:
    """Switches and eyes of the cluster."""

    def __call__(self, *words):
        """Run lab.sh."""
        return subprocess.run([HERE / "lab.sh", *words], capture_output=True, text=True, check=True).stdout

    def slurm(self, *words):
        """Output of a Slurm command."""
        return subprocess.run(words, capture_output=True, text=True, check=True).stdout.strip()

    def until(self, what, seconds, step=0.5):
        """Ask `what` until it is true; its value."""
        end = time.monotonic() + seconds
        while not (value := what()):
            assert time.monotonic() < end, f"not within {seconds} s: {what}; {self.slurm('squeue')}"
            time.sleep(step)
        return value

    def queue(self):
        """Job id → state of everything that waits or runs."""
        rows = self.slurm("squeue", "-h", "-o", "%i %T").splitlines()
        return dict(row.split() for row in rows)

    def ended(self, job):
        """Slurm's last word about a job, "" while it waits or runs."""
        if job in self.queue():
            return ""
        states = self.slurm("sacct", "-n", "-X", "-P", "-j", job, "-o", "State").splitlines()
        return states[-1].split()[0] if states and states[-1] not in ("RUNNING", "PENDING", "REQUEUED") else ""

    def idle(self):
        """Whether no job is left and every node is free."""
        return not self.queue() and set(self.slurm("sinfo", "-h", "-N", "-p", "main", "-o", "%T").split()) == {"idle"}


@pytest.fixture(scope="session")
def whole_lab():
    os.environ["SLURM_CONF"] = str(LAB / "etc/slurm.conf")
    assert "ready" in subprocess.run([HERE / "lab.sh", "up"], stdout=subprocess.PIPE, text=True, check=True).stdout
    yield Lab()
    if "KEEP_LAB" not in os.environ:
        subprocess.run([HERE / "lab.sh", "down"], check=True)


@pytest.fixture
def lab(whole_lab):
    """The lab with nothing running; after the test no process of a job may be left on any node."""
    whole_lab.until(whole_lab.idle, 60)
    yield whole_lab
    for job in whole_lab.queue():
        whole_lab.slurm("scancel", job)
    for node in ("n1", "n2", "n3"):
        whole_lab("mend", node)
        whole_lab("on", node)
    whole_lab.until(whole_lab.idle, 120)
    whole_lab.until(
        lambda: whole_lab("ps") == "", 30
    )  # none is left; a node that was away ends its own when it is back


@pytest.fixture
def work(tmp_path_factory, request):
    """A folder that all nodes see."""
    folder = LAB / "work" / f"{request.node.name}-{os.getpid()}".replace("[", "-").replace("]", "")
    folder.mkdir(parents=True)
    return folder
