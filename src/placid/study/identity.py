"""Identity: what makes the replies of an arm, a treatment or a set of rows the ones they are.

A name in a config means one identity for good, so that a run can grow: more samples, prompts, turns, arms, treatments,
training seeds, judges and evals are added to a finished run, and what exists is reused. What only says where, when or
how fast something is made (paths, workers, cache sizes, addresses of servers) is no part of an identity.
"""

from collections.abc import Mapping
from typing import Any

from placid.config import difference
from placid.records import BadInputError
from placid.train import essential

Identity = dict[str, Any]
"""Setting → its JSON value; a path of an input file counts by the sha256 of its content."""

SHARED = ("model", "seed", "tag", "temperature", "max_tokens", "logprobs")
"""Keys of a study that are part of every arm's identity."""
ENGINE = ("kind", "context_tokens", "dtype", "load_format", "recorded")
"""Keys of [engine] that are part of every arm's identity: which model, in which numerics, with how much history."""
GROWS = ("prompts", "samples", "turns")
"""Keys of an arm that may change: they say how many conversations there are and how long, not what is said in one."""


def identities(config: Mapping[str, Any], inputs: Mapping[str, str]) -> dict[str, Identity]:
    """The identity of everything that a config names: `arms.base`, `treatments.bct`, `interventions.x`, ...

    config: the resolved study as JSON values. inputs: file or folder → sha256.
    """
    config = _by_content(config, inputs)
    engine = {key: config["engine"].get(key) for key in ENGINE}
    if engine["kind"] == "http":
        engine["http"] = {key: config["engine"]["http"][key] for key in ("served", "api")}
    shared = {key: config[key] for key in SHARED} | {"engine": engine}
    found: dict[str, Identity] = {}
    for name, arm in config["arms"].items():
        fixed = ("samples",) if arm["branch"] else ()  # a branch's sample number counts those of its source too
        found[f"arms.{name}"] = shared | {key: value for key, value in arm.items() if key in fixed or key not in GROWS}
        if arm["probe"] and not arm["probe_at"]:  # said at the last turn
            found[f"arms.{name}"]["turns"] = arm["turns"]
    for name, chosen in config["interventions"].items():
        found[f"interventions.{name}"] = {key: value for key, value in chosen.items() if key != "authorship"}
    for name, task in config["consistency"].items():
        found[f"consistency.{name}"] = task
    train = config.get("train") or {"rows": {}}
    for name, rows in train["rows"].items():
        recipe = train["recipes"].get(name, train["recipe"])
        found[f"treatments.{name}"] = {"rows": rows, "recipe": essential(recipe)}
    return found


def check_same(run: str, old: Mapping[str, Identity], new: Mapping[str, Identity]) -> None:
    """Look whether every name that both have means the same.

    Raises:
        BadInputError: a name has another identity, with the difference and the ways on.
    """
    changed = {name: lines for name in old.keys() & new.keys() if (lines := difference(old[name], new[name]))}
    if not changed:
        return
    name = min(changed, key=lambda each: (each.startswith("treatments."), each))
    others = sum(lines == changed[name] for lines in changed.values()) - 1
    also = f", and {others} more alike" if others else ""
    section, _, own = name.partition(".")
    raise BadInputError(
        f"{run}: {name} was made with other settings ({'; '.join(map(_readable, changed[name]))}{also}); give the "
        f"new one a name of its own below [{_section(section)}], choose another run (--name), or remove the old one "
        f"first: placid forget {run} {own}"
    )


def _section(kind: str) -> str:
    return "train.rows" if kind == "treatments" else kind


def _readable(line: str) -> str:
    """A line of a difference; checksums say nothing to a reader."""
    key, _, values = line.partition(": ")
    hashes = [value.strip("'") for value in values.split(" -> ")]
    return f"{key}: its files changed" if all(len(value) == 64 for value in hashes) else line


def _by_content(value: Any, inputs: Mapping[str, str]) -> Any:  # noqa: ANN401 - JSON values
    """JSON with every path of an input replaced by its sha256."""
    if isinstance(value, dict):
        return {key: _by_content(each, inputs) for key, each in value.items()}
    if isinstance(value, list):
        return [_by_content(each, inputs) for each in value]
    if not isinstance(value, str):
        return value
    recorded = f"{value}/conversations"  # of a run that the replay engine reads
    return inputs.get(value, inputs.get(recorded, value))
