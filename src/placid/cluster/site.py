"""Site profiles: slurm/<site>.toml says how this cluster is asked for nodes, and what its nodes are like."""

import re
import shlex
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BeforeValidator, Field, StringConstraints, field_validator

from placid.config import Settings, load

DURATION = re.compile(r"(\d+):([0-5]?\d):([0-5]?\d)|(\d+)-([01]?\d|2[0-3])(?::([0-5]?\d)(?::([0-5]?\d))?)?", re.ASCII)
"""hours:minutes:seconds or days-hours[:minutes[:seconds]]: the forms of Slurm's that cannot be misread."""
CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]")
"""Characters that could end a line of a script or of Slurm's options."""


def check_time(value: object) -> str:
    """A time limit as Slurm takes it; refused is also what Slurm takes for something else than people mean by it."""
    text = str(value)
    if re.fullmatch(r"\d+(:\d+)?", text):
        minutes, _, rest = text.partition(":")
        hours = f", and {minutes} hours are {minutes}:{rest}:00" if rest else ""
        raise ValueError(
            f"Slurm takes this for {minutes} minutes, which are {int(minutes) // 60:02}:{int(minutes) % 60:02}:"
            f"{rest or '00'}{hours}; write [days-]hours:minutes:seconds"
        )
    if not DURATION.fullmatch(text) or not seconds(text):
        raise ValueError("write [days-]hours:minutes:seconds, e.g. 08:00:00 or 2-00:00:00")
    return text


def check_line(value: str) -> str:
    """A value that stays on its line."""
    if CONTROL.search(value):
        raise ValueError("holds a line break or another control character")
    return value


def check_names(value: str) -> str:
    """One name or several, as in partition = "gpu,gpu-long"; without the spaces that people put after commas."""
    return re.sub(r"\s*,\s*", ",", check_line(value)).strip()


def check_words(value: str) -> str:
    """Words that a shell could split."""
    if not shlex.split(check_line(value)):  # its own sentence for a quote that is not closed
        raise ValueError("names no command")
    return value


Time = Annotated[str, BeforeValidator(check_time)]
Line = Annotated[str, BeforeValidator(check_line)]
Name = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_.@+:=-]*$")]
"""Letters, digits and . @ + : = -; Slurm's names have no others."""
Names = Annotated[
    str, BeforeValidator(check_names), StringConstraints(pattern=r"^[A-Za-z0-9_.@+-]*(,[A-Za-z0-9_.@+-]+)*$")
]
Features = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_.@+:=,&|*()\[\]!-]*$")]


class LightSettings(Settings):
    """Jobs that need no GPU: pairs and report, with the grading that is left."""

    partition: Names = ""
    """Empty: the profile's own partition."""
    cpus: Annotated[int, Field(ge=1)] = 4
    """Cores of the job."""
    memory_gb: Annotated[float, Field(gt=0)] = 16
    """Memory of the job in GiB."""
    time: Time = "04:00:00"
    """Time limit, [days-]hours:minutes:seconds."""
    offline: bool | None = None
    """Whether these nodes have no internet; none: as `offline`."""


