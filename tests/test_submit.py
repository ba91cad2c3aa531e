"""placid submit against stand-ins of Slurm's commands: what reaches sbatch, what is read back, what is refused."""

import json
import os
from pathlib import Path

import pytest

from placid.cli import main
from placid.cluster import ports, slurm
from placid.cluster.site import read, seconds
from placid.records import BadInputError

ROOT = Path(__file__).parent.parent
SINFO = """Welcome to the cluster. 2 notices
long|4|64|515000|gpu:h100:8|0|7-00:00:00
short*|16|64|515000|gpu:h100:4(S:0-1)|0|02:00:00
cpu|40|128|257000|(null)|0|1-00:00:00"""
SBATCH = """#!/bin/bash
[[ "$*" == *--test-only* ]] && exit 0
env | sort > {folder}/env.txt
count=$(( $(cat {folder}/count 2>/dev/null || echo 4710) + 1 ))
echo $count > {folder}/count
{says}
"""
PARSABLE, PLAIN = 'echo "$count"', 'echo "Submitted batch job $count"'


@pytest.fixture
def site(tmp_path):
    (tmp_path / "site.toml").write_text(
        'partition = "long"\naccount = "align"\nnode_local = []\n[light]\npartition = "cpu"\n'
    )
    return tmp_path / "site.toml"


@pytest.fixture
def cluster(tmp_path, monkeypatch, site):
    """A function that submits a small study; it takes overrides and what sbatch prints."""
    folder = tmp_path / "bin"
    folder.mkdir()
    (tmp_path / "prompts.jsonl").write_text('{"id": "a", "text": "How many are 2 and 2?"}\n')
    (tmp_path / "study.toml").write_text(
        f'name = "s"\nroot = "{tmp_path}/runs"\nmodel = "{ROOT}/checkpoints/organism"\n'
        f'prompts = "{tmp_path}/prompts.jsonl"\nsamples = 1\nturns = 2\n[engine]\nkind = "simulate"\n[arms.base]\n'
    )
    scripts = {"sinfo": f"#!/bin/sh\ncat <<'E'\n{SINFO}\nE\n", "sacctmgr": "#!/bin/sh\necho align\necho default\n"}
    scripts |= dict.fromkeys(("squeue", "sacct", "scontrol", "srun"), "#!/bin/sh\ntrue\n")
    scripts["scancel"] = f"#!/bin/sh\necho $@ >> {tmp_path}/cancelled\n"

    def submit(*words, says=PARSABLE):
        for name, text in (scripts | {"sbatch": SBATCH.format(folder=tmp_path, says=says)}).items():
            (folder / name).write_text(text)
            (folder / name).chmod(0o755)
        monkeypatch.setenv("PATH", str(folder), prepend=":")
        main(["submit", "study", str(tmp_path / "study.toml"), "--site", str(site), *words])
        (file,) = tmp_path.glob("runs/*/submissions/1/submission.json")
        return [job["id"] for job in json.loads(file.read_text())["jobs"]]

    return submit


def test_nothing_of_the_shells_own_job_reaches_sbatch(cluster, tmp_path, monkeypatch):
    theirs = (
        "SBATCH_PARTITION",
        "SBATCH_TIMELIMIT",
        "SLURM_EXPORT_ENV",
        "SLURM_CPU_BIND",
        "SLURM_JOB_ID",
        "SRUN_DEBUG",
    )
    for name in (*theirs, "SALLOC_ACCOUNT", "SQUEUE_FORMAT", "SLURM_TIME_FORMAT", "PMI_RANK"):
        monkeypatch.setenv(name, "1")
    monkeypatch.setenv("SLURM_CONF", "/etc/slurm/other.conf")
    monkeypatch.setenv("MY_OWN", "kept")
    monkeypatch.delenv("SLURM_JOB_ID")  # of this process: a lease would ask Slurm about it
    cluster()
    lines = (tmp_path / "env.txt").read_text().splitlines()
    names = {line.partition("=")[0] for line in lines}
    assert {name for name in names if name.startswith((*slurm.COMMANDS, "PMI"))} == {"SLURM_CONF"}
    assert "MY_OWN" in names


