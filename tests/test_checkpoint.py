"""A training that is killed, paused or moved to another number of processes gives the same curve."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest

from placid import store
from placid.config import canonical, file_sha
from placid.records import BadInputError
from placid.train import TrainError, checkpoint, launch
from test_train import MODEL, losses, rows, settings

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def pairs(tmp_path_factory):
    file = tmp_path_factory.mktemp("rows") / "train.jsonl"
    store.write_lines(file, rows(24))
    return file


CODE = """
import json, sys
from pathlib import Path
sys.path.insert(0, "tests")
from placid.records import PausedError
from placid.train import launch
from test_train import settings
out = Path(sys.argv[3])
try:
    launch(settings(**json.loads(sys.argv[1])), Path(sys.argv[2]), out, out / "log.txt")
except PausedError as end:
    print(end)
    sys.exit(75)
"""


def begun(out: Path, pairs: Path, **more) -> subprocess.Popen:
    words = [sys.executable, "-c", CODE, json.dumps(more), str(pairs), str(out)]
    return subprocess.Popen(words, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)


def ranks_of(process: subprocess.Popen) -> list[psutil.Process]:
    below = [p for p in psutil.Process(process.pid).children(recursive=True) if "placid.train.worker" in p.cmdline()]
    return [p for p in below if "torch.distributed.run" not in p.cmdline()]


def paused(out: Path, pairs: Path, at: int, whom, **more) -> None:
    """Train until the ranks have written checkpoint `at`, then send USR1 to `whom` (process → its pid)."""
    process = begun(out, pairs, save_every=1, **more)
    while process.poll() is None and not list(out.glob(f"resume/step_{at}/manifest.json")):
        time.sleep(0.02)
    os.kill(whom(process), signal.SIGUSR1)
    said, _ = process.communicate(timeout=1800)
    assert process.returncode == 75, said
    assert "the same command goes on" in said


def lines(out: Path) -> list[dict]:
    file = out / "metrics.jsonl"
    return [json.loads(line) for line in file.read_text().splitlines()] if file.is_file() else []


@pytest.mark.slow
def test_asked_to_stop_all_ranks_save_and_go_on_to_the_same_curve(pairs, tmp_path):
    out = tmp_path / "out"
    straight = launch(settings(epochs=4), pairs, tmp_path / "straight", tmp_path / "log.txt")
    paused(out, pairs, 2, lambda process: process.pid, epochs=4, processes=2, zero=1)  # the whole, as Slurm does
    assert json.loads((out / "status.json").read_text())["state"] == "paused"
    with pytest.raises(BadInputError, match=r"unfinished training of something else .*lr: 0.003 -> 0.01"):
        launch(settings(epochs=4).model_copy(update={"lr": 0.01}), pairs, out, out / "log.txt")
    # one rank alone hears of it: all must come to the same step
    paused(out, pairs, 5, lambda process: ranks_of(process)[-1].pid, epochs=4, processes=2, zero=2)
    resumed = launch(settings(epochs=4), pairs, out, out / "log.txt")
    assert losses(resumed) == pytest.approx(losses(straight), abs=2e-5)
    assert not (out / "resume").exists(), "a finished training needs no state to go on from"
    assert [line["step"] for line in lines(out)] == list(range(1, 13))
    assert all(line["grad_norm"] > 0 and line["memory_gib"] > 0 for line in lines(out))
    assert json.loads((out / "status.json").read_text())["state"] == "done"


@pytest.mark.slow
def test_an_interrupt_at_the_terminal_saves_too(pairs, tmp_path):
    """Ctrl-C goes to every process of the terminal's group at once."""
    out = tmp_path / "out"
    words = [
        sys.executable,
        "-c",
        CODE,
        json.dumps({"epochs": 40, "save_every": 0, "processes": 2}),
        str(pairs),
        str(out),
    ]
    process = subprocess.Popen(words, cwd=ROOT, stderr=subprocess.DEVNULL, start_new_session=True)
    while process.poll() is None and len(lines(out)) < 3:
        time.sleep(0.02)
    os.killpg(process.pid, signal.SIGINT)
    process.wait(timeout=600)
    ended = json.loads((out / "status.json").read_text())
    assert ended["state"] == "paused"
    assert [folder.name for folder in (out / "resume").glob("step_*")] == [f"step_{len(lines(out))}"]


