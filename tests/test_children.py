"""Nothing outlives the process that started it, however that ends; what is left all the same, the next launch ends."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import msgspec
import psutil
import pytest

from placid.cluster import children
from placid.cluster.children import FILE, MARK, Group
from placid.records import BadInputError
from placid.store.lease import process_state, process_table
from placid.train import TrainSettings, launch

SLEEP = [sys.executable, "-c", "import time; time.sleep(600)"]
STARTS = """
import signal, subprocess, sys, threading, time
from placid.cluster import children
signal.signal(signal.SIGHUP, signal.SIG_DFL)  # nohup may have started the tests
group, folder = children.keep(), children.scratch()
sleep = [sys.executable, "-c", "import time; time.sleep(600)"]
within = "import subprocess, sys; subprocess.Popen(sys.argv[1:], start_new_session=True)"
subprocess.Popen(sleep)
subprocess.Popen(sleep, start_new_session=True)
subprocess.run([sys.executable, "-c", within, *sleep])                      # its parent is gone
thread = threading.Thread(target=subprocess.Popen, args=(sleep,))           # so is the thread that started this one
thread.start()
thread.join()
print(group.token, folder, flush=True)
{then}
"""
RANKS = """
import sys, time
from pathlib import Path
from placid.train import TrainSettings, launch
out = Path(sys.argv[1])
launch(TrainSettings(model="checkpoints/organism"), out / "pairs.jsonl", out, out / "log.txt")
"""


@pytest.fixture
def started():
    """Programs of a test, ended after it."""
    processes = []

    def start(script, *words, **more):
        process = subprocess.Popen([sys.executable, "-c", script, *words], stdout=subprocess.PIPE, text=True, **more)
        processes.append(process)
        return process

    yield start
    for process in processes:
        process.kill()
        process.communicate()


def waited_for(condition):
    while not condition():  # the test's own time limit is the only one
        time.sleep(0.02)


def ready(started, then="time.sleep(600)"):
    """A driver with four children: itself, its token and its scratch folder."""
    driver = started(STARTS.format(then=then))
    token, folder = driver.stdout.readline().split()
    return driver, token, Path(folder)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGHUP])
def test_children_in_any_session_end_with_their_driver(started, number):
    driver, token, folder = ready(started)
    assert len(children.marked(token)) == 4
    assert folder.stat().st_mode & 0o777 == 0o700
    driver.send_signal(number)
    driver.wait()
    waited_for(lambda: not children.marked(token) and not folder.exists())


def test_so_they_do_where_it_ends_in_order_or_with_a_traceback(started):
    for then, code in (("", 0), ("1 / 0", 1)):
        driver, token, folder = ready(started, then)
        assert driver.wait() == code
        waited_for(lambda token=token, folder=folder: not children.marked(token) and not folder.exists())


def test_a_whole_killed_group_leaves_nothing_either(started):
    """The keeper has a session of its own."""
    driver = started(STARTS.format(then="time.sleep(600)"), start_new_session=True)
    token, _ = driver.stdout.readline().split()
    os.killpg(driver.pid, signal.SIGKILL)
    driver.wait()
    waited_for(lambda: not children.marked(token))


def orphan(tmp_path, **changes):
    """A process with the mark of a dead launch, and that launch's record."""
    token = os.urandom(8).hex()
    process = subprocess.Popen(SLEEP, env={**os.environ, MARK: f"around/{token}"})
    file = tmp_path / "attempts" / "1" / FILE
    file.parent.mkdir(parents=True)
    record = {"token": token, "pid": 2**22 + 1, "started": "1", "table": process_table()} | changes
    file.write_text(json.dumps(record))
    return process, file


def test_the_next_launch_ends_what_a_dead_one_left(tmp_path):
    process, file = orphan(tmp_path)
    mine = tmp_path / "attempts" / "2"
    with children.recorded(mine):
        assert process.wait() == -signal.SIGKILL
        assert not file.exists()
        assert msgspec.json.decode((mine / FILE).read_bytes(), type=Group).alive()
        with children.recorded(mine):  # a stage inside it
            pass
        assert (mine / FILE).is_file()
    left = children.marked(children.token())  # of tests before this one in the same process: a template's, say
    assert (mine / FILE).exists() == bool(left), "it stays as long as a child of this process lives"


@pytest.mark.parametrize("kind", ["live", "elsewhere"])
def test_a_live_neighbour_and_another_machine_are_left_alone(tmp_path, kind):
    """A judge that follows works beside a rollout."""
    me = psutil.Process().pid
    changes = {
        "live": {"pid": me, "started": children.keep().started},
        "elsewhere": {"table": "another " + process_table()},
    }
    process, file = orphan(tmp_path, **changes[kind])
    with children.recorded(tmp_path / "attempts" / "2"):
        assert file.is_file()
        assert process.poll() is None
    process.kill()
    process.wait()


def test_a_reused_pid_and_an_empty_token_end_nobody():
    with subprocess.Popen(SLEEP) as other:
        me = children.keep()
        group = Group("0" * 16, other.pid, me.started + "0", me.table)
        assert not group.alive()
        children.end(group)
        assert children.marked("") == []
        children.end_marked("")
        assert other.poll() is None
        other.kill()


def test_a_zombie_is_dead():
    process = subprocess.Popen([sys.executable, "-c", ""])
    group = Group("0" * 16, process.pid, process_state(process.pid)[1], process_table())
    waited_for(lambda: psutil.Process(process.pid).status() == psutil.STATUS_ZOMBIE)
    assert not group.alive()
    process.wait()


def test_ranks_end_with_their_driver_and_one_folder_has_one_training(started, tmp_path):
    """Ranks are played by a sleeper: PLACID_RANKS stands before their command, as srun does."""
    (tmp_path / "pairs.jsonl").write_text("{}\n")
    driver = started(RANKS, str(tmp_path), env={**os.environ, "PLACID_RANKS": f"{SLEEP[0]} -c '{SLEEP[2]}'"})
    job = tmp_path / "job.json"
    waited_for(lambda: job.is_file() and children.marked(json.loads(job.read_text())["owner"]["token"]))
    token = json.loads(job.read_text())["owner"]["token"]
    settings = TrainSettings(model=Path("checkpoints/organism"))
    with pytest.raises(BadInputError, match=f"process {driver.pid} trains in"):
        launch(settings, tmp_path / "pairs.jsonl", tmp_path, tmp_path / "log.txt")
    driver.kill()
    driver.wait()
    waited_for(lambda: not children.marked(token))


def test_a_former_launch_owns_nothing_any_more(tmp_path, monkeypatch):
    job = tmp_path / "job.json"
    monkeypatch.setenv(MARK, "outer/mine")
    job.write_text(json.dumps({"owner": {"token": "mine"}}))
    assert children.owned(job)
    job.write_text(json.dumps({"owner": {"token": "theirs"}}))
    assert not children.owned(job)
