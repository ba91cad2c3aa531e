"""A training that is killed, paused or moved to another number of processes gives the same curve."""

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from placid import store
from placid.records import BadInputError
from placid.train import TrainError, launch
from test_train import losses, rows, settings

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def pairs(tmp_path_factory):
    file = tmp_path_factory.mktemp("rows") / "train.jsonl"
    store.write_lines(file, rows(24))
    return file


def paused(out: Path, pairs: Path, at: int, **more) -> None:
    """Train until the ranks have written checkpoint `at`, then ask the whole to stop by USR1, as Slurm does."""
    code = (
        "import sys, json; from pathlib import Path; sys.path.insert(0, 'tests'); from test_train import settings\n"
        "from placid.train import launch; from placid.records import PausedError\n"
        "s, p, o = settings(**json.loads(sys.argv[1])), Path(sys.argv[2]), Path(sys.argv[3])\n"
        "try: launch(s, p, o, o / 'log.txt')\n"
        "except PausedError as e: print(e); sys.exit(75)\n"
    )
    words = [sys.executable, "-c", code, json.dumps({"save_every": 1, **more}), str(pairs), str(out)]
    process = subprocess.Popen(words, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    while process.poll() is None and not list(out.glob(f"resume/step_{at}/manifest.json")):
        time.sleep(0.02)
    process.send_signal(signal.SIGUSR1)
    said, _ = process.communicate(timeout=300)
    assert process.returncode == 75, said
    assert "the same command goes on" in said


@pytest.mark.slow
def test_asked_to_stop_it_saves_and_goes_on_to_the_same_curve(pairs, tmp_path):
    out = tmp_path / "out"
    straight = launch(settings(epochs=4), pairs, tmp_path / "straight", tmp_path / "log.txt")
    paused(out, pairs, 2, epochs=4)
    assert json.loads((out / "status.json").read_text())["state"] == "paused"
    with pytest.raises(BadInputError, match=r"unfinished training of something else .*lr: 0.003 -> 0.01"):
        launch(settings(epochs=4).model_copy(update={"lr": 0.01}), pairs, out, out / "log.txt")
    resumed = launch(settings(epochs=4), pairs, out, out / "log.txt")
    assert losses(resumed) == pytest.approx(losses(straight), abs=2e-5)
    assert not (out / "resume").exists(), "a finished training needs no state to go on from"
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == list(range(1, 13))
    assert all(line["grad_norm"] > 0 and line["memory_gib"] > 0 for line in lines)
    assert json.loads((out / "status.json").read_text())["state"] == "done"


@pytest.mark.slow
def test_a_loss_that_is_no_number_stops_and_keeps_the_checkpoint(pairs, tmp_path):
    wild = settings(epochs=4, save_every=1).model_copy(update={"lr": 1e30, "grad_clip": 0.0})
    with pytest.raises(TrainError, match=r"step \d+: the loss is .*lower lr = 1e\+30.*are kept in"):
        launch(wild, pairs, tmp_path / "out", tmp_path / "log.txt")
    manifests = list((tmp_path / "out").glob("resume/step_*/manifest.json"))
    from placid.train.checkpoint import read

    for manifest in manifests:
        assert read(manifest.parent, json.loads(manifest.read_text()))


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
