"""Writes docs/judge_failures.md from the failures that tests/test_gemini.py injects:

PYTHONPATH=src:tests python tests/judge_failures.py > docs/judge_failures.md
"""

import tempfile
from pathlib import Path

import pytest

from gemini_server import GeminiServer
from placid.store import RunDir
from test_gemini import FAILURES, KEY, outcome, row, talk

print("# What the judge's API can do, and what becomes of the turn\n")
print(
    "Written by tests/judge_failures.py; tests/test_gemini.py injects each row over HTTP and holds this page to it.\n"
)
print("| the API | the turn | what the user sees |\n|---|---|---|")
for name, script, _, requests in FAILURES:
    with pytest.MonkeyPatch.context() as patch, tempfile.TemporaryDirectory() as folder, GeminiServer(script) as server:
        patch.setenv("GEMINI_API_KEY", KEY)
        state, seen = outcome(server, talk(RunDir(Path(folder))), patch, 0.3 if requests is None else 600)
        print(row(name, state, seen))
