"""Every write of a stage fails once: a part of benchmarks/faults_everywhere.py, and that its judgement can fail.

In a process of its own, because it forks, and a fork of a process with threads may stand still.
"""

import errno
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

import injection
from injection import Case, Injector, Operation
from placid.store import disk, write_json
from placid.store.lease import leased

ROOT = Path(__file__).parent.parent


def test_a_part_of_all_faults_leaves_nothing_lost_nothing_twice_and_equal_results():
    script = ROOT / "benchmarks" / "faults_everywhere.py"
    words = ["--stages", "rollout", "judge", "pairs", "--sample", "12", "--workers", "2", "--seed", "7"]
    done = subprocess.run([sys.executable, script, *words], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "| all | | 12 |" in done.stdout


@pytest.mark.parametrize(
    ("kind", "code", "said", "problem"),
    [
        ("ENOSPC", 1, "Traceback (most recent call last)", "traceback"),
        ("ENOSPC", 1, "placid: failed", "wrong exit code"),
        ("EIO", 75, "", "not one sentence"),
        ("full", 75, "placid: a\nplacid: b", "not one sentence"),
        ("full", 75, "placid: nothing more can be written", ""),
        ("ENOSPC", 0, "", ""),
        ("kill", 75, "placid: x", "wrong exit code"),
        ("kill", -signal.SIGKILL, "", ""),
    ],
)
def test_how_a_disturbed_command_may_end(kind, code, said, problem):
    assert injection.ending(Case("rollout", Operation("write", "a", 1), kind), code, said) == problem


def test_what_two_runs_share_tells_lost_doubled_and_changed_apart(tmp_path):
    def of(name, *turns):
        file = tmp_path / name / "conversations" / "1-w0.jsonl"
        file.parent.mkdir(parents=True)
        file.write_text("".join(f'{{"turn": {turn}, "cached_tokens": {len(name)}}}\n' for turn in turns))
        return dict(injection.contents(tmp_path / name))

    whole = of("whole", 1, 2)
    assert of("again!", 2, 1) == whole
    assert of("lost", 1) != whole
    assert of("twice", 1, 2, 2) != whole
    assert of("other", 1, 3) != whole


@pytest.mark.parametrize(("what", "left"), [("open", []), ("write", []), ("fsync", []), ("replace", [])])
@pytest.mark.parametrize("kind", ["ENOSPC", "EIO"])
def test_an_operation_that_fails_leaves_the_old_file_and_no_other(tmp_path, monkeypatch, what, left, kind):
    write_json(tmp_path / "a.json", {"a": 1})
    before = (tmp_path / "a.json").read_bytes()
    label = "a.json" if what == "replace" else ".a.json.0.0-0.tmp"
    injector = Injector(tmp_path, Case("", Operation(what, label, 1), kind))
    for name in ("write", "open", "fsync", "replace", "rename", "link", "ftruncate", "mkdir", "unlink"):
        monkeypatch.setattr(os, name, getattr(os, name))
    monkeypatch.setattr(injection.io, "open", open)
    monkeypatch.setattr("builtins.open", open)
    monkeypatch.setattr(injection.shutil, "_USE_CP_SENDFILE", True)
    monkeypatch.setattr(injector, "_polars", lambda: None)
    injector.install()
    with pytest.raises(OSError) as raised:
        write_json(tmp_path / "a.json", {"a": 2})
    assert raised.value.errno == getattr(errno, kind)
    assert "placid" not in disk.no_space(raised.value)
    assert "free some space" in disk.no_space(raised.value)
    assert [path.name for path in tmp_path.iterdir() if path.suffix != ".hit"] == ["a.json"]
    assert (tmp_path / "a.json").read_bytes() == before


@pytest.mark.parametrize(
    "text", ["parquet: underlying IO error: No space left on device (os error 28)", "I/O error (os error 5)"]
)
def test_a_full_disk_is_one_sentence_whatever_library_met_it(text):
    assert "free some space" in disk.no_space(RuntimeError(text))
    assert not disk.no_space(RuntimeError("os error 2"))
    assert not disk.no_space(FileNotFoundError(errno.ENOENT, "no"))


def test_temporary_files_of_the_dead_go_and_those_of_the_living_stay(tmp_path):
    child = subprocess.Popen(["true"])
    child.wait()
    dead, live = (tmp_path / f".a.json.{disk._table_name()}-{pid}-1.tmp" for pid in (child.pid, os.getpid()))
    elsewhere = tmp_path / f".a.json.00000000-{child.pid}-1.tmp"
    for file in (dead, live, elsewhere):
        file.touch()
    disk.sweep(tmp_path)
    assert sorted(tmp_path.iterdir()) == sorted([live, elsewhere])


KILLED_IN_A_FOLDER = """
import os, signal, sys
from pathlib import Path
from placid.store.disk import fresh_folder
with fresh_folder(Path(sys.argv[1])) as fresh:
    (fresh / "deep").mkdir()
    (fresh / "deep" / "half.parquet").write_bytes(b"PAR1")
    os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.parametrize("name", ["tables", "export/hf", "../other-run"])
def test_a_folder_of_a_killed_launch_goes_with_the_next_launch(tmp_path, name):
    run = tmp_path / "run"
    (run / "export").mkdir(parents=True)
    done = subprocess.run([sys.executable, "-c", KILLED_IN_A_FOLDER, run / name], check=False)
    assert done.returncode == -signal.SIGKILL
    assert len(list(tmp_path.rglob("half.parquet"))) == 1
    (mine := run / "export" / ".hidden.tmp").mkdir()
    with leased(run, "rollout"), disk.fresh_folder(run / "tables") as living:
        assert not list(tmp_path.rglob("half.parquet"))
        with leased(run, "report", "report"):
            assert living.is_dir(), "of a launch that lives"
        assert sorted(run.rglob("*.tmp")) == sorted([living, mine]), "no file of others"
    assert [*run.rglob("*.tmp")] == [mine]


@pytest.mark.parametrize("error", [OSError(errno.EIO, "disk"), KeyboardInterrupt()])
def test_a_folder_goes_when_its_work_fails_and_stays_when_it_was_renamed(tmp_path, error):
    def work():
        with disk.fresh_folder(tmp_path / "a" / "made") as fresh:
            (fresh / "file").touch()
            raise error

    with pytest.raises(type(error)):
        work()
    assert list((tmp_path / "a").iterdir()) == []
    with disk.fresh_folder(tmp_path / "a" / "made") as fresh:
        fresh.rename(tmp_path / "a" / "made")
    assert [path.name for path in (tmp_path / "a").iterdir()] == ["made"]
