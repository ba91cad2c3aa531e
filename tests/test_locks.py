"""The locks: every package at one version, every file by its sha256, but torch+cpu (PyTorch's own index)."""

import re
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
LOCKS = ("cpu", "gpu", "uv")


def locked(name):
    """Package → its line with all hashes."""
    text = (ROOT / f"locks/{name}.txt").read_text()
    rows = re.split(r"^(?=[A-Za-z0-9])", text.replace("\\\n", " "), flags=re.MULTILINE)
    return {re.split(r"[\[=@ ]", row)[0].lower().replace("_", "-"): row for row in rows if row.strip()}


@pytest.mark.parametrize("name", LOCKS)
def test_every_file_that_may_be_installed_is_known(name):
    rows = locked(name)
    loose = [package for package, row in rows.items() if not re.match(r"[A-Za-z0-9._\[\],-]+==\S+", row)]
    unknown = [package for package, row in rows.items() if not re.search(r"--hash=sha256:[0-9a-f]{64}\b", row)]
    assert rows
    assert loose == []
    assert unknown == (["torch"] if name == "cpu" else [])


@pytest.mark.parametrize("name", ["cpu", "gpu"])
def test_what_the_project_asks_for_is_locked(name):
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    wanted = [*project["dependencies"], *extras["run"], *extras["dev"]]
    names = {re.split(r"[\[<>=; ]", row)[0].lower() for row in wanted} - {"placid"}
    assert names - locked(name).keys() == set()


def test_setup_checks_the_hashes():
    text = (ROOT / "locks/install.sh").read_text()
    assert "--require-hashes -r locks/uv.txt" in text
    assert "--verify-hashes" in text
    assert "--no-verify-hashes" not in text
