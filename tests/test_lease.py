"""One holder of a run directory at a time: live, dead, silent, damaged, superseded; and no clock is ever compared."""

import multiprocessing
import os
import signal
import threading

import msgspec
import pytest

from placid.records import BadInputError
from placid.store import disk, lease
from placid.store.lease import Holder, Lease, leased

FORK = multiprocessing.get_context("fork")


@pytest.fixture
def clock(monkeypatch):
    """This process's own clock: a look at a holder takes a second of it, and what `each` says happens meanwhile."""

    class Clock:
        now = 1e6
        each = staticmethod(lambda: None)

        def sleep(self, seconds):
            self.now += seconds
            self.each()

    clock = Clock()
    monkeypatch.setattr(lease, "_clock", lambda: clock.now)
    monkeypatch.setattr(lease.time, "sleep", clock.sleep)
    return clock


def other(run, generation=1, **changes):
    """A lease that a process on another machine wrote."""
    holder = Holder(what="rollout", job="", host="elsewhere", pid=1, table="elsewhere boot pid:[1]", started="1")
    file = run / "leases" / "run" / f"{generation}.json"
    disk.write_json(file, msgspec.to_builtins(msgspec.structs.replace(holder, **changes)), checksum=True)
    return file


def newest(run, scope="run"):
    file = max((run / "leases" / scope).glob("*.json"), key=lambda path: int(path.stem))
    return int(file.stem), msgspec.convert(disk.unseal(file.read_bytes()), Holder)


