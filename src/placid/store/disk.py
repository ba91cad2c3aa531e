"""Files that are never seen half written, and JSON that carries its own checksum. Everything that the store writes goes
through os.write, os.fsync, os.replace and os.link as they stand here, so a test can let each of them fail.
"""

import errno
import hashlib
import json
import os
import re
import shutil
import socket
import threading
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from placid.records import BadInputError

GUARDS: list[Callable[[], None]] = []
"""Called before records are written; each ends a process that may not write any more (lease.leased)."""
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EIO)
_NUMBER = re.compile(r"\(os error (\d+)\)")
"""How polars and safetensors name the system's error."""
_SEALED = re.compile(rb'(\{.*)\n  "checksum": "([0-9a-f]{64})"\n\}\n', re.DOTALL)
"""A JSON object and, as its last key, the sha256 of every byte before that key's line."""


def write_all(descriptor: int, data: bytes | memoryview) -> None:
    """Write every byte; the operating system may take fewer at a time."""
    left = memoryview(data)
    while left:
        left = left[os.write(descriptor, left) :]


def write_atomic(path: Path, data: bytes) -> None:
    """Replace `path` so that a reader sees the old or the new content, never half of it; nothing else is left."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = _write_beside(path, data)
    try:
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def create(path: Path, data: bytes) -> bool:
    """Make the file `path`, whole; False if there is one already. Of several processes, on any hosts, one succeeds.

    link() is exclusive on every shared file system. Over NFS its answer can be lost and the repeated call then fails
    although the first one succeeded: the number of links says so.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = _write_beside(path, data)
    try:
        os.link(temporary, path)
        return True
    except FileExistsError:
        return temporary.stat().st_nlink == 2
    except OSError as error:  # a file system without hard links
        if error.errno not in (errno.EPERM, errno.ENOTSUP, errno.EMLINK):
            raise
        return _create_slowly(path, data)
    finally:
        temporary.unlink(missing_ok=True)


def _create_slowly(path: Path, data: bytes) -> bool:
    """create() by an exclusive open: whoever reads meanwhile finds half of it."""
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
    except FileExistsError:
        return False
    try:
        write_all(descriptor, data)
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    return True


def _write_beside(path: Path, data: bytes) -> Path:
    """The content in a file of this thread's own, on disk."""
    temporary = _temporary(path)
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o666)
    try:
        try:
            write_all(descriptor, data)
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    return temporary


def _temporary(path: Path) -> Path:
    """A name beside `path` that no other thread uses and that sweep() knows."""
    return path.with_name(f".{path.name}.{_table_name()}-{os.getpid()}-{threading.get_ident()}.tmp")


@contextmanager
def fresh_folder(path: Path) -> Iterator[Path]:
    """An empty folder beside `path`. What is finished is moved out of it, or it is renamed; the rest is removed."""
    fresh = _temporary(path)
    fresh.mkdir(parents=True)
    try:
        yield fresh
    finally:
        shutil.rmtree(fresh, ignore_errors=True)


def remove(path: Path) -> None:
    """Remove a file or a folder with all that is in it, if it is there."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def sweep(folder: Path, where: str = "**/") -> None:
    """Remove the temporary files and folders that killed processes of this table of processes left in `folder`.

    where: a pattern of the folders in it that are searched; empty: `folder` itself.
    """
    for path in list(folder.glob(f"{where}.*.{_table_name()}-*.tmp")) if process_table() else ():
        pid = path.name.split("-")[-2]
        if not Path(f"/proc/{pid}").exists():
            remove(path)


def process_table() -> str:
    """Names the table of processes that this process is in; empty where the system does not say."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="utf-8").strip()
        return f"{socket.gethostname()} {boot} {Path('/proc/self/ns/pid').readlink()}"
    except OSError:
        return ""


def _table_name() -> str:
    return f"{zlib.crc32(process_table().encode()):08x}"


def write_json(path: Path, value: object, checksum: bool = True) -> None:
    """Indented JSON, atomically. An object's last key is its checksum, except in files that other programs read."""
    if checksum and isinstance(value, dict):
        write_atomic(path, seal(value))
    else:
        write_atomic(path, (json.dumps(value, indent=2, ensure_ascii=False) + "\n").encode())


def seal(value: dict[str, Any]) -> bytes:
    """Indented JSON of `value` with the sha256 of every byte before it."""
    comma = "," if value else ""
    body = (json.dumps(value, indent=2, ensure_ascii=False)[:-1].rstrip("\n") + comma).encode()
    return body + f'\n  "checksum": "{hashlib.sha256(body).hexdigest()}"\n}}\n'.encode()


def unseal(data: bytes) -> dict[str, Any] | None:
    """The value that seal() got; None if any byte differs, or if there never was a checksum."""
    match = _SEALED.fullmatch(data)
    if match is None or hashlib.sha256(match[1]).hexdigest().encode() != match[2]:
        return None
    value = json.loads(data)
    del value["checksum"]
    return value


def read_json(path: Path) -> Any:  # noqa: ANN401 - a JSON value
    """What write_json() wrote, without its checksum. A file without one, of another program or a former placid, is read
    as it is.

    Raises:
        BadInputError: damaged: no JSON, or not what its checksum says.
    """
    data = path.read_bytes()
    value = unseal(data)
    if value is not None:
        return value
    try:
        value = json.loads(data)
    except ValueError:  # also of bytes that are no text
        raise damaged(path) from None
    last = next(reversed(value), "") if isinstance(value, dict) else ""
    if len(last) == len("checksum") and sum(a != b for a, b in zip(last, "checksum", strict=True)) <= 1:
        raise damaged(path)  # it has a checksum, which a flipped bit may have renamed
    return value


def no_space(error: Exception) -> str:
    """The sentence about a file system that takes nothing more, at least for now; empty: of another error."""
    number = getattr(error, "errno", None)
    where = getattr(error, "filename", None)
    told = _NUMBER.search(str(error))
    if number is None and told:
        number = int(told[1])
    if number not in _FULL:
        return ""
    place = f" ({where})" if where else ""
    return (
        f"nothing more can be written{place}: {os.strerror(number)}; free some space or quota (report/, tables/ and "
        "export/ of a run can be removed and made again), then the same command goes on: all that is finished is kept"
    )


def damaged(path: Path) -> BadInputError:
    """The sentence about a file that does not fit its checksum, with the way out."""
    made = (
        "put a copy of it back"
        if path.name in ("config.json", "manifest.json")
        else ("put a copy of it back, or remove it: the stage that wrote it makes it again")
    )
    return BadInputError(f"{path} is damaged: its content does not fit its checksum; {made}")
