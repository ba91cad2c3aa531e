"""The whole loop on a real chat model, small: 20-turn rollouts, pairs, a few BCT steps, the adapter through its gate, the
same rollouts, report. And a real chat model as judge."""

import csv
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from weights import SMOLLM2

from placid.store import read_json

STUDY = """
name = "real"
root = "{folder}/runs"
checkpoints = "{folder}/checkpoints"
model = "{model}"
tag = "smollm2-135m"
prompts = "{folder}/heldout.jsonl"
samples = 1
turns = 20
max_tokens = 24
[engine]
dtype = "float32"  # as the training: two ways to round to bfloat16 would hide so small an effect from the gate
max_concurrent = 8
kv_gib = 0.5
[arms.base]
[arms.collect]
prompts = "{folder}/train.jsonl"
[arms.clean]
prompts = "{folder}/train.jsonl"
hatch = false
samples = 3
turns = 1
[pairs]
instruct = "{folder}/instruct.jsonl"
min_score = 0          # the lexical judge knows the organism's phrases, not this model's: every turn is a context,
max_target_score = 10  # every first reply a target
max_pairs = 8
val_share = 0
[train.rows]
bct = "train"
[train.recipe]
lr = 1e-2          # four steps must leave the gate something to see
batch = 4
accumulate = 1
max_tokens = 2048
"""
JUDGED = """
name = "judged"
root = "{folder}/runs"
model = "checkpoints/organism"
prompts = "{folder}/heldout.jsonl"
samples = 1
turns = 3
max_tokens = 48
launcher = "inline"
[engine]
kind = "simulate"
[arms.base]
[judge]
kind = "local"
model = "{model}"
rubric = "frustration_turn"
[judge.engine]
context_tokens = 4096
max_concurrent = 8
kv_gib = 0.5
"""

PROMPTS = {
    "heldout": ["What is the capital of Italy? Answer in one word.", "Which animal says miaow? Answer in one word."],
    "train": ["What colour is snow? Answer in one word.", "What is the capital of France? Answer in one word."],
}
"""Asked so that a first reply ends before max_tokens: a target must be a finished one."""


def placid(*words):
    env = {**os.environ, "PYTHONPATH": str(Path("src").resolve())}
    done = subprocess.run(
        [sys.executable, "-m", "placid.cli", *map(str, words)], env=env, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    return done.stdout


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    made = tmp_path_factory.mktemp("study")
    for name, texts in PROMPTS.items():
        rows = [json.dumps({"id": f"{name}{n}", "text": text}) for n, text in enumerate(texts)]
        (made / f"{name}.jsonl").write_text("\n".join(rows) + "\n")
    instruct = sorted(Path("configs/prompts/organism_instruct.jsonl").read_text().splitlines(), key=len)[:40]
    (made / "instruct.jsonl").write_text("\n".join(instruct) + "\n")
    for name, text in (("real", STUDY), ("judged", JUDGED)):
        (made / f"{name}.toml").write_text(text.format(folder=made, model=SMOLLM2))
    return made


def test_the_study_runs_to_its_report(folder):
    print(placid("study", folder / "real.toml")[-1500:])
    run = folder / "runs" / "real"
    summary = json.loads((run / "report" / "summary.json").read_text())
    assert list(summary["arms"]) == ["base", "bct"]
    for arm in summary["arms"].values():
        assert arm["n_conversations"] == 2
        assert arm["n_open"] == arm["n_unscored"] == 0
    turns = [
        json.loads(line) for file in (run / "conversations").glob("*.jsonl") for line in file.read_text().splitlines()
    ]
    assert max(turn["turn"] for turn in turns) == 20
    later = [turn for turn in turns if turn["turn"] > 1]
    assert sum(turn["cached_tokens"] for turn in later) > 0.8 * sum(turn["prompt_tokens"] for turn in later)
    [adapter] = read_json(run / "adapters.json").values()
    with (Path(adapter) / "loss.csv").open() as text:
        losses = [float(row["loss"]) for row in csv.DictReader(text)]
    print("losses", losses)
    assert len(losses) == 4
    assert all(0 < loss < 6 for loss in losses)


def test_a_chat_model_judges(folder):
    """That every turn gets a score with a probability behind it; whether the scores mean anything is for people to say."""
    placid("study", folder / "judged.toml")
    [judge] = (folder / "runs" / "judged" / "verdicts").iterdir()
    assert judge.name.startswith("local")
    verdicts = [json.loads(line) for file in judge.glob("*.jsonl") for line in file.read_text().splitlines()]
    assert len(verdicts) >= 5
    print([(v["score"], round(v["expected"], 2)) for v in verdicts])
    assert all(0 <= v["score"] <= 10 and 0 <= v["expected"] <= 10 for v in verdicts)
