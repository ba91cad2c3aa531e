"""Everything that can be wrong with a submission, as one sentence, before anything is queued or written."""

import os
import tempfile
from dataclasses import dataclass
from pathlib import Path

from placid.checkpoint_files import weight_files
from placid.cluster import slurm
from placid.cluster.sbatch import Stage, nodes_of, offline
from placid.cluster.site import SiteSettings, seconds
from placid.records import BadInputError

USABLE = 0.9
"""Share of a GPU's memory that an engine may take."""


@dataclass(frozen=True)
class Needs:
    """What a study asks of a cluster, in plain values."""

    model: Path
    """Folder of the weights."""
    loads_model: bool
    """Whether engines load them."""
    tensor_parallel: int
    """GPUs of one engine."""
    kv_gib: float
    """Its cache on each of them."""
    online: tuple[str, ...]
    """Commands that ask a server on the internet."""
    shared: tuple[Path, ...]
    """Files and folders that every node reads or writes."""


def check_profile(site: SiteSettings, stages: list[Stage], needs: Needs) -> None:
    """What can be seen without Slurm.

    Raises:
        BadInputError: the first fault.
    """
    for path in (needs.model, *needs.shared):
        local = next(
            (folder for folder in site.node_local if Path(os.path.realpath(path)).is_relative_to(folder)), None
        )
        if local:
            raise BadInputError(
                f"{path} lies below {local}, which every node has for itself (node_local in the profile); move it to a "
                "shared disk"
            )
    if not (needs.model / "config.json").is_file():
        raise BadInputError(f"no model in {needs.model}; `placid fetch` puts one there from the login node")
    if seconds(site.time) <= site.grace_s:
        raise BadInputError(f"time = {site.time!r} leaves nothing before the drain; grace_s = {site.grace_s}")
    if needs.loads_model and any(stage.kind in ("engines", "engine") for stage in stages):
        check_gpus(site, needs)
    for stage in stages:
        if stage.command in needs.online and offline(stage, site):
            key = (
                "light.offline = false and a light.partition" if stage.kind == "light" else "offline = false, for nodes"
            )
            raise BadInputError(
                f"{stage.name} asks a server (judge or rewriter gemini), but its job has no internet; set {key} that "
                f"has it, or run `placid {stage.command}` on the login node between the other stages"
            )


