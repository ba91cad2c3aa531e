"""Folders on a node's own disk that nobody else may enter: caches in them are code, sockets lead to engines."""

import os
import stat
from pathlib import Path

from placid.records import BadInputError

SOCKET_CHARACTERS = 107
"""Longest path of a Unix socket on Linux (sun_path has 108 bytes, the last one is 0)."""
RAY_CHARACTERS = 70
"""What Ray appends to its folder for a socket, and a little more:
/r/session_<date>_<time>_<microseconds>_<pid>/sockets/plasma_store."""


def own(folder: Path) -> None:
    """Make `folder` this user's alone; another process of the same job may have made it so before.

    Raises:
        BadInputError: something else lies there, it is another user's, or others may enter it.
    """
    try:
        folder.mkdir(parents=True, mode=0o700)
    except FileExistsError:
        there = folder.lstat()
        if there.st_uid != os.getuid() or stat.S_IMODE(there.st_mode) & 0o077 or not stat.S_ISDIR(there.st_mode):
            raise BadInputError(
                f"{folder} is another user's or open to others, who could put code into this job's caches; remove it "
                "or choose another folder (scratch in the profile, TMPDIR elsewhere)"
            ) from None


def close(folder: Path) -> None:
    """Take back what Ray opens to everybody in its folder: nobody but this user may enter any folder below."""
    for below in (folder, *folder.rglob("*")):
        if below.is_dir() and not below.is_symlink():
            below.chmod(0o700)


def check_length(folder: Path, key: str) -> None:
    """Raises BadInputError if Ray's sockets below `folder` would have names that the system refuses."""
    most = SOCKET_CHARACTERS - RAY_CHARACTERS
    if len(os.fsencode(folder)) > most:
        raise BadInputError(
            f"{key}: {folder} is too long for Ray's sockets; it has {len(os.fsencode(folder))} characters, at most "
            f"{most} fit. /tmp is short"
        )
