"""Values of profiles, roots and overrides are data: the generated scripts are run by bash with hostile ones in every key,
and nothing but the stage's own command is executed. No Slurm is needed: srun and scontrol are stand-ins.
"""

import itertools
import json
import subprocess
import sys
from pathlib import Path

import pytest

from placid.cluster import submit
from placid.cluster.sbatch import Place, Stage, script
from placid.cluster.site import LightSettings, SiteSettings, read
from placid.records import BadInputError

KINDS = ("engines", "engine", "ranks", "light")
HOSTILE = [
    "$(touch PWNED)",
    "`touch PWNED`",
    "a; touch PWNED",
    "a' ; touch PWNED ; '",
    'a" ; touch PWNED ; "',
    "a & touch PWNED #",
    "a | touch PWNED",
    "${x:-$(touch PWNED)}",
    "a\ntouch PWNED",
    "a\r\ntouch PWNED\n",
    "a\n#SBATCH --wrap=touch",
    "-x > PWNED",
    "<(touch PWNED)",
]
TEXT_KEYS = sorted(
    {name for name, field in SiteSettings.model_fields.items() if isinstance(field.default, str)} - {"gpu_request"}
)
LIGHT_KEYS = sorted(name for name, field in LightSettings.model_fields.items() if isinstance(field.default, str))

PYTHON = """#!{python}
import json, os, sys
if "placid.cluster.ports" in sys.argv:
    print(12345)
    sys.exit()
if sys.argv[1:3] == ["-c", "folder"]:
    sys.exit()
with open({log!r}, "a") as file:
    row = dict(words=sys.argv[1:], tmp=os.environ["TMPDIR"], mode=oct(os.stat(os.environ["TMPDIR"]).st_mode & 0o777),
               path=os.environ["PYTHONPATH"], ranks=os.environ.get("PLACID_RANKS", ""))
    file.write(json.dumps(row) + "\\n")
sys.exit(1 if "placid.cluster.end" in sys.argv else 0)
"""


class Bash:
    """Runs a generated text in an empty folder; what the stand-in for Python heard."""

    def __init__(self, folder):
        self.folder, self.log = folder, folder / "heard.jsonl"
        (folder / "bin").mkdir(parents=True)
        (folder / "scratch").mkdir()
        self.python = folder / "bin/python"
        self.python.write_text(PYTHON.format(python=sys.executable, log=str(self.log)))
        # a Ray that failed to start: the script must not wait for it
        (folder / "bin/srun").write_text("#!/bin/sh\nexit 1\n")
        (folder / "bin/scontrol").write_text("#!/bin/sh\nexit 0\n")
        for file in (folder / "bin").iterdir():
            file.chmod(0o755)

    def __call__(self, text, **more):
        env = {"PATH": f"{self.folder / 'bin'}:/usr/bin:/bin", "SLURM_JOB_ID": "77", "SLURM_ARRAY_TASK_ID": "1", **more}
        (self.folder / "job.sbatch").write_text(text)
        done = subprocess.run(
            ["bash", "job.sbatch"], cwd=self.folder, env=env, capture_output=True, text=True, timeout=60, check=False
        )
        return done, [json.loads(line) for line in self.log.read_text().splitlines()] if self.log.is_file() else []

    def executed(self):
        return [path for path in self.folder.rglob("*") if "PWNED" in path.name and path.is_file()]


@pytest.fixture
def bash(tmp_path):
    return Bash(tmp_path / "work")


def profile(tmp_path, values):
    """A profile in a file, as a user has it."""
    light = {key: value for key, value in values.items() if "." in key}
    rows = [f"{key} = {json.dumps(value)}" for key, value in values.items() if "." not in key]
    rows += ["[light]", *(f"{key.partition('.')[2]} = {json.dumps(value)}" for key, value in light.items())]
    (tmp_path / "site.toml").write_text("\n".join(rows) + "\n")
    return read(tmp_path / "site.toml")


@pytest.mark.parametrize("key", [*TEXT_KEYS, *(f"light.{name}" for name in LIGHT_KEYS), "extra"])
def test_no_value_of_a_profile_is_run(key, tmp_path, bash):
    """Each value is refused in one sentence that names the key, or reaches the script as text."""
    refused = 0
    for value in HOSTILE:
        values = {"python": str(bash.python), "scratch": str(bash.folder / "scratch"), "nodes": 2, "train_nodes": 2}
        values[key] = [f"--comment={value}"] if key == "extra" else value
        if key == "scratch":
            values[key] = f"{bash.folder / 'scratch'}/{value}"
        try:
            site = profile(tmp_path, values)
        except BadInputError as error:
            refused += key in str(error) and "\n" not in str(error)
            continue
        for kind in ("engines", "ranks"):
            text = script(
                Stage("stage", "rollout", kind), site, Place("runs/r", "c.toml", "code", "logs"), ["--tag", value]
            )
            header = list(itertools.takewhile(lambda line: line.startswith("#"), text.splitlines()))  # as sbatch reads
            assert [line for line in header if line.startswith("#SBATCH --wrap")] == []
            bash(text)
            assert bash.executed() == [], f"{key} = {value!r}, {kind}"
    lines = sum("\n" in value for value in HOSTILE)
    assert refused >= (lines if key in ("python", "scratch", "extra") else len(HOSTILE))