def check_gpus(site: SiteSettings, needs: Needs) -> None:
    """One engine must fit on a node's GPUs."""
    weights_gb = _weights(needs.model) / 2**30
    if not site.gpus_per_node:
        if site.memory_gb and weights_gb > site.memory_gb:
            raise BadInputError(
                f"{needs.model} has {weights_gb:.1f} GiB of weights, a node of this profile {site.memory_gb:g} GiB of "
                "memory and no GPU (gpus_per_node)"
            )
        return
    if needs.tensor_parallel > site.gpus_per_node:
        raise BadInputError(
            f"engine.tensor_parallel = {needs.tensor_parallel} GPUs an engine, but gpus_per_node = "
            f"{site.gpus_per_node}; an engine lives on one node"
        )
    room_gb = needs.tensor_parallel * site.gpu_memory_gb * USABLE
    if site.gpu_memory_gb and weights_gb >= room_gb:
        least = int(weights_gb // (site.gpu_memory_gb * USABLE)) + 1
        raise BadInputError(
            f"{needs.model} has {weights_gb:.1f} GiB of weights, engine.tensor_parallel = {needs.tensor_parallel} "
            f"GPU(s) of {site.gpu_memory_gb:g} GiB hold {room_gb:.1f}; at least {least} are needed"
        )
    left_gb = (room_gb - weights_gb) / needs.tensor_parallel
    if site.gpu_memory_gb and needs.kv_gib > left_gb:
        raise BadInputError(
            f"engine.kv_gib = {needs.kv_gib:g}, but beside {needs.model} a GPU of {site.gpu_memory_gb:g} GiB has "
            f"{left_gb:.1f} left; placid plan --site says what fits"
        )


def _weights(model: Path) -> int:
    """Bytes; 0 where they are not fetched yet."""
    return sum(file.stat().st_size for file in weight_files(model)) if any(model.glob("*.safetensors")) else 0


def check_cluster(site: SiteSettings, stages: list[Stage]) -> None:
    """What sinfo and sacctmgr know better than sbatch says.

    Raises:
        BadInputError: the first fault.
    """
    known = slurm.nodes()
    names = sorted({group.partition for group in known})
    for key, several in (("partition", site.partition), ("light.partition", site.light.partition)):
        for name in several.split(",") if several else ():
            if name not in names:
                raise BadInputError(f"{key} = {name!r} is no partition of this cluster; it has {', '.join(names)}")
    if not site.partition and not any(group.default for group in known):
        raise BadInputError(f"partition is empty and this cluster has no default one; it has {', '.join(names)}")
    mine = slurm.accounts()
    if site.account and mine and site.account.lower() not in map(str.lower, mine):  # Slurm keeps them in small letters
        raise BadInputError(f"account = {site.account!r} is not yours; yours: {', '.join(mine)}")
    for stage in stages:
        several = (site.light.partition if stage.kind == "light" else "") or site.partition
        default = next((group.partition for group in known if group.default), "")
        _check_partitions(site, stage, {name: [g for g in known if g.partition == name]
                                        for name in (several or default).split(",")})  # fmt: skip


def _check_partitions(site: SiteSettings, stage: Stage, partitions: dict[str, list[slurm.Nodes]]) -> None:
    """One of the partitions that a job may start in must have what it asks for; the first one's fault is told."""
    faults = list[BadInputError]()
    for name, groups in partitions.items():
        try:
            key, limit = ("light.time", site.light.time) if stage.kind == "light" else ("time", site.time)
            longest = slurm.limit_s(groups[0].time)
            if longest and seconds(limit) > longest:  # Slurm itself would let the job wait for ever
                raise BadInputError(f"{key} = {limit!r}, but the longest job in {name!r} is {groups[0].time}")
            _check_nodes(site, stage, groups)
            return
        except BadInputError as error:
            faults.append(error)
    raise faults[0]


def _check_nodes(site: SiteSettings, stage: Stage, groups: list[slurm.Nodes]) -> None:
    """Enough nodes of the partition must have what each node is asked for."""
    wanted = nodes_of(stage, site)
    asks = {
        "gpus_per_node": (site.gpus_per_node, lambda group: group.gpus),
        "cpus_per_node": (site.cpus_per_node, lambda group: group.cpus),
        "memory_gb": (site.memory_gb, lambda group: group.memory_gb),
        "scratch_gb": (site.scratch_gb, lambda group: group.scratch_gb),
    }
    if stage.kind == "light":
        asks = {
            "light.cpus": (site.light.cpus, lambda group: group.cpus),
            "light.memory_gb": (site.light.memory_gb, lambda group: group.memory_gb),
        }
    partition = groups[0].partition
    for key, (asked, has) in asks.items():
        if sum(group.count for group in groups if has(group) >= asked) < wanted:
            best = max(has(group) for group in groups)
            raise BadInputError(
                f"{key} = {asked:g} on {wanted} node(s) ({stage.name}), but partition {partition!r} has "
                f"{sum(group.count for group in groups)} node(s) with at most {best:g} each"
            )


def check_scripts(texts: dict[str, str]) -> None:
    """Let Slurm judge every script; nothing is queued.

    Raises:
        BadInputError: with Slurm's own words.
    """
    with tempfile.TemporaryDirectory() as folder:
        for name, text in texts.items():
            file = Path(folder) / f"{name}.sbatch"
            file.write_text(text, encoding="utf-8")
            slurm.test_only(file)