@pytest.mark.slow
def test_every_split_gives_the_same_curve_and_goes_on_from_any_other(pairs, tmp_path):
    """30 steps with ZeRO 0 to 3 in 4, 2 and 1 processes; checkpoints of 4 processes go on in 2 and in 1."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    script = str(ROOT / "tests" / "curve_ranks.py")
    for processes in (4, 2, 1):
        launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)]
        words = [sys.executable, *launcher, script, str(pairs), str(tmp_path)]
        subprocess.run(words, check=True, env=environment, cwd=ROOT)
    curves = {path.stem: json.loads(path.read_text()) for path in tmp_path.glob("*.json")}
    straight = curves["p1z0"]
    assert {name: len(curve) for name, curve in curves.items()} == {n: 18 if "from" in n else 30 for n in curves}
    apart = {name: max(abs(loss - straight[step]) for step, loss in curve.items()) for name, curve in curves.items()}
    print(json.dumps(apart, indent=1, sort_keys=True))
    assert len(apart) == 12 + 8
    assert max(apart.values()) < 1e-3


@pytest.mark.slow
def test_killed_at_any_moment_it_loses_at_most_what_followed_the_last_checkpoint(pairs, tmp_path):
    straight = launch(settings(epochs=6), pairs, tmp_path / "straight", tmp_path / "log.txt")
    out, every, draw = tmp_path / "out", 2, random.Random()

    def saving() -> bool:
        return any(out.glob("resume/.step_*.tmp"))

    def past(step: int) -> bool:
        return len(lines(out)) >= step

    moments = [saving, lambda: past(7), lambda: past(11)]
    for number, moment in enumerate(moments):
        process = begun(out, pairs, epochs=6, save_every=every, processes=1 + number % 2)
        while process.poll() is None and not moment():
            time.sleep(0.001)
        if number:
            time.sleep(draw.uniform(0, 0.3))
        # torch.distributed.run gives each rank a session of its own; of the two ranks one dies alone
        doomed = ranks_of(process)[-1:] if number == 1 else psutil.Process(process.pid).children(recursive=True)
        for one in doomed:
            one.kill()
        if number != 1:
            process.kill()
        process.communicate(timeout=1800)
        done, found = len(lines(out)), checkpoint.latest(out / "resume")
        step = checkpoint.read(*found) and found[1]["step"] if found else 0
        print(f"killed after {done} of 18 steps; goes on from {step}")
        assert done - every <= step < 18
    resumed = launch(settings(epochs=6), pairs, out, out / "log.txt")
    assert losses(resumed) == pytest.approx(losses(straight), abs=2e-5)


@pytest.mark.slow
def test_a_loss_that_is_no_number_stops_and_keeps_the_checkpoint(pairs, tmp_path):
    wild = settings(epochs=4, save_every=1).model_copy(update={"lr": 1e30, "grad_clip": 0.0})
    with pytest.raises(TrainError, match=r"step \d+: the loss is .*lower lr = 1e\+30.*are kept in"):
        launch(wild, pairs, tmp_path / "out", tmp_path / "log.txt")
    folder, manifest = checkpoint.latest(tmp_path / "out" / "resume")
    assert checkpoint.read(folder, manifest)


def test_a_loss_that_is_no_number_leaves_the_checkpoint_before_it(pairs, tmp_path, monkeypatch):
    """One rank in this process: the third step's loss is NaN."""
    import torch

    from placid.train import worker
    from placid.train.losses.cross_entropy import CrossEntropy

    chosen, total, calls = settings(epochs=2, save_every=1), CrossEntropy.total, []

    def poisoned(self: CrossEntropy, learner, examples):
        calls.append(len(examples))
        return total(self, learner, examples) * (float("nan") if len(calls) > 2 * chosen.accumulate else 1.0)

    monkeypatch.setattr(CrossEntropy, "total", poisoned)
    monkeypatch.setenv("LOCAL_RANK", "0")
    paths = {"pairs": str(pairs), "out": str(tmp_path), "identity": "x", "hashes": {}, "val": None}
    store.write_json(tmp_path / "job.json", {"settings": canonical(chosen), **paths})
    before = [(number, signal.getsignal(number)) for number in (signal.SIGUSR1, signal.SIGTERM)]
    worker.main(str(tmp_path / "job.json"))
    for number, handler in before:
        signal.signal(number, handler)
    ended = json.loads((tmp_path / "status.json").read_text())
    assert ended["state"] == "diverged"
    assert ended["sentence"].startswith("step 3: the loss is nan")
    folder, manifest = checkpoint.latest(tmp_path / "resume")
    assert manifest["step"] == 2
    state = checkpoint.read(folder, manifest)
    assert all(torch.isfinite(tensor).all() for tensor in state.values())
    assert [line["step"] for line in lines(tmp_path)] == [1, 2]