class SiteSettings(Settings):
    """One cluster. Every key can be overridden on the command line: --site.nodes 8."""

    partition: Names = ""
    """Partition of the jobs with engines or ranks, or several ("gpu,gpu-long"); empty: the cluster's default one."""
    account: Name = ""
    """Account that is charged; empty: the user's default one."""
    qos: Name = ""
    """Quality of service; empty: the default one."""
    constraint: Features = ""
    """Node features, as for sbatch --constraint."""
    nodes: Annotated[int, Field(ge=1)] = 1
    """Nodes of a rollout job."""
    train_nodes: Annotated[int, Field(ge=1)] = 1
    """Nodes of a training job."""
    gpus_per_node: Annotated[int, Field(ge=0)] = 0
    """GPUs taken on each node."""
    gpu_request: Literal["gpus-per-node", "gres"] = "gpus-per-node"
    """How this cluster wants to be asked for them: --gpus-per-node=8 or --gres=gpu:8."""
    gpu_type: Name = ""
    """Type in that request, as in --gres=gpu:h200:8; empty: any."""
    gpu_memory_gb: Annotated[float, Field(ge=0)] = 0
    """Memory of one GPU in GiB; a model that cannot fit is refused at submission. 0: not checked."""
    exclusive: bool = False
    """Take whole nodes."""
    cpus_per_node: Annotated[int, Field(ge=1)] = 8
    """Cores taken on each node."""
    memory_gb: Annotated[float, Field(ge=0)] = 0
    """Memory taken on each node in GiB; 0: all of it."""
    time: Time = "08:00:00"
    """Time limit of jobs with engines or ranks, [days-]hours:minutes:seconds. A job that reaches it comes back."""
    grace_s: Annotated[int, Field(ge=30)] = 180
    """A job hears so many seconds before its end that it must drain."""
    requeues: Annotated[int, Field(ge=0)] = 20
    """A job comes back at most so often."""
    setup: tuple[str, ...] = ()
    """Shell lines before anything else: module load, conda activate, export. The only key that is run as code."""
    python: Annotated[str, BeforeValidator(check_words)] = ".venv/bin/python"
    """Command that runs Python in every job; may be a wrapper of several words. $NAME and ~/ are filled in there."""
    scratch: Line = "/tmp"
    """Folder on each node's own disk: caches, sockets, temporary files; $NAME is filled in there. Every job makes a
    folder of its own below it, which nobody else can enter, and removes it."""
    scratch_gb: Annotated[int, Field(ge=0)] = 0
    """Disk that Slurm must promise there (sbatch --tmp), in GiB; 0: not asked for."""
    node_local: tuple[str, ...] = ("/tmp", "/var/tmp", "/dev/shm")
    """Folders that the nodes do not share; a run directory or model there is refused."""
    interface: Name = ""
    """Network interface between the nodes (ib0, hsn0, eth0); empty: the one that the host name resolves to."""
    offline: bool = True
    """Compute nodes have no internet: jobs set the offline mode of Hugging Face, `placid fetch` gets things before."""
    engines_per_node: Annotated[int, Field(ge=0)] = 0
    """Engines on each node; 0: as many as its GPUs hold, or one without GPUs."""
    ranks_per_node: Annotated[int, Field(ge=0)] = 0
    """Training processes on each node; 0: one a GPU, or one without GPUs."""
    extra: tuple[str, ...] = ()
    """More sbatch options, each a line: "--reservation=paper"."""
    light: LightSettings = LightSettings()
    """Jobs without a GPU."""

    @field_validator("scratch")
    @classmethod
    def _folder(cls, value: str) -> str:
        if not value.startswith(("/", "$")):
            raise ValueError("write the whole path, e.g. /tmp, or a variable of the job, e.g. $SLURM_TMPDIR")
        return value

    @field_validator("extra")
    @classmethod
    def _options(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for line in value:
            if not line.startswith("-") or CONTROL.search(line):
                raise ValueError(f"{line!r} is no sbatch option; write one option a line, e.g. --reservation=paper")
        return value

    def ranks(self) -> int:
        """Training processes on each node."""
        return self.ranks_per_node or max(1, self.gpus_per_node)

    def engines(self, tensor_parallel: int) -> int:
        """Engines on each node, each over `tensor_parallel` GPUs; 0 if a node cannot hold one."""
        return self.engines_per_node or (self.gpus_per_node // tensor_parallel if self.gpus_per_node else 1)


def read(path: Path, overrides: list[str] | None = None) -> SiteSettings:
    """The profile in `path` with overrides on top.

    Raises:
        BadInputError: missing file, broken TOML, unknown key, value out of bounds.
    """
    return load(path, SiteSettings, overrides)


def seconds(duration: str) -> int:
    """Seconds of a time limit that check_time() passed."""
    days, _, clock = duration.rpartition("-")
    hours, minutes, rest = (int(part) for part in (*clock.split(":"), 0, 0)[:3])
    return ((int(days or 0) * 24 + hours) * 60 + minutes) * 60 + rest
