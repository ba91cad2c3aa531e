"""A user's file as text: UTF-8, with or without a byte order mark, gzipped or not; else one sentence on what it is."""

import gzip
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from placid.records import BadInputError

GZIP = b"\x1f\x8b"
UTF8_MARK = b"\xef\xbb\xbf"
OTHER = {
    b"\xff\xfe\x00\x00": "UTF-32 text",
    b"\x00\x00\xfe\xff": "UTF-32 text",
    b"\xff\xfe": "UTF-16 text",
    b"\xfe\xff": "UTF-16 text",
    b"PK\x03\x04": "a zip or Excel file",
    b"PAR1": "a parquet file",
    b"%PDF": "a PDF",
    b"BZh": "bzip2-compressed",
    b"\xfd7zXZ": "xz-compressed",
    b"\x28\xb5\x2f\xfd": "zstd-compressed",
    b"\xd0\xcf\x11\xe0": "an old Excel file",
}
"""First bytes → what such a file is. The longer ones stand first."""


def read_text(path: Path) -> str:
    """The whole text of a file, line ends as they are.

    Raises:
        BadInputError: no such file, it cannot be read, or it is not UTF-8.
    """
    return "".join(text_lines(path))


def text_lines(path: Path) -> Iterator[str]:
    """The lines of a file, each with its end; only a line feed ends one. One line is in memory at a time.

    Raises:
        BadInputError: no such file, it cannot be read, or it is not UTF-8.
    """
    if not path.is_file():
        raise BadInputError(f"no file {path}")
    try:
        with _opened(path) as stream:
            for number, line in enumerate(stream, 1):
                yield _decoded(path, number, line.removeprefix(UTF8_MARK) if number == 1 else line)
    except (OSError, EOFError, zlib.error) as error:
        raise BadInputError(f"{path} cannot be read: {error}") from None


def _opened(path: Path) -> BinaryIO | gzip.GzipFile:
    with path.open("rb") as raw:
        head = raw.read(8)
    for first, kind in OTHER.items():
        if head.startswith(first):
            how = f"convert it: iconv -f {kind[:6]} -t UTF-8 {path.name!r}" if "UTF" in kind else "give the text itself"
            raise BadInputError(f"{path} is {kind}; expected UTF-8 text, so {how}")
    return gzip.open(path) if head.startswith(GZIP) else path.open("rb")


def _decoded(path: Path, number: int, line: bytes) -> str:
    if b"\0" in line:
        raise BadInputError(
            f"{path}:{number} holds a NUL byte, as UTF-16 text without a byte order mark and damaged files do; "
            "expected UTF-8 text"
        )
    try:
        return line.decode("utf-8")
    except UnicodeDecodeError as error:
        around = line[max(0, error.start - 12) : error.start + 12].decode("cp1252", errors="replace").strip()
        raise BadInputError(
            f"{path}:{number} is not UTF-8 (byte 0x{line[error.start]:02x}); as Windows-1252 (Latin-1) it reads "
            f"{around!r}: if that is right, convert it: iconv -f WINDOWS-1252 -t UTF-8 {path.name!r}"
        ) from None
