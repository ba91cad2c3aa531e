"""Single flipped bits in every kind of file of a finished run: a part of benchmarks/flipped_bits.py.

In a process of its own, because it forks, and a fork of a process with threads may stand still.
"""

import subprocess
import sys
from pathlib import Path

import pytest

import flips
from placid.records import BadInputError
from placid.report.tables import write_csv
from placid.store.sheets import decode

ROOT = Path(__file__).parent.parent


def test_no_flipped_bit_is_read_in_silence():
    script = ROOT / "benchmarks" / "flipped_bits.py"
    words = ["--count", "230", "--workers", "2", "--seed", "3"]
    done = subprocess.run([sys.executable, script, *words], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "| all | 230 |" in done.stdout


@pytest.mark.parametrize("name", ["turns.csv", "conversations.csv", "evals.csv"])
def test_a_table_that_is_read_again_is_as_it_was_written(tmp_path, name):
    file = tmp_path / name
    write_csv(file, [{"arm": "base", "mean": 1.5}])
    assert decode(file) == [{"arm": "base", "mean": "1.5"}]
    file.write_text(file.read_text().replace("1.5", "1.4"))
    with pytest.raises(BadInputError, match="does not fit its checksum"):
        decode(file)
    file.with_name(f"{name}.sha256").unlink()  # of a former placid
    assert decode(file) == [{"arm": "base", "mean": "1.4"}]


def test_a_flip_that_nobody_notices_is_called_silent(tmp_path, monkeypatch):
    run = tmp_path / "run"
    run.mkdir()
    (run / "a").write_bytes(b"abc")
    for reader, outcome in (
        (lambda _, file: file.read_bytes(), "silent"),
        (lambda _, file: len(file.read_bytes()), "harmless"),
        (lambda _, file: file.read_bytes().decode("ascii").index("c"), "traceback"),
    ):
        monkeypatch.setitem(flips.KINDS, "mine", ("run/a", reader))
        assert flips.flip(run, "mine", Path("run/a"), 23)[0] == outcome
        assert (run / "a").read_bytes() == b"abc"
