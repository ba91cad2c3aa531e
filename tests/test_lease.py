"""One holder of a run directory at a time: live, dead here, silent elsewhere, superseded."""

import json
import multiprocessing
import os
import time

import pytest

from placid.records import BadInputError
from placid.store import lease
from placid.store.lease import Lease, leased


def other(run, **changes):
    """A lease that another process wrote."""
    record = {"token": "x", "what": "rollout", "host": "elsewhere", "pid": 1, "created": 0.0, "job": ""}
    (run / "lease.json").write_text(json.dumps(record | {"beat": time.time()} | changes))


def test_a_live_holder_is_named(tmp_path):
    other(tmp_path)
    with pytest.raises(BadInputError, match=r"placid rollout.*process 1 on elsewhere"), leased(tmp_path, "rollout"):
        pass


def test_a_silent_one_elsewhere_is_dead(tmp_path):
    other(tmp_path, beat=time.time() - lease.SILENT_S - 1)
    with leased(tmp_path, "train"):
        assert json.loads((tmp_path / "lease.json").read_text())["what"] == "train"
    assert not (tmp_path / "lease.json").exists()


def test_a_killed_process_of_this_host_is_seen_at_once(tmp_path):
    gone = multiprocessing.get_context("fork").Process(target=_take_and_die, args=(tmp_path,))
    gone.start()
    gone.join()
    assert (tmp_path / "lease.json").exists()
    with leased(tmp_path, "rollout"):
        pass


def _take_and_die(run):
    Lease(run).take("rollout", 0)
    os._exit(9)


def test_a_live_process_of_this_host_is_refused(tmp_path):
    with leased(tmp_path, "rollout"), pytest.raises(BadInputError, match="wait for it"), leased(tmp_path, "rollout"):
        pass


def test_a_job_waits_for_one_that_should_be_dead(tmp_path, monkeypatch):
    other(tmp_path)
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    monkeypatch.setattr(lease.time, "sleep", lambda _: other(tmp_path, beat=0))  # its last beat grows old
    with leased(tmp_path, "rollout"):
        assert json.loads((tmp_path / "lease.json").read_text())["job"] == "7"


def test_a_superseded_holder_notices_and_leaves_the_file_alone(tmp_path):
    mine = Lease(tmp_path)
    mine.take("rollout", 0)
    assert mine.beat()
    other(tmp_path)
    assert not mine.beat()
    mine.release()
    assert json.loads((tmp_path / "lease.json").read_text())["token"] == "x"


def test_a_superseded_holder_ends_itself(tmp_path, monkeypatch):
    left = multiprocessing.get_context("fork").Process(target=_hold_until_fenced, args=(tmp_path,))
    left.start()
    while not (tmp_path / "lease.json").exists():
        pass
    other(tmp_path)
    left.join()
    assert left.exitcode == 1


def _hold_until_fenced(run):
    import threading

    lease.BEAT_S = 0.05
    with leased(run, "rollout"):
        threading.Event().wait()