def test_roots_with_spaces_quotes_and_commands_arrive_as_they_are(bash):
    name = 'my runs/it\'s $(touch PWNED) `touch PWNED` "x"; 50% #1'
    site = SiteSettings(python=str(bash.python), scratch=str(bash.folder / "scratch"))
    place = Place(run=name, config=f"{name}/c.toml", code=f"{name}/code", logs=f"{name}/logs")
    for kind in KINDS:
        bash.log.unlink(missing_ok=True)
        text = script(Stage("stage", "train", kind), site, place, ["--tag", "a b"])
        done, heard = bash(text)
        assert done.returncode == 0, done.stderr
        stage, end = heard
        assert stage["words"] == ["-m", "placid.cli", "train", f"{name}/c.toml", "--tag", "a b"]
        assert end["words"][:3] == ["-m", "placid.cluster.end", name]
        assert stage["path"] == f"{bash.folder}/{name}/code"
        assert (bash.folder / name / "logs/job-77.0").is_dir()
        assert "50%% #1" in text  # else sbatch would fill in a pattern
        assert bash.executed() == []


def test_a_sweep_below_such_a_root(bash):
    name = "my runs/it's $(touch PWNED)"
    (bash.folder / name).mkdir(parents=True)
    (bash.folder / name / "sweep.txt").write_text(f"{name}/one\t--seed\t1\n{name}/two\t--seed\t2\n")
    site = SiteSettings(python=str(bash.python), scratch=str(bash.folder / "scratch"))
    place = Place(run=name, config="c.toml", code="code", logs="logs", sweep=f"{name}/sweep.txt")
    _, (stage, end) = bash(script(Stage("rollout", "rollout", "light"), site, place, [], tasks=2))
    assert stage["words"][-2:] == ["--seed", "2"]
    assert end["words"][2] == f"{name}/two"


def test_the_folder_of_a_job_is_new_private_and_gone_at_the_end(bash):
    """Somebody who waits at the former, guessable name gets nothing; what a killed start left is removed."""
    site = SiteSettings(python=str(bash.python), scratch=str(bash.folder / "scratch"))
    (bash.folder / "scratch/p77").mkdir()
    (bash.folder / "scratch/p77.left").mkdir()
    _, (stage, _) = bash(script(Stage("s", "train", "ranks"), site, Place("r", "c", "code", "logs"), []))
    assert Path(stage["tmp"]).parent == bash.folder / "scratch"
    assert Path(stage["tmp"]).name.startswith("p77.")
    assert stage["mode"] == "0o700"
    assert [path.name for path in (bash.folder / "scratch").iterdir()] == ["p77"]


def test_variables_of_a_node_are_filled_in_and_no_more(bash):
    site = SiteSettings(python=f"env A=1 {bash.python}", scratch="$MY_DISK/${WHO}/it's $(x)")
    disk = bash.folder / "scratch"
    (disk / "me/it's $(x)").mkdir(parents=True)
    text = script(Stage("s", "train", "ranks"), site, Place("r", "c", "code", "logs"), [])
    done, (stage, _) = bash(text, MY_DISK=str(disk), WHO="me")
    assert done.returncode == 0, done.stderr
    assert Path(stage["tmp"]).parent == disk / "me/it's $(x)"
    assert f"'env' 'A=1' '{bash.python}' -m placid.cluster.rank" in stage["ranks"]


@pytest.mark.parametrize("path", ["runs/a\nb", "runs/a\\b", "runs/\x1b[2J"])
def test_a_path_that_no_line_can_hold(path):
    with pytest.raises(BadInputError, match="rename it"):
        script(Stage("s", "train", "ranks"), SiteSettings(), Place(path, "c", "code", "logs"), [])


def test_a_colon_would_split_the_path_of_the_code():
    with pytest.raises(BadInputError, match="colon"):
        script(Stage("s", "train", "ranks"), SiteSettings(), Place("r", "c", "runs/12:30/code", "logs"), [])


def test_a_submission_takes_the_packages_own_files_alone(tmp_path, monkeypatch):
    """In a clone what git tracks, elsewhere what is packed; in both every module, and never what lies about."""
    package = tmp_path / "lib/placid"
    for name in ("cli.py", "new.py", "cluster/job.sbatch.jinja", "data/words.toml"):
        (package / name).parent.mkdir(parents=True, exist_ok=True)
        (package / name).write_text("ours")
    monkeypatch.setattr(submit, "PACKAGE", package)
    for name in (".env", "core.4711", "cli.py.swp", "__pycache__/cli.pyc", "id_rsa", ".nfs0001", "notes.docx"):
        (package / name).parent.mkdir(exist_ok=True)
        (package / name).write_text("not ours")
    (package / "link.py").symlink_to("/etc/passwd")
    ours = ["placid/cli.py", "placid/cluster/job.sbatch.jinja", "placid/data/words.toml", "placid/new.py"]
    assert [str(file) for file in submit.package_files()] == ours
    git = ["git", "-C", str(tmp_path / "lib")]
    subprocess.run([*git, "init", "-q"], check=True)
    subprocess.run([*git, "add", "placid/cli.py", "placid/cluster", "placid/data"], check=True)
    (package / "token.txt").write_text("not ours")
    assert [str(file) for file in submit.package_files()] == ours
