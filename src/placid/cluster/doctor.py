"""What this cluster has, against what a profile says; and a first profile from it."""

from pathlib import Path

from placid.cluster import slurm
from placid.cluster.preflight import check_cluster
from placid.cluster.sbatch import Stage
from placid.cluster.site import LightSettings, SiteSettings, read, seconds
from placid.config import read_value
from placid.environment import readers
from placid.records import BadInputError
from placid.store import write_atomic

PROBE = [Stage("rollout", "rollout", "engines"), Stage("train", "train", "ranks"), Stage("report", "report", "light")]
"""One stage of each kind."""


def examine(file: Path) -> list[str]:
    """Lines about the cluster, and what of the profile does not fit it; a missing profile is written.

    Raises:
        BadInputError: a profile that cannot be read, or no Slurm on this machine.
    """
    if not slurm.here():
        raise BadInputError("no Slurm on this machine; run placid doctor --site on a login node")
    groups, accounts = slurm.nodes(), slurm.accounts()
    lines = [_line(group) for group in groups]
    lines.append(f"files     what a run writes can be read by {readers()}")
    lines.append(f"accounts  {', '.join(accounts) or 'none known (no accounting, or the default one)'}")
    if not file.exists():
        write_atomic(file, propose(groups, accounts).encode())
        return [*lines, f"profile   {file} written; look it over"]
    faults = mismatches(read(file), groups)
    return [*lines, *(f"mismatch  {fault}" for fault in faults), *([] if faults else [f"profile   {file} fits"])]


def _line(group: slurm.Nodes) -> str:
    gpus = f"{group.gpus} GPU {group.gpu_type}".strip() if group.gpus else "no GPU"
    name = f"{group.partition}{' (default)' if group.default else ''}"
    return (
        f"partition {name}: {group.count} node(s), {group.cpus} cores, {group.memory_gb:.0f} GiB, {gpus}, "
        f"local disk {group.scratch_gb:.0f} GiB, longest job {group.time}"
    )


def mismatches(site: SiteSettings, groups: list[slurm.Nodes]) -> list[str]:
    """What of a profile this cluster does not have, one sentence each."""
    found = []
    try:
        check_cluster(site, PROBE)
    except BadInputError as error:
        found.append(str(error))
    own = site.partition.split(",") if site.partition else [group.partition for group in groups if group.default]
    mine = [group for group in groups if group.partition in own]
    for group in mine:
        if site.gpu_type and group.gpus and group.gpu_type != site.gpu_type:
            found.append(f"gpu_type = {site.gpu_type!r}, but {group.partition} calls its GPUs {group.gpu_type!r}")
        if group.gpus and not site.gpus_per_node:
            found.append(f"gpus_per_node = 0, but nodes of {group.partition} have {group.gpus}")
    return found


def propose(groups: list[slurm.Nodes], accounts: list[str]) -> str:
    """A first profile: the partition with the most GPUs (else the default one), whole nodes of it."""
    best = max(groups, key=lambda group: (group.gpus * group.count, group.gpus, group.default))
    light = next((group for group in groups if not group.gpus), best)
    values: dict[str, object] = {
        "partition": best.partition,
        "account": accounts[0] if len(accounts) == 1 else "",
        "nodes": 1,
        "gpus_per_node": best.gpus,
        "gpu_type": best.gpu_type,
        "cpus_per_node": best.cpus,
        "memory_gb": int(best.memory_gb * 0.95),
        "time": _limit(best),
    }
    lines = [
        "# First profile, from what sinfo said. Still to be filled in: interface (ip -br addr on a node), scratch,",
        "# gpu_memory_gb, setup (module load ...)"
        + ("" if len(accounts) < 2 else f", account (yours: {', '.join(accounts)})")
        + ".",
    ]
    lines += [f"{key} = {_toml(value)}" for key, value in values.items() if value not in ("", 0)]
    usual = LightSettings()
    small: dict[str, object] = {
        "partition": light.partition if light.partition != best.partition else "",
        "cpus": light.cpus if light.cpus < usual.cpus else "",
        "memory_gb": int(light.memory_gb * 0.95) if light.memory_gb < usual.memory_gb else "",
        "time": _limit(light) if 0 < slurm.limit_s(light.time) < seconds(usual.time) else "",
    }
    if any(small.values()):
        lines += ["", "[light]", *(f"{key} = {_toml(value)}" for key, value in small.items() if value)]
    return "\n".join(lines) + "\n"


def _limit(group: slurm.Nodes) -> str:
    """Its longest job, at most a day."""
    longest = min(slurm.limit_s(group.time) or 86_400, 86_400)
    return f"{longest // 3600:02}:{longest % 3600 // 60:02}:00"


def _toml(value: object) -> str:
    text = f'"{value}"' if isinstance(value, str) else str(value)
    assert read_value(text) == value, f"{value!r} cannot be written to TOML"
    return text
