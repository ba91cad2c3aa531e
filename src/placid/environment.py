"""What the caller's environment may not do to a study's own processes: place them, join them to another Ray, or send
what is meant for this machine through a proxy.
"""

import os
from collections.abc import Mapping

LAUNCHERS = (
    "RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "NODE_RANK", "GROUP_RANK", "GROUP_WORLD_SIZE", "ROLE_RANK",
    "ROLE_NAME", "ROLE_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT",
)  # fmt: skip
"""Variables by which a launcher tells a process its rank: libraries that find them wait for the other ranks."""
LAUNCHER_PREFIXES = ("TORCHELASTIC_", "PET_", "PMI_", "PMIX_", "OMPI_", "MV2_", "ACCELERATE_", "FSDP_")
"""The same of torchrun (its options too), of the MPIs and of accelerate."""
OWN_RAY = ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH", "RAY_USAGE_STATS_ENABLED")
"""Ray's variables that a job's script sets, or whoever lets a study join a Ray."""
LOCAL = ("127.0.0.1", "localhost", "::1")


def is_launchers(name: str) -> bool:
    """Whether a variable gives a rank to whoever reads it."""
    return name in LAUNCHERS or name.startswith(LAUNCHER_PREFIXES)


def is_foreign_ray(name: str) -> bool:
    """Whether a variable changes a Ray that is not ours: its address, its ports, its limits."""
    return name.startswith("RAY_") and name not in OWN_RAY


def without_launcher(given: Mapping[str, str]) -> dict[str, str]:
    """An environment in which every process is its own master."""
    return {name: value for name, value in given.items() if not is_launchers(name)}


def forget_launcher() -> None:
    """The same for this process and its children, before a library that would believe such variables is loaded."""
    for name in filter(is_launchers, list(os.environ)):
        del os.environ[name]


def forget_ray() -> list[str]:
    """Take Ray's variables that are not ours out of this process's environment; their names. Before `import ray`."""
    foreign = [name for name in os.environ if is_foreign_ray(name)]
    for name in foreign:
        del os.environ[name]
    return foreign


def readers() -> str:
    """Who can read the files that a study writes: run directories follow the umask."""
    mask = os.umask(0o077)
    os.umask(mask)
    group = "you alone" if mask & 0o040 else "your group"
    return f"{group if mask & 0o004 else 'everybody'} (umask {mask:03o})"


def spare_local_hosts() -> None:
    """Let no proxy be asked for this machine; clients read it when they are made."""
    before = os.environ.get("no_proxy") or os.environ.get("NO_PROXY") or ""
    hosts = [host.strip() for host in before.split(",") if host.strip()]
    hosts += [host for host in LOCAL if host not in hosts]
    os.environ.update(no_proxy=",".join(hosts), NO_PROXY=",".join(hosts))