@pytest.mark.parametrize("what", ["model", "pairs"])
def test_another_base_or_other_rows_do_not_go_on(pairs, tmp_path, what):
    chosen = settings()
    hashes = {"model": file_sha(MODEL), "pairs": file_sha(pairs)} | {what: "of another"}
    manifest = {"identity": "of another", "config": canonical(chosen), "hashes": hashes}
    store.write_json(tmp_path / "resume" / "step_4" / "manifest.json", manifest)
    with pytest.raises(BadInputError, match=rf"something else \(the {what} changed\).*same base, .*: remove .*resume"):
        launch(chosen, pairs, tmp_path, tmp_path / "log.txt")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["resume"], "nothing was written"


@pytest.fixture
def one_rank():
    import torch

    here = torch.distributed.HashStore()
    torch.distributed.init_process_group("gloo", store=here, rank=0, world_size=1)
    yield
    torch.distributed.destroy_process_group()


def trained_to(step: int) -> tuple[SimpleNamespace, SimpleNamespace]:
    """An engine and a learner, as far as the writer knows them, whose every number is `step`."""
    import torch

    net = torch.nn.Linear(4, 3, bias=False)
    adam = torch.optim.AdamW(net.parameters())
    for parameter in net.parameters():
        torch.nn.init.constant_(parameter, step)
        moments = {moment: torch.full_like(parameter, step, requires_grad=False) for moment in checkpoint.MOMENTS}
        adam.state[parameter] = {"step": torch.tensor(float(step)), **moments}
    return SimpleNamespace(optimizer=adam), SimpleNamespace(model=net)


OPERATIONS = ("open", "os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.scandir")


