"""Names that users give: what may be one, and the file that belongs to it.

Names of a config become folders (runs, arms, rows) and are plain. Names that come with data (an imported arm, a
condition, a prompt's id) are any text of one line; where one becomes a file, file_name() makes it.
"""

import hashlib
import re
import unicodedata
from typing import Annotated

from pydantic import AfterValidator

PLAIN = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._+=-]{0,99}", re.ASCII)
RESERVED = re.compile(r"(con|prn|aux|nul|com\d|lpt\d)(\..*)?", re.I | re.ASCII)
"""Windows keeps these for devices; a run may be copied there."""
LONGEST = 200
LATIN_LOOKS = "ΑΒΕΖΗΙΚΜΝΟΡΤΥΧονϲϳ"
"""Greek letters that cannot be told from Latin ones. Others (λ, α) are used beside Latin ones in good faith."""


def is_plain(name: str) -> bool:
    """May it be a file or folder as it is?"""
    return bool(PLAIN.fullmatch(name)) and not RESERVED.fullmatch(name) and not name.endswith(".")


def _checked(name: str) -> str:
    if not is_plain(name):
        raise ValueError(
            f"{name[:120]!r} cannot be a name here, because folders are named by it; expected 1 to 100 of A-Z, a-z, "
            "0-9 and . _ + = -, not beginning or ending with a dot, and no device of Windows (con, nul, com1)"
        )
    return name


PathName = Annotated[str, AfterValidator(_checked)]
"""A name that is also a file's or folder's."""


def file_name(name: str) -> str:
    """A plain name as it is; of another what is plain of it, and a hash by which two of them stay two."""
    if is_plain(name):
        return name
    kept = re.sub(r"[^A-Za-z0-9_+=-]+", "-", name).strip("-")[:60]
    return f"{kept or 'name'}-{hashlib.sha256(name.encode(errors='replace')).hexdigest()[:8]}"


def one_line(text: str) -> str:
    """Foreign words as one line without letters that cannot be seen or that turn the others round."""
    return " ".join("".join(c if c.isprintable() else " " for c in text).split())


def label_fault(name: str) -> str:
    """What is wrong with a name that came with data; empty if nothing is. One that only looks like another is wrong."""
    if not name.strip() or name != name.strip():
        return "a name without spaces around it"
    if len(name) > LONGEST:
        return f"at most {LONGEST} characters"
    unseen = next((c for c in name if unicodedata.category(c)[0] == "C" or c in "\u2028\u2029"), "")
    if unseen:
        return f"one line of letters that can be seen, not U+{ord(unseen):04X}"
    if unicodedata.normalize("NFKC", name) != name:
        return f"{unicodedata.normalize('NFKC', name)!r}, written in ordinary letters"
    alphabets = {unicodedata.name(c, "").partition(" ")[0] for c in name if c.isalpha()}
    if "LATIN" in alphabets and (alphabets & {"CYRILLIC", "ARMENIAN", "CHEROKEE"} or set(name) & set(LATIN_LOOKS)):
        return "letters of one alphabet: Latin ones and others that look like them are mixed"
    return ""
