"""The commands of docs/own-*.md do what the page says: every line of the page is run, but for those that need weights."""

import csv
import json
import re
import shlex
import subprocess
from pathlib import Path

import pytest

from placid.cli import main

ROOT = Path(__file__).parent.parent
WEIGHTS = ("configs/study/demo.toml --name mine", "--judge.kind local")
"""Lines with these start vLLM; tests/real/test_loop.py does the same on real weights."""


def lines_of(page):
    """Shell blocks whole, and every indented command by itself, in the order of the page."""
    text = (ROOT / "docs" / f"{page}.md").read_text()
    return [block or line for block, line in re.findall(r"^```sh\n(.*?)^```|^    (\S[^\n]*)", text, re.M | re.S)]


def folder_of(tmp_path, **models):
    """A user's folder: placid's files, and models by the names that the pages use."""
    for name in ("configs", "src", "checkpoints"):
        (tmp_path / name).symlink_to(ROOT / name)
    for name, folder in models.items():
        (tmp_path / name.replace("_", "-")).symlink_to(folder)
    return tmp_path


def run(line, folder):
    """As at a prompt in `folder`, which is the current one."""
    if line.startswith("placid "):
        main(shlex.split(line, comments=True)[1:])
    else:
        subprocess.run(["bash", "-e", "-c", line], check=True, cwd=folder)


@pytest.mark.parametrize("page", ["own-model", "own-prompts", "own-judge"])
def test_the_commands_of_a_page_work(page, tmp_path, monkeypatch, capsys):
    folder = folder_of(tmp_path, my_model=ROOT / "checkpoints/organism")
    monkeypatch.chdir(folder)
    ran = 0
    for line in lines_of(page):
        if any(words in line for words in WEIGHTS):
            continue
        if "my-scores.csv" in line:
            scores(folder)
        run(line, folder)
        ran += 1
    assert ran >= 2
    told = capsys.readouterr().out
    if page == "own-model":
        assert "assumed     154 tokens a reply" in told, "0.6 of max_tokens"
    if page == "own-prompts":
        summary = json.loads((folder / "runs/with-my-prompts/report/summary.json").read_text())
        assert summary["n_prompts"] == 2
    if page == "own-judge":
        judges = sorted(path.name.split("-")[0] for path in (folder / "runs/mine/verdicts").iterdir())
        assert judges == ["human", "lexical", "lexical"]
        assert list((folder / "runs/mine/validation").glob("*/index.html"))


def scores(folder):
    """What a person may have filled in: every turn of the run, scored by its number."""
    turns = [json.loads(line) for file in (folder / "runs/mine/conversations").glob("*.jsonl") for line in file.open()]
    with (folder / "my-scores.csv").open("w") as text:
        sheet = csv.writer(text)
        sheet.writerow(["arm", "condition", "prompt_id", "sample", "turn", "score"])
        for turn in turns:
            key = turn["key"]
            sheet.writerow([key["arm"], key["condition"], key["prompt_id"], key["sample"], turn["turn"], turn["turn"]])