def save_and_die(folder: Path, step: int, keep: int, operations: int) -> bool:
    """Save in a child that is gone without a word before its file operation number `operations`; did it get there?

    What the Rust side of safetensors writes is no event of Python's: at an odd number its file is half written.
    """
    child = os.fork()
    if child == 0:
        import safetensors.torch
        import torch

        torch.distributed.barrier = lambda: None  # gloo's threads do not live in a fork
        left, whole = operations, safetensors.torch.save_file

        def spend(event: str, _args: object) -> None:
            nonlocal left
            if event in OPERATIONS:
                left -= 1
                if left < 0:
                    os._exit(9)

        def torn(tensors: dict, file: Path) -> None:
            whole(tensors, file)
            if operations % 2 and left < 4:
                os.truncate(file, file.stat().st_size // 2)
                os._exit(9)

        safetensors.torch.save_file = torn
        sys.addaudithook(spend)
        checkpoint.save(*trained_to(step), folder, {"step": step}, keep)
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 9


def holds(folder: Path) -> int | None:
    """The step of the newest checkpoint, which is whole: it goes into a fresh engine, every number its step."""
    import torch

    found = checkpoint.latest(folder)
    if found is None:
        return None
    engine, learner = trained_to(0)
    step = checkpoint.restore(engine, learner, found[0])
    numbers = list(learner.model.parameters())
    numbers += [engine.optimizer.state[p][moment] for p in numbers for moment in checkpoint.MOMENTS]
    assert all(torch.equal(tensor, torch.full_like(tensor, step)) for tensor in numbers)
    return step


@pytest.mark.parametrize("keep", [1, 2])
def test_killed_before_any_file_operation_a_save_leaves_the_old_or_the_new(one_rank, tmp_path, monkeypatch, keep):
    monkeypatch.setattr(checkpoint, "PART", 1)  # a file for every tensor
    died, operations, seen = True, 0, set()
    while died:
        folder = tmp_path / str(operations)
        for step in (8, 9):
            checkpoint.save(*trained_to(step), folder, {"step": step}, keep)
        died = save_and_die(folder, 10, keep, operations)
        seen.add(holds(folder))
        checkpoint.save(*trained_to(11), folder, {"step": 11}, keep)
        assert holds(folder) == 11
        assert len(list(folder.iterdir())) == keep, "nothing of the dead attempt is left"
        operations += 1
    assert seen == {9, 10}
    assert operations > 12


def test_a_cut_off_checkpoint_is_refused(tmp_path):
    import torch
    from safetensors.torch import save_file

    from placid.train.checkpoint import latest, read

    folder = tmp_path / "step_3"
    folder.mkdir()
    save_file({"a": torch.ones(100)}, folder / "state-0.safetensors")
    assert latest(tmp_path) is None, "without its manifest, written last, there is no checkpoint"
    manifest = {"step": 3, "files": {"state-0.safetensors": ["a"]}}
    store.write_json(folder / "manifest.json", manifest)
    assert read(folder, manifest)["a"].shape == (100,)
    with pytest.raises(BadInputError, match="does not hold the tensors"):
        read(folder, {"step": 3, "files": {"state-0.safetensors": ["a", "b"]}})
    file = folder / "state-0.safetensors"
    file.write_bytes(file.read_bytes()[:-40])
    with pytest.raises(BadInputError, match="cannot be read"):
        read(folder, manifest)


TAKEN = """
import json, sys
from pathlib import Path
from placid import store
from placid.train import worker
from placid.train.losses.cross_entropy import CrossEntropy

job, at, total, calls = Path(sys.argv[1]), int(sys.argv[2]), CrossEntropy.total, []

def taken(self, learner, examples):
    calls.append(len(examples))
    if len(calls) == at:
        store.write_json(job, json.loads(job.read_text()) | {"owner": {"token": "theirs"}})
    return total(self, learner, examples)

CrossEntropy.total = taken
worker.main(str(job))
"""


@pytest.mark.parametrize(("at", "left"), [pytest.param(2, 0, marks=pytest.mark.slow), (6, 2)])
def test_a_training_whose_folder_another_launch_took_shows_nothing_any_more(pairs, tmp_path, at, left):
    """One rank, three steps of two micro-batches, a checkpoint after the first two; taken within the first, the last"""
    paths = {
        "pairs": str(pairs),
        "out": str(tmp_path),
        "identity": "x",
        "hashes": {"pairs": "-", "model": "-"},
        "val": None,
    }
    chosen = canonical(settings(save_every=1))
    store.write_json(tmp_path / "job.json", {"settings": chosen, **paths, "owner": {"token": "mine"}})
    environment = {**os.environ, "LOCAL_RANK": "0", "PLACID_RUN_TOKEN": "around/mine"}
    words = [sys.executable, "-c", TAKEN, str(tmp_path / "job.json"), str(at)]
    ended = subprocess.run(words, env=environment, cwd=ROOT, capture_output=True, text=True, check=False)
    assert ended.returncode == 1, ended.stderr[-2000:]
    assert "taken by another launch" in ended.stderr
    assert not list(tmp_path.glob("step_*"))
    assert len(list(tmp_path.glob("resume/step_*"))) == left
