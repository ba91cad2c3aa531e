"""Strict frozen settings: sparse TOML and dotted overrides in, full JSON and one identity hash out."""

import datetime
import difflib
import hashlib
import json
import re
import tomllib
import typing
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

import pydantic

from placid.inputs.text import read_text
from placid.records import BadInputError


class Settings(pydantic.BaseModel):
    """Base of every config class: frozen, unknown keys refused, each field documented by the string below it."""

    model_config = pydantic.ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)


S = TypeVar("S", bound=Settings)


def load(
    path: Path,
    cls: type[S],
    overrides: list[str] | None = None,
    complete: Callable[[dict[str, Any]], dict[str, Any]] | None = None,
) -> S:
    """Read `path` (TOML) as `cls`, with overrides like `["rollout.samples=2", "--train.lr", "1e-3"]` on top.

    A file may hold [profiles.NAME] sections: `--profile NAME` lays one over the file, below the other overrides. A
    profile that says `profile = "OTHER"` lies over that one.

    complete: fills values that one key shares with others, after the overrides and before anything is checked.

    Raises:
        BadInputError: missing file, broken TOML, unknown key (naming the nearest valid one), value out of bounds.
    """
    if not path.is_file():
        raise BadInputError(f"no file {path}; shipped configs are under configs/, site profiles under slurm/")
    try:
        data = tomllib.loads(read_text(path).replace("\r\n", "\n"))
    except (ValueError, RecursionError) as error:  # beside TOML's own: a number of thousands of digits
        if isinstance(error, BadInputError):
            raise
        raise BadInputError(f"{path} is not valid TOML: {error}") from None
    pairs = parse_overrides(overrides or [])
    profiles, named = data.pop("profiles", {}), [value for dotted, value in pairs if dotted == "profile"]
    for name in named:
        data = overlaid(data, _profile(profiles, name, path))
    for dotted, value in pairs:
        if dotted != "profile":
            _keep_defaults(cls, data, dotted.split("."))
            put(data, dotted, value)
    return build(cls, complete(data) if complete else data, str(path))


def _keep_defaults(cls: type[Settings], data: dict[str, Any], parts: list[str]) -> None:
    """Write an open section's default entries into `data`, so that an override of one entry adds to them."""
    field = cls.model_fields.get(parts[0])
    if field is None or len(parts) == 1:
        return
    if typing.get_origin(field.annotation) is dict:
        if not field.is_required():
            data.setdefault(parts[0], dict(field.get_default(call_default_factory=True)))
        return
    inner = next((kind for kind in _kinds(field.annotation) if issubclass(kind, Settings)), None)
    section = data.setdefault(parts[0], {})
    if inner and isinstance(section, dict):
        _keep_defaults(inner, section, parts[1:])


def _profile(profiles: dict[str, Any], name: str, path: Path) -> dict[str, Any]:
    """One profile with those that it lies over."""
    if name not in profiles:
        raise BadInputError(f"{path} has no profile {name!r}; it has {', '.join(profiles) or 'none'}")
    own = dict(profiles[name])
    below = own.pop("profile", None)
    others = {key: value for key, value in profiles.items() if key != name}  # a circle ends as a name that is not there
    return overlaid(_profile(others, below, path), own) if below else own


def overlaid(below: dict[str, Any], above: dict[str, Any]) -> dict[str, Any]:
    """`below` with the values of `above`; sections are merged key by key."""
    merged = dict(below)
    for key, value in above.items():
        old = merged.get(key)
        merged[key] = overlaid(old, value) if isinstance(old, dict) and isinstance(value, dict) else value
    return merged


def load_words(cls: type[S], words: list[str], first: str, where: str) -> S:
    """Settings of a command without a config file: an optional value of the key `first`, then overrides.

    Raises:
        BadInputError: unknown key, value out of bounds.
    """
    data: dict[str, Any] = {}
    if words and not words[0].startswith("--"):
        data[first], words = words[0], words[1:]
    for dotted, value in parse_overrides(words):
        put(data, dotted, value)
    return build(cls, data, where)


def parse_overrides(words: list[str]) -> list[tuple[str, Any]]:
    """`--a.b 1`, `--a.b=1` and `a.b=1` all mean the same; values are read as TOML and else taken as text."""
    pairs: list[tuple[str, Any]] = []
    rest = list(words)
    while rest:
        word = rest.pop(0)
        name, equals, value = word.removeprefix("--").partition("=")
        if not equals:
            if not word.startswith("--") or not rest:
                raise BadInputError(f"override {word!r} has no value; write --{name} VALUE or {name}=VALUE")
            value = rest.pop(0)
        pairs.append((name.replace("-", "_"), read_value(value)))
    return pairs


def read_value(text: str) -> Any:  # noqa: ANN401 - a TOML value
    """A TOML value if it parses as one, else the text itself; a time limit (08:00:00) or date is text too."""
    try:
        value = tomllib.loads(f"x = {text}")["x"]
    except (ValueError, RecursionError):  # not TOML
        return text
    return text if isinstance(value, datetime.date | datetime.time) else value


def put(data: dict[str, Any], dotted: str, value: object) -> None:
    """Set `data["a"]["b"] = value` for `dotted` "a.b"."""
    *parents, last = dotted.split(".")
    for parent in parents:
        data = data.setdefault(parent, {})
        if not isinstance(data, dict):
            raise BadInputError(f"override --{dotted}: {parent!r} is a value, not a section")
    data[last] = value