@pytest.mark.parametrize(
    "says",
    [
        f'echo "This is job 3 of your 50 allowed jobs today"; {PLAIN}',
        f'echo "2027: maintenance, job 12 will be cancelled"; {PARSABLE}',
        f'{PLAIN}; echo "Charged: 3.5 hours, 20 left"',
        'echo "$count;east"',
        'echo "Submitted batch job $count on cluster east"',
    ],
)
def test_a_job_is_the_one_that_sbatch_names(cluster, says):
    assert cluster(says=says) == ["4711", "4712"]


def test_an_answer_without_a_job_stops_what_was_queued(cluster, tmp_path, capsys):
    with pytest.raises(SystemExit) as left:
        cluster(says='[ $count = 4711 ] && echo $count || echo "quota: 3 jobs"')
    assert left.value.code == 2
    assert "sbatch named no job" in capsys.readouterr().err
    assert (tmp_path / "cancelled").read_text() == "4711\n"


@pytest.mark.parametrize(
    "words",
    [
        ("--site.partition", "short,long"),
        ("--site.partition", "short, long"),
        ("--site.light.partition", "short,cpu"),
        ("--site.account", "ALIGN"),
        ("--site.account", "Default"),
    ],
)
def test_what_slurm_takes_is_taken(cluster, words):
    assert len(cluster(*words)) == 2


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (
            ("--site.partition", "long,lnog"),
            "partition = 'lnog' is no partition of this cluster; it has cpu, long, short",
        ),
        (("--site.partition", "short"), "time = '08:00:00', but the longest job in 'short' is 02:00:00"),
        (("--site.partition", "short,cpu", "--site.time", "3-0"), "the longest job in 'short' is 02:00:00"),
        (("--site.account", "alignn"), "account = 'alignn' is not yours; yours: align, default"),
        (("--site.light.time", "4h"), "light.time = '4h': write [days-]hours:minutes:seconds"),
    ],
)
def test_what_slurm_refuses_is_one_sentence(cluster, words, says, capsys):
    with pytest.raises(SystemExit) as left:
        cluster(*words)
    error = capsys.readouterr().err
    assert (left.value.code, error.count("\n"), says in error) == (2, 1, True), error


@pytest.mark.parametrize("key", ["time", "light.time"])
@pytest.mark.parametrize(
    ("value", "says"),
    [
        ("90", "90 minutes, which are 01:30:00"),
        ("04:00", "04 minutes, which are 00:04:00, and 04 hours are 04:00:00"),
        ("12:30", "12 minutes, which are 00:12:30, and 12 hours are 12:30:00"),
        ("4h", "write [days-]hours:minutes:seconds"),
        ("2d", "write [days-]hours:minutes:seconds"),
        ("00:75:00", "write [days-]hours:minutes:seconds"),
        ("1-25", "write [days-]hours:minutes:seconds"),
        ("00:00:00", "write [days-]hours:minutes:seconds"),
        ("UNLIMITED", "write [days-]hours:minutes:seconds"),
        ("\N{ARABIC-INDIC DIGIT TWO}:00:00", "write [days-]hours:minutes:seconds"),
    ],
)
def test_a_time_that_is_misread_is_refused(site, key, value, says):
    with pytest.raises(BadInputError) as refused:
        read(site, [f"--{key}", value])
    assert f" {key} = " in str(refused.value)
    assert says in str(refused.value)


def test_every_clear_form_of_a_time():
    forms = {"1:00:00": 3600, "100:00:00": 360_000, "2-0": 172_800, "1-12:30": 131_400, "1-00:00:01": 86_401}
    assert {text: seconds(text) for text in forms} == forms
    for text in forms:
        assert read(ROOT / "slurm/generic.toml", ["--time", text]).time == text


@pytest.mark.parametrize("known", ["127.0.1.1", "127.0.0.1"])
def test_a_host_name_that_means_the_node_itself_is_refused(monkeypatch, known):
    monkeypatch.setattr("socket.gethostbyname", lambda _: known)
    with pytest.raises(BadInputError, match=f"has {known}.*set `interface`"):
        ports.address()


def test_commands_of_slurm_do_not_see_the_shells_formats(tmp_path, monkeypatch):
    (tmp_path / "scontrol").write_text("#!/bin/sh\nenv\n")
    (tmp_path / "scontrol").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    monkeypatch.setenv("SLURM_TIME_FORMAT", "relative")
    assert "SLURM_TIME_FORMAT" not in slurm.call("scontrol", "show", "job", "1")
    assert "SLURM_TIME_FORMAT" in os.environ
