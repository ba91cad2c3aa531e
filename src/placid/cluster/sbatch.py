"""Profile + stage → the exact sbatch text. Pure: no file, clock or environment is read but the template beside it."""

import re
import shlex
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Literal

import jinja2

from placid.cluster.site import CONTROL, SiteSettings
from placid.records import BadInputError

VARIABLE = re.compile(r"(\$\w+|\$\{\w+\})")
"""All that a shell fills in in a value of a profile."""
TEMPLATE = Path(__file__).with_name("job.sbatch.jinja")

Kind = Literal["engines", "engine", "ranks", "light"]
"""engines: rollouts over nodes. engine: one, on part of a node. ranks: training over nodes. light: no GPU, one node."""


@dataclass(frozen=True)
class Stage:
    """One command of a study, as a job."""

    name: str
    """Name of the job and of its file; a command may come twice (rollout, rollout-trained)."""
    command: str
    """placid's command."""
    kind: Kind
    """What it needs."""
    follow: bool = False
    """Grade beside it while it runs."""
    gpus: int = 1
    """Of kind `engine`: GPUs of the engine, where nodes have any."""


@dataclass(frozen=True)
class Place:
    """Where a submission keeps its things, relative to the folder that it is submitted from."""

    run: str
    """Run directory, for `placid status`."""
    config: str
    """The snapshot of the config."""
    code: str
    """Folder that holds the package placid: the snapshot of the code."""
    logs: str
    """Folder of the jobs' output."""
    sweep: str = ""
    """File with one line of overrides a task; empty: no array."""
    stages: str = ""
    """PLACID_STAGES of the submitting shell, absolute: files with stages of the user's own."""


def script(stage: Stage, site: SiteSettings, place: Place, overrides: list[str], tasks: int = 0) -> str:
    """The sbatch text of one stage.

    overrides: words after the config. tasks: of the array that the points of a sweep make; 0: no array.

    Raises:
        BadInputError: a path that no line of the text can hold.
    """
    check_place(place)
    nodes = nodes_of(stage, site)
    cpus, _, gpus = share(stage, site)
    ranks = nodes * site.ranks() if stage.kind == "ranks" else 0
    rank_words = ["--kill-on-bad-exit=1", "--overlap", f"--nodes={nodes}", f"--ntasks={ranks}"]
    rank_words += [f"--ntasks-per-node={ranks // nodes}", f"--cpus-per-task={max(1, cpus * nodes // max(1, ranks))}"]
    ray_words = ["--nodes", str(nodes), "--cpus", str(cpus), "--gpus", str(gpus), "--requeues", str(site.requeues)]
    if site.scratch_gb:
        ray_words += ["--scratch-gb", str(site.scratch_gb)]
    if site.interface:
        ray_words += ["--interface", site.interface]
    environment = jinja2.Environment(
        undefined=jinja2.StrictUndefined, trim_blocks=True, keep_trailing_newline=True, autoescape=False
    )
    return environment.from_string(TEMPLATE.read_text(encoding="utf-8")).render(
        title=f"placid {stage.command} of {place.config}, {_nodes(nodes)}",
        options=options(stage, site, place, tasks),
        setup=site.setup,
        python=" ".join(map(_filled, shlex.split(site.python))),
        code=_here(place.code),
        config=place.config,
        stages=shlex.quote(place.stages) if place.stages else "",
        run=shlex.quote(place.run),
        logs=_here(place.logs),
        sweep=shlex.quote(place.sweep) if place.sweep else "",
        scratch=_filled(site.scratch.rstrip("/")),
        offline=offline(stage, site),
        words=shlex.join([place.config, *overrides]),
        kind=stage.kind,
        stage=stage.command,
        follow=stage.follow,
        nodes=nodes,
        cpus=cpus,
        rank_words=shlex.join(rank_words),
        interface=shlex.quote(site.interface) if site.interface else "",
        ray_words=shlex.join(ray_words),
        grace=site.grace_s,
        requeues=site.requeues,
    )