def build(cls: type[S], data: dict[str, Any], where: str) -> S:
    """Validate `data` as `cls`; the first fault becomes one sentence."""
    try:
        return cls.model_validate(data)
    except pydantic.ValidationError as error:
        raise BadInputError(explain(cls, error.errors()[0], where)) from None


def explain(cls: type[Settings], fault: Any, where: str) -> str:  # noqa: ANN401 - pydantic's ErrorDetails
    """One sentence: file, key, value, and what would be right."""
    dotted = ".".join(str(part) for part in fault["loc"])
    if fault["type"] == "missing":  # pydantic's input is the whole section then
        return f"{where}: the key {dotted!r} is missing"
    if fault["type"] != "extra_forbidden":
        meant = fault["msg"].removeprefix("Value error, ").replace("a valid tuple", "a list")  # pydantic's own words
        return f"{where}: {dotted} = {fault['input']!r}: {meant}"
    valid = valid_keys(cls)
    beside = [key for key in valid if key.count(".") == dotted.count(".")]
    named = [_named(key, dotted) for key in beside]
    near = difflib.get_close_matches(dotted, named, n=1, cutoff=0.5) or difflib.get_close_matches(
        dotted.split(".")[-1], [key.split(".")[-1] for key in valid], n=1
    )
    return f"{where}: unknown key {dotted!r}; " + (
        f"did you mean {near[0]!r}?" if near else f"valid: {', '.join(valid)}"
    )


def _named(key: str, dotted: str) -> str:
    """`arms.<name>.turns` as the user would write it: with the names that stand in `dotted`."""
    pairs = zip(key.split("."), dotted.split("."), strict=True)
    return ".".join(theirs if part == "<name>" else part for part, theirs in pairs)


def valid_keys(cls: type[Settings]) -> list[str]:
    """Every dotted key that `cls` accepts; a part that the user names shows as <name>."""
    return [key for key, _, _ in describe(cls)]


def describe(cls: type[Settings], prefix: str = "") -> list[tuple[str, str, str]]:
    """(dotted key, default, meaning with its unit) of every key of `cls`; sections are followed by their own keys.

    The meaning is the string below the field, so it is written once. An open section (arms by name) shows as <name>.
    """
    rows: list[tuple[str, str, str]] = []
    for name, field in cls.model_fields.items():
        default = "required" if field.is_required() else _shown(field.get_default(call_default_factory=True))
        inner = next((kind for kind in _kinds(field.annotation) if issubclass(kind, Settings)), None)
        text = " ".join((field.description or "").split())
        rows.append((prefix + name, "" if inner and default != "required" else default, text))
        if inner:
            open_section = typing.get_origin(field.annotation) is dict
            rows += describe(inner, f"{prefix}{name}.<name>." if open_section else f"{prefix}{name}.")
    return rows


def _kinds(annotation: object) -> list[type]:
    """The classes that stand anywhere in an annotation."""
    arguments = [kind for part in typing.get_args(annotation) for kind in _kinds(part)]
    return [annotation, *arguments] if isinstance(annotation, type) else arguments


def _shown(value: object) -> str:
    """A default as one would write it in TOML."""
    if value is None:
        return "none"
    return str(value) or '""' if isinstance(value, Path | str) else json.dumps(value, default=str)


def canonical(settings: Settings) -> dict[str, Any]:
    """The resolved config as plain JSON values."""
    return settings.model_dump(mode="json")


def sha(value: object) -> str:
    """sha256 of the canonical JSON of `value`."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


DROPPINGS = re.compile(
    r"\..*|.*~|.*\.lock|core\.\d+|__pycache__|@eaDir|lost\+found|CACHEDIR\.TAG|Thumbs\.db|desktop\.ini"
)
"""Names below a folder that file systems, version control, caches and file managers leave there."""


def file_sha(path: Path) -> str:
    """sha256 of one file, or of all files below a folder that its owner put there (names and contents)."""
    digest = hashlib.sha256()
    below = [path] if path.is_file() else sorted(path.rglob("*"))
    files = [p for p in below if not any(map(DROPPINGS.fullmatch, p.relative_to(path).parts)) and p.is_file()]
    with ThreadPoolExecutor() as pool:  # weights have tens of gigabytes, and hashing lets other threads run
        for file, content in zip(files, pool.map(_known_sha, files), strict=True):
            digest.update(file.relative_to(path).as_posix().encode() if file != path else b"")
            digest.update(content)
    return digest.hexdigest()


def _known_sha(file: Path) -> bytes:
    stat = file.stat()
    return _content_sha(file.absolute(), stat.st_size, stat.st_ino, stat.st_mtime_ns)


@cache
def _content_sha(file: Path, *_unchanged: int) -> bytes:
    """Once a process for an unchanged file: a study asks for its weights at its start and for every training."""
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").digest()


def difference(old: dict[str, Any], new: dict[str, Any], prefix: str = "") -> list[str]:
    """Field-by-field diff of two resolved configs: `a.b: 1 -> 2`."""
    lines: list[str] = []
    for name in sorted(old.keys() | new.keys()):
        left, right = old.get(name), new.get(name)
        if isinstance(left, dict) and isinstance(right, dict):
            lines += difference(left, right, f"{prefix}{name}.")
        elif left != right:
            lines.append(f"{prefix}{name}: {left!r} -> {right!r}")
    return lines
