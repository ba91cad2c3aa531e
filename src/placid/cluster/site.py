"""Site profiles: slurm/<site>.toml says how this cluster is asked for nodes, and what its nodes are like."""

import re
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, field_validator

from placid.config import Settings, load

DURATION = re.compile(r"(?:(\d+)-)?(\d{1,2}):(\d{2}):(\d{2})")
"""[days-]hours:minutes:seconds, the one form of Slurm's that cannot be misread."""


class LightSettings(Settings):
    """Jobs that need no GPU: pairs and report, with the grading that is left."""

    partition: str = ""
    """Empty: the profile's own partition."""
    cpus: Annotated[int, Field(ge=1)] = 4
    """Cores of the job."""
    memory_gb: Annotated[float, Field(gt=0)] = 16
    """Memory of the job in GiB."""
    time: str = "04:00:00"
    """Time limit, [days-]hours:minutes:seconds."""
    offline: bool | None = None
    """Whether these nodes have no internet; none: as `offline`."""


class SiteSettings(Settings):
    """One cluster. Every key can be overridden on the command line: --site.nodes 8."""

    partition: str = ""
    """Partition of the jobs with engines or ranks; empty: the cluster's default one."""
    account: str = ""
    """Account that is charged; empty: the user's default one."""
    qos: str = ""
    """Quality of service; empty: the default one."""
    constraint: str = ""
    """Node features, as for sbatch --constraint."""
    nodes: Annotated[int, Field(ge=1)] = 1
    """Nodes of a rollout job."""
    train_nodes: Annotated[int, Field(ge=1)] = 1
    """Nodes of a training job."""
    gpus_per_node: Annotated[int, Field(ge=0)] = 0
    """GPUs taken on each node."""
    gpu_request: Literal["gpus-per-node", "gres"] = "gpus-per-node"
    """How this cluster wants to be asked for them: --gpus-per-node=8 or --gres=gpu:8."""
    gpu_type: str = ""
    """Type in that request, as in --gres=gpu:h200:8; empty: any."""
    gpu_memory_gb: Annotated[float, Field(ge=0)] = 0
    """Memory of one GPU in GiB; a model that cannot fit is refused at submission. 0: not checked."""
    exclusive: bool = False
    """Take whole nodes."""
    cpus_per_node: Annotated[int, Field(ge=1)] = 8
    """Cores taken on each node."""
    memory_gb: Annotated[float, Field(ge=0)] = 0
    """Memory taken on each node in GiB; 0: all of it."""
    time: str = "08:00:00"
    """Time limit of jobs with engines or ranks, [days-]hours:minutes:seconds. A job that reaches it comes back."""
    grace_s: Annotated[int, Field(ge=30)] = 180
    """A job hears so many seconds before its end that it must drain."""
    requeues: Annotated[int, Field(ge=0)] = 20
    """A job comes back at most so often."""
    setup: tuple[str, ...] = ()
    """Shell lines before anything else: module load, conda activate, export."""
    python: str = ".venv/bin/python"
    """Command that runs Python in every job; may be a wrapper of several words."""
    scratch: str = "/tmp"
    """Folder on each node's own disk: caches, sockets, temporary files. Jobs make their own folder below it."""
    scratch_gb: Annotated[int, Field(ge=0)] = 0
    """Disk that Slurm must promise there (sbatch --tmp), in GiB; 0: not asked for."""
    node_local: tuple[str, ...] = ("/tmp", "/var/tmp", "/dev/shm")
    """Folders that the nodes do not share; a run directory or model there is refused."""
    interface: str = ""
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

    @field_validator("time")
    @classmethod
    def _duration(cls, value: str) -> str:
        if not DURATION.fullmatch(value):
            raise ValueError("write [days-]hours:minutes:seconds, e.g. 08:00:00 or 2-00:00:00")
        return value

    @field_validator("extra")
    @classmethod
    def _options(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for line in value:
            if not line.startswith("-") or "\n" in line:
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
    """Seconds of a [days-]hours:minutes:seconds."""
    found = DURATION.fullmatch(duration)
    if found is None:
        raise ValueError(f"{duration!r} is no [days-]hours:minutes:seconds")
    days, hours, minutes, rest = (int(part or 0) for part in found.groups())
    return ((days * 24 + hours) * 60 + minutes) * 60 + rest
