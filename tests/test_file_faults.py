"""The rows "files" of docs/faults.md: what becomes of a prompt file that is not as one would wish."""

import gzip
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import faults
from placid.inputs.prompts import read_prompts
from placid.inputs.text import read_text
from placid.records import BadInputError

ROOT = Path(__file__).parent.parent
ROW = json.dumps({"id": "a", "text": "Où est la gare ?"}, ensure_ascii=False)
TABLE = "id,text\na,Où est la gare ?\n"
FILES = {
    "a byte order mark": ("p.jsonl", b"\xef\xbb\xbf" + ROW.encode()),
    "a byte order mark in a table": ("p.csv", b"\xef\xbb\xbf" + TABLE.encode()),
    "UTF-16": ("p.jsonl", ROW.encode("utf-16")),
    "UTF-16 without a mark": ("p.csv", TABLE.encode("utf-16-le")),
    "Windows-1252": ("p.csv", TABLE.encode("cp1252")),
    "U+2028 inside a line": (
        "p.jsonl",
        (ROW.replace("gare", "ga\u2028re") + "\n" + ROW.replace('"a"', '"b"')).encode(),
    ),
    "a cell of 400,000 characters": ("p.csv", f"id,text\na,{'é' * 400_000}\n".encode()),
    "blank last lines": ("p.jsonl", ROW.encode() + b"\n\n \t\n"),
    "spaces after commas": ("p.csv", 'id, text\na, "Où est la gare ?"\n'.encode()),
    "an unquoted comma": ("p.csv", b"id,text\na,Tell me, please\n"),
    "JSON over many lines": ("p.json", json.dumps(json.loads(ROW), indent=2).encode()),
    "gzip": ("p.jsonl.gz", gzip.compress(ROW.encode(), mtime=0)),
    "gzip, cut short": ("p.jsonl.gz", gzip.compress(ROW.encode() * 9, mtime=0)[:-9]),
    "gzip, a byte changed": ("p.jsonl.gz", gzip.compress(ROW.encode(), mtime=0)[:-6] + b"zzzzzz"),
    "a folder with spaces": ("my prompts/ü.jsonl", ROW.encode()),
    "a folder in place of the file": ("p.jsonl", None),
    "no file": ("", b""),
    "no rows": ("p.csv", b"id,text\n"),
    "a NUL byte": ("p.csv", b"id,text\na,x\0y\n"),
    "a NUL character in JSON": ("p.jsonl", b'{"id": "a", "text": "x\\u0000y"}'),
    "an Excel file": ("p.csv", b"PK\x03\x04 and so on"),
}


def outcome(file, read=read_prompts):
    """(state, what the user sees) of one file."""
    try:
        read(file)
    except BadInputError as error:
        return "stop", re.sub(r"\S*/(?=p\.)", "", str(error))
    return "read", "nothing"


@pytest.mark.parametrize("fault", FILES)
def test_a_file_is_read_or_refused_as_the_table_says(tmp_path, fault):
    name, content = FILES[fault]
    file = tmp_path / (name or "p.jsonl")
    file.parent.mkdir(exist_ok=True)
    if content is None:
        file.mkdir()
    elif name:
        file.write_bytes(content)
    faults.check("files", fault, *outcome(file))


@pytest.mark.parametrize("fault", ["a file that may not be read"])
def test_a_file_without_permission_is_refused(tmp_path, fault, monkeypatch):
    file = tmp_path / "p.jsonl"
    file.write_text(ROW, encoding="utf-8")
    opened = Path.open

    def refuse(path, *args, **keys):
        if path == file:
            raise PermissionError(13, "Permission denied")  # root may read everything
        return opened(path, *args, **keys)

    monkeypatch.setattr(Path, "open", refuse)
    for read in (read_prompts, read_text):
        faults.check("files", fault, *outcome(file, read))


def test_a_study_reads_a_table_under_a_locale_that_is_not_utf8(tmp_path):
    """CSV to study --prompts, in a folder with spaces, with LC_ALL=C: the same prompts."""
    folder = tmp_path / "my prompts"
    folder.mkdir()
    (folder / "p.csv").write_text(TABLE, encoding="utf-8")
    env = {
        **os.environ,
        "LC_ALL": "C",
        "LANG": "C",
        "PYTHONUTF8": "0",
        "PYTHONCOERCECLOCALE": "0",
        "PYTHONPATH": str(ROOT / "src"),
    }
    code = (
        "import sys; from placid.study.settings import read; from pathlib import Path; from placid.study.checks import check; "
        "print(ascii(check(read(Path(sys.argv[1]), ['--prompts', sys.argv[2]]), weights=False)[0][0].text))"
    )
    words = [sys.executable, "-c", code, "configs/study/simulate.toml", str(folder / "p.csv")]
    done = subprocess.run(words, env=env, cwd=ROOT, capture_output=True, text=True, encoding="utf-8", check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == ascii("Où est la gare ?")
    for fault in ("a table given to study --prompts", "a locale that is not UTF-8"):
        faults.check("files", fault, "read", "nothing")