def nodes_of(stage: Stage, site: SiteSettings) -> int:
    """Nodes of that stage's job."""
    return {"engines": site.nodes, "engine": 1, "ranks": site.train_nodes, "light": 1}[stage.kind]


def share(stage: Stage, site: SiteSettings) -> tuple[int, float, int]:
    """Cores, memory in GiB (0: all) and GPUs that the job takes of each node."""
    if stage.kind == "light":
        return site.light.cpus, site.light.memory_gb, 0
    if stage.kind != "engine" or not site.gpus_per_node:
        return site.cpus_per_node, site.memory_gb, site.gpus_per_node
    part = min(1.0, stage.gpus / site.gpus_per_node)
    return max(1, int(site.cpus_per_node * part)), site.memory_gb * part, min(stage.gpus, site.gpus_per_node)


def offline(stage: Stage, site: SiteSettings) -> bool:
    """Whether the nodes of its job have no internet."""
    return site.offline if stage.kind != "light" or site.light.offline is None else site.light.offline


def options(stage: Stage, site: SiteSettings, place: Place, tasks: int = 0) -> list[str]:
    """The sbatch options of one stage, in the order in which they are written."""
    light = stage.kind == "light"
    nodes, (cpus, memory_gb, gpus) = nodes_of(stage, site), share(stage, site)
    chosen = {
        "job-name": f"placid-{stage.name}",
        "partition": (light and site.light.partition) or site.partition,
        "account": site.account,
        "qos": site.qos,
        "constraint": "" if light else site.constraint,
        "nodes": str(nodes),
        "ntasks-per-node": "1",
        "cpus-per-task": str(cpus),
        "mem": _memory(memory_gb),
        "tmp": f"{site.scratch_gb}G" if site.scratch_gb and not light else "",
        "time": site.light.time if light else site.time,
        "signal": f"B:USR1@{site.grace_s}",
        "array": f"0-{tasks - 1}" if tasks else "",
        "output": f"{place.logs.replace('%', '%%')}/%x-{'%A_%a' if tasks else '%j'}.out",
        "open-mode": "append",
    }
    lines = [f"--{name}={shlex.quote(value)}" for name, value in chosen.items() if value]
    if gpus:
        kind = f"{site.gpu_type}:" if site.gpu_type else ""
        form = "gpus-per-node=" if site.gpu_request == "gpus-per-node" else "gres=gpu:"
        lines.append(f"--{form}{kind}{gpus}")
    lines += ["--exclusive"] if site.exclusive and stage.kind in ("engines", "ranks") else []
    # A job whose predecessor failed would else wait for ever.
    lines += ["--requeue", "--kill-on-invalid-dep=yes"]
    lines += ["--no-kill"] if stage.kind == "engines" and nodes > 1 else []
    return [*lines, *site.extra]


def check_place(place: Place) -> None:
    """Raises BadInputError for a path that a line of the text, an option of sbatch or PYTHONPATH cannot hold."""
    for field in fields(place):
        path = getattr(place, field.name)
        if CONTROL.search(path) or "\\" in path:
            raise BadInputError(f"{path!r} holds a line break, another control character or a backslash; rename it")
    if ":" in place.code:
        raise BadInputError(f"{place.code!r} holds a colon, at which Python would split PYTHONPATH; rename it")


def _here(path: str) -> str:
    """For the shell, absolute: steps and Ray's workers may have another working directory."""
    return shlex.quote(path) if path.startswith("/") else f'"$PWD"/{shlex.quote(path)}'


def _filled(word: str) -> str:
    """One word for the shell, which fills in $NAME and a first ~ and nothing else."""
    word = word.replace("~/", "$HOME/", 1) if word.startswith("~/") else word
    parts = VARIABLE.split(word)
    return "".join(f'"{part}"' if at % 2 else shlex.quote(part) if part else "" for at, part in enumerate(parts))


def _memory(gigabytes: float) -> str:
    """In MiB, because Slurm takes whole numbers; 0 is Slurm's word for all of a node's."""
    return f"{round(gigabytes * 1024)}M" if gigabytes else "0"


def _nodes(count: int) -> str:
    return "1 node" if count == 1 else f"{count} nodes"