def beating(run, clock, **changes):
    """It beats every five seconds of our clock."""
    count = iter(range(1, 10**9))
    clock.each = lambda: other(run, beat=next(count) // 5, **changes)
    clock.each()


def test_a_live_holder_elsewhere_is_named(tmp_path, clock):
    beating(tmp_path, clock)
    with pytest.raises(BadInputError, match=r"placid rollout.*process 1 on elsewhere"), leased(tmp_path, "rollout"):
        pass
    assert newest(tmp_path)[1].host == "elsewhere"


@pytest.mark.parametrize("changes", [{"host": "this"}, {"table": ""}, {"pid": os.getpid()}])
def test_a_live_holder_that_only_looks_like_ours_is_refused(tmp_path, clock, changes):
    """The same host name in another container, a system without a table of processes, a pid that is another's here."""
    host = {"host": lease.socket.gethostname()} if "host" in changes else {}
    beating(tmp_path, clock, **changes | host)
    with pytest.raises(BadInputError, match="wait for it or stop it"), leased(tmp_path, "rollout"):
        pass


def test_a_holder_elsewhere_is_dead_when_its_beats_stop_by_our_own_clock(tmp_path, clock):
    other(tmp_path, beat=10**9)  # whatever its own clock said
    began = clock.now
    with leased(tmp_path, "train"):
        assert newest(tmp_path) == (2, newest(tmp_path)[1])
        assert newest(tmp_path)[1].what == "train"
        assert lease.SILENT_S <= clock.now - began <= lease.SILENT_S + 2
    assert newest(tmp_path)[1].released


def test_one_that_stops_beating_while_we_wait_is_taken_after_its_silence(tmp_path, clock, monkeypatch):
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    beats = iter(range(1, 10))
    clock.each = lambda: other(tmp_path, beat=next(beats)) if clock.now < 1e6 + 5 else None
    clock.each()
    with leased(tmp_path, "rollout"):
        assert newest(tmp_path)[1].job == "7"
        assert clock.now - 1e6 >= 4 + lease.SILENT_S


def test_a_job_waits_for_one_that_lives_and_then_says_who(tmp_path, clock, monkeypatch):
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    beating(tmp_path, clock)
    with pytest.raises(BadInputError, match="process 1 on elsewhere"), leased(tmp_path, "rollout"):
        pass
    assert clock.now - 1e6 >= lease.SILENT_S


@pytest.mark.parametrize("damage", [b"", b"\0" * 300, b'{"host": "x"}', None])
def test_a_damaged_lease_is_judged_by_its_beats(tmp_path, clock, damage):
    file = other(tmp_path)
    file.write_bytes(file.read_bytes().replace(b'"pid": 1', b'"pid": 3') if damage is None else damage)
    with leased(tmp_path, "rollout"):
        assert clock.now - 1e6 >= lease.SILENT_S
        assert newest(tmp_path)[0] == 2


def test_a_killed_process_of_this_table_is_seen_at_once(tmp_path, clock):
    gone = FORK.Process(target=_take_and_die, args=(tmp_path,))
    gone.start()
    gone.join()
    with leased(tmp_path, "rollout"):
        assert newest(tmp_path)[0] == 2
    assert clock.now == 1e6


def test_a_zombie_holds_nothing(tmp_path, clock):
    pid = os.fork()
    if not pid:
        _take_and_die(tmp_path)
    while lease.process_state(pid)[0] != "Z":  # dead, and not reaped yet
        pass
    with leased(tmp_path, "rollout"):
        assert clock.now == 1e6
    os.waitpid(pid, 0)


def _take_and_die(run):
    Lease(run).take("rollout")
    os._exit(9)


def test_a_pid_that_was_given_to_another_process_is_dead(tmp_path, clock):
    other(tmp_path, table=lease.process_table(), pid=os.getpid(), started="12")
    with leased(tmp_path, "rollout"):
        assert clock.now == 1e6


def test_a_stopped_process_of_this_table_is_alive_however_long_it_is_silent(tmp_path, clock):
    stopped = FORK.Process(target=_take_and_stop, args=(tmp_path,))
    stopped.start()
    while lease.process_state(stopped.pid)[0] != "T":
        pass
    clock.now += 10 * lease.SILENT_S
    with pytest.raises(BadInputError, match=f"process {stopped.pid}"), leased(tmp_path, "rollout"):
        pass
    stopped.kill()
    stopped.join()


def _take_and_stop(run):
    Lease(run).take("rollout")
    os.kill(os.getpid(), signal.SIGSTOP)


def test_a_live_process_is_refused_whatever_the_boot_time_says(tmp_path, monkeypatch):
    with leased(tmp_path, "rollout"):
        monkeypatch.setattr(lease.time, "time", lambda: 0.0)
        with pytest.raises(BadInputError, match="wait for it"), leased(tmp_path, "rollout"):
            pass
        with leased(tmp_path, "judge", "judge-x"):  # another scope
            pass


def test_of_many_that_find_a_dead_one_exactly_one_takes_it(tmp_path):
    other(tmp_path, released=True)
    barrier, results = FORK.Barrier(8), FORK.Queue()
    all_ = [FORK.Process(target=_race, args=(tmp_path, barrier, results)) for _ in range(8)]
    for each in all_:
        each.start()
    assert sorted(results.get() for _ in all_) == ["refused"] * 7 + ["taken"]
    for each in all_:
        each.kill()
        each.join()


def _race(run, barrier, results):
    barrier.wait()
    try:
        Lease(run).take("rollout")
        results.put("taken")
    except BadInputError:
        results.put("refused")
    threading.Event().wait()  # alive until the end of the test


def test_one_that_slept_between_looking_and_taking_takes_nothing(tmp_path, monkeypatch):
    other(tmp_path, 1, released=True)
    late, create = Lease(tmp_path), disk.create

    def sleepy(path, data):
        monkeypatch.setattr(disk, "create", create)
        for _ in range(2):  # meanwhile two others held it, one after the other, and removed what was before them
            with leased(tmp_path, "study"):
                pass
        return create(path, data)

    monkeypatch.setattr(disk, "create", sleepy)
    late.take("rollout")
    assert newest(tmp_path)[0] == 4


def test_a_lost_answer_of_link_is_no_refusal(tmp_path, monkeypatch):
    link = os.link

    def linked_and_not_heard(source, target):
        link(source, target)
        raise FileExistsError

    monkeypatch.setattr(disk.os, "link", linked_and_not_heard)
    assert disk.create(tmp_path / "a", b"x")
    assert not disk.create(tmp_path / "a", b"y")
    assert (tmp_path / "a").read_bytes() == b"x"
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


def test_without_hard_links_an_exclusive_open_decides(tmp_path, monkeypatch):
    def refused(*_):
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(disk.os, "link", refused)
    assert disk.create(tmp_path / "a", b"x")
    assert not disk.create(tmp_path / "a", b"y")
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


def test_a_superseded_holder_notices_and_leaves_the_file_alone(tmp_path):
    mine = Lease(tmp_path)
    mine.take("rollout")
    assert mine.beat()
    other(tmp_path, 2)
    assert not mine.beat()
    mine.release()
    assert newest(tmp_path) == (2, newest(tmp_path)[1])
    assert newest(tmp_path)[1].host == "elsewhere"


@pytest.mark.parametrize("hold", ["beat", "append"])
def test_a_superseded_holder_ends_itself_before_it_writes(tmp_path, hold):
    left = FORK.Process(target=_hold_until_fenced, args=(tmp_path, hold))
    left.start()
    while not list(tmp_path.glob("leases/run/1.json")):
        pass
    other(tmp_path, 2)
    left.join()
    assert left.exitcode == 1
    assert not [file for file in tmp_path.rglob("*.jsonl") if file.stat().st_size]


def _hold_until_fenced(run, hold):
    from placid.records import Prompt
    from placid.store import Segment

    lease.BEAT_S = 0.05 if hold == "beat" else 1000
    with leased(run, "rollout"), Segment(run / "a.jsonl") as segment:
        while hold == "append":
            lease._clock = lambda: 1e12  # it slept for long
            if (run / "leases" / "run" / "2.json").exists():
                segment.append(Prompt(id="a", text="b"))
        threading.Event().wait()
