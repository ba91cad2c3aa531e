"""Where rows come from: placid's own mini sets, or files that `placid fetch` put on this machine. No eval downloads.

Rollouts run on nodes without a network; `placid fetch` runs on the login node, once.
"""

import hashlib
import json
import os
import tomllib
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

from placid.config import file_sha
from placid.inputs.rows import SourceRow, ending, read_rows
from placid.records import BadInputError
from placid.store import write_atomic, write_json

OWN = Path(__file__).with_name("data")
MINI = "mini"


@cache
def known() -> dict[str, dict[str, Any]]:
    """The tables of sources.toml."""
    return tomllib.loads(Path(__file__).with_name("sources.toml").read_text(encoding="utf-8"))


def mini(name: str) -> Iterator[SourceRow]:
    """Rows of a mini set, data/<name>.jsonl of this room."""
    return read_rows(OWN / f"{name}.jsonl")


def found(eval_name: str, source: str, pattern: str = "*") -> list[Path]:
    """The data files that `source` (a file or a folder, searched to its bottom) names, sorted.

    Raises:
        BadInputError: nothing there; says what to fetch, under which licence, and where it belongs.
    """
    path = Path(source)
    files = (
        [path]
        if path.is_file()
        else sorted(p for p in path.rglob(pattern) if ending(p) in (".jsonl", ".csv", ".parquet"))
    )
    if files:
        return files
    for name, entry in known().items():
        if eval_name in entry["evals"] and (Path(source).name == name or len(_sets_of(eval_name)) == 1):
            raise BadInputError(
                f"no data for eval {eval_name} in {source}; `placid fetch {name}` on a machine with network puts it "
                f"into data/{name} ({entry.get('hub') or entry.get('git')}, licence {entry['licence']}, "
                f"{entry['page']})"
            )
    raise BadInputError(
        f'no data for eval {eval_name} in {source}; use source = "mini", or fetch one of '
        + ", ".join(_sets_of(eval_name))
    )


def _sets_of(eval_name: str) -> list[str]:
    return [name for name, entry in known().items() if eval_name in entry["evals"]]


def about(eval_name: str, source: str) -> dict[str, object]:
    """What the manifest says of a source: sha256, licence, revision."""
    if source == MINI:
        return {"source": MINI, "licence": "Apache-2.0", "by": "placid", "sha256": file_sha(OWN)}
    path = Path(source)
    if not path.exists():
        raise BadInputError(f"evals: source {source!r} of {eval_name} does not exist")
    card = next(
        (folder / "SOURCE.json" for folder in (path, *path.parents) if (folder / "SOURCE.json").is_file()), None
    )
    told = json.loads(card.read_text(encoding="utf-8")) if card else {"licence": "unknown: no SOURCE.json beside it"}
    return {"source": source, "sha256": file_sha(path), **told}


Opener = Callable[[str], bytes]


def fetch(name: str, root: Path, read: Opener | None = None) -> Path:
    """Download the files of one data set of sources.toml into root/<name>; the folder.

    Files that are there with the sha256 of SOURCE.json are kept. Nothing half-written is left.

    name: a table of sources.toml. root: folder of data folders. read: address → bytes, for tests; None: the network.

    Raises:
        BadInputError: unknown name, no network, a gated set.
    """
    entry = known().get(name)
    if entry is None:
        raise BadInputError(f"no data set {name!r}; known: {', '.join(known())}")
    read, folder = read or _download, root / name
    card = folder / "SOURCE.json"
    old = json.loads(card.read_text(encoding="utf-8")) if card.is_file() else {}
    revision = entry["revision"] or old.get("revision") or _newest(entry, read, name, folder)
    hashes: dict[str, str] = {}
    for file in entry["files"]:
        target = (
            folder / Path(file).name
            if len({Path(f).name for f in entry["files"]}) == len(entry["files"])
            else folder / file
        )
        if target.is_file() and old.get("files", {}).get(target.name) == _sha(target.read_bytes()):
            hashes[target.name] = old["files"][target.name]
            continue
        data = _get(read, _address(entry, revision, file), name, entry, folder)
        write_atomic(target, data)
        hashes[target.name] = _sha(data)
    told = {key: entry[key] for key in ("hub", "git", "licence", "page") if key in entry}
    write_json(card, {"name": name, **told, "revision": revision, "files": hashes}, checksum=False)
    return folder


def _hub() -> str:
    """The Hub, or the mirror that HF_ENDPOINT names, as for every tool of theirs."""
    return os.environ.get("HF_ENDPOINT", "https://huggingface.co").rstrip("/")


def _sha(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _address(entry: dict[str, Any], revision: str, file: str) -> str:
    if "hub" in entry:
        return f"{_hub()}/datasets/{entry['hub']}/resolve/{revision}/{file}"
    return f"https://raw.githubusercontent.com/{entry['git']}/{revision}/{file}"


def _newest(entry: dict[str, Any], read: Opener, name: str, folder: Path) -> str:
    """The commit that main points at now: it is written down, so that it is a pin from here on."""
    data = _get(read, f"{_hub()}/api/datasets/{entry['hub']}", name, entry, folder)
    return json.loads(data)["sha"]


def _get(read: Opener, address: str, name: str, entry: dict[str, Any], folder: Path) -> bytes:
    try:
        return read(address)
    except urllib.error.HTTPError as error:
        why = "it is gated: accept its licence there" if error.code in (401, 403) else f"the server says {error.code}"
    except OSError as error:
        why = f"no connection ({error})"
    raise BadInputError(
        f"{name} cannot be fetched, {why}; licence {entry['licence']}, page {entry['page']}; "
        f"or put {', '.join(Path(file).name for file in entry['files'][:3])} into {folder} yourself"
    )


def _download(address: str) -> bytes:
    with urllib.request.urlopen(address, timeout=60) as answer:
        return answer.read()
