"""What this cluster's Slurm says: partitions, queue, accounting. Every call is a subprocess on the login node."""

import os
import pwd
import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

from placid.records import BadInputError

PATIENCE_S = 60
"""A Slurm command that takes longer is taken for failed: a login node must not hang."""


KEPT = ("SLURM_CONF", "SLURM_CONF_SERVER", "SLURM_JWT")
"""How Slurm is reached. Every other variable of its commands changes what they do or print: a partition or a time of
the shell that one submits from, the job in which that shell runs, a format of times or columns."""
COMMANDS = ("SLURM_", "SBATCH_", "SRUN_", "SALLOC_", "SQUEUE_", "SINFO_", "SACCT_", "SCONTROL_", "SCANCEL_")
JOB = re.compile(r"(?:Submitted batch job )?(\d+)(?:;\S+| on cluster \S+)?")
"""The line in which sbatch names a job, with and without --parsable, alone on its line."""


class SlurmError(BadInputError):
    """A Slurm command failed; the message is its own. A user sees it as one sentence."""


@dataclass(frozen=True)
class Nodes:
    """The nodes of one partition that are alike."""

    partition: str
    default: bool
    count: int
    cpus: int
    memory_gb: float
    gpus: int
    """Of one node."""
    gpu_type: str
    scratch_gb: float
    """Node-local disk that Slurm knows of; 0: the site says nothing."""
    time: str
    """Longest job, as Slurm writes it."""


def here() -> bool:
    """Whether this machine can submit."""
    return all(shutil.which(name) for name in ("sbatch", "srun", "squeue", "sinfo"))


def foreign() -> list[str]:
    """Variables of this process that Slurm's commands would obey and a job would inherit."""
    return [name for name in os.environ if name.startswith((*COMMANDS, "PMI_", "PMIX_")) and name not in KEPT]


def job_of(told: str) -> str:
    """The job's id in what sbatch printed; a site's own words may stand around its line.

    Raises:
        SlurmError: no line names one.
    """
    known = [match[1] for line in told.splitlines() if (match := JOB.fullmatch(line.strip()))]
    if not known:
        raise SlurmError(f"sbatch named no job; squeue tells whether one was queued. It said: {' '.join(told.split())}")
    return known[-1]


def call(*words: str) -> str:
    """Output of one Slurm command.

    Raises:
        SlurmError: it failed, or does not exist here.
    """
    kept = {name: value for name, value in os.environ.items() if name not in foreign()}
    try:
        done = subprocess.run(words, capture_output=True, text=True, check=False, timeout=PATIENCE_S, env=kept)
    except FileNotFoundError:
        raise SlurmError(f"no {words[0]} on this machine") from None
    except subprocess.TimeoutExpired:
        raise SlurmError(f"{words[0]} did not answer in {PATIENCE_S} s") from None
    if done.returncode:
        told = " ".join((done.stderr or done.stdout).split())
        raise SlurmError(f"Slurm: {told}" if told else f"{words[0]} left with {done.returncode}")
    return done.stdout


def nodes() -> list[Nodes]:
    """Every group of like nodes, by partition.

    Raises:
        SlurmError: no answer.
    """
    found = []
    for line in call("sinfo", "-h", "-e", "-o", "%P|%D|%c|%m|%G|%d|%l").splitlines():
        if line.count("|") != 6:  # a site's own words
            continue
        name, count, cpus, memory, gres, disk, time = line.split("|")
        gpus, kind = gpus_of(gres)
        found.append(
            Nodes(
                partition=name.rstrip("*"),
                default=name.endswith("*"),
                count=int(count),
                cpus=int(re.sub(r"\D.*", "", cpus)),
                memory_gb=int(re.sub(r"\D.*", "", memory)) / 1024,
                gpus=gpus,
                gpu_type=kind,
                scratch_gb=int(re.sub(r"\D.*", "", disk)) / 1024,
                time=time,
            )
        )
    return found


def gpus_of(gres: str) -> tuple[int, str]:
    """GPUs and their type in a list like "gpu:h200:8(S:0-1),shard:16"."""
    for entry in gres.split(","):
        found = re.match(r"gpu(?::([^:()]*[^\d:()][^:()]*))?:(\d+)", entry)
        if found:
            return int(found[2]), found[1] or ""
    return 0, ""


def limit_s(text: str) -> int:
    """Seconds of a time as sinfo writes it ([days-]h:mm:ss or mm:ss); 0: no limit."""
    if not text or not text[0].isdigit():  # infinite, n/a
        return 0
    days, _, rest = text.rpartition("-")
    parts = [int(part) for part in rest.split(":")]
    while len(parts) < 3:
        parts.insert(0, 0)
    return int(days or 0) * 86_400 + parts[0] * 3600 + parts[1] * 60 + parts[2]


def test_only(file: Path) -> None:
    """Let Slurm judge a script without queueing it.

    Raises:
        BadInputError: Slurm would refuse it; with Slurm's own words.
    """
    try:
        call("sbatch", "--test-only", str(file))
    except SlurmError as error:
        words = re.sub(r"^(sbatch: )?(error: |allocation failure: )*", "", str(error))
        raise BadInputError(f"Slurm refuses {file.name}: {words.removeprefix('allocation failure: ')}") from None


def queued(jobs: list[str]) -> dict[str, str]:
    """Job id → state, of those that wait or run. An unknown id is not in the queue.

    Raises:
        SlurmError: no answer.
    """
    if not jobs:
        return {}
    lines = call("squeue", "-h", "-r", "-u", str(os.getuid()), "-o", "%A|%F|%T").splitlines()
    found: dict[str, str] = {}
    for line in lines:
        if line.count("|") != 2:
            continue
        job, array, state = line.split("|")
        for name in (job, array):  # every task of an array counts for its array
            if name in jobs:
                found[name] = state
    return found


def nodes_of(job: str) -> tuple[str, list[str]]:
    """Node of a running job's script, and the nodes that it has now; none if it does not run.

    Raises:
        SlurmError: no answer.
    """
    try:
        shown = call("scontrol", "show", "job", job)
    except SlurmError as error:
        if "Invalid job id" in str(error):  # over, and forgotten
            return "", []
        raise
    first, left = re.search(r"BatchHost=(\S+)", shown), re.search(r"\bNodeList=(\S+)", shown)
    if "JobState=RUNNING" not in shown or first is None or left is None:
        return "", []
    return first[1], call("scontrol", "show", "hostnames", left[1]).split()


def starts(jobs: list[str]) -> dict[str, list[str]]:
    """Job id → how each of its starts ended, in order, by accounting; nothing where the site keeps none."""
    if not jobs:
        return {}
    try:
        lines = call("sacct", "-D", "-n", "-X", "-P", "-o", "JobIDRaw,Start,State", "-j", ",".join(jobs)).splitlines()
    except SlurmError:  # no accounting: the queue and our own records must do
        return {}
    found: dict[str, list[str]] = {}
    rows = [line.split("|") for line in lines if line.count("|") == 2]
    for job, start, state in sorted(rows, key=lambda row: row[1]):
        if start not in ("Unknown", "None") and state != "RESIZING":  # it lost a node and went on: the same start
            found.setdefault(job, []).append(state.split()[0])
    return found


def accounts() -> list[str]:
    """Accounts that this user may charge; none where the site keeps no accounting."""
    try:
        user = pwd.getpwuid(os.getuid()).pw_name
        lines = call("sacctmgr", "-n", "-P", "show", "assoc", f"user={user}", "format=account").splitlines()
    except (SlurmError, KeyError):  # no accounting, or a user without a name
        return []
    return sorted({line for line in lines if line})
