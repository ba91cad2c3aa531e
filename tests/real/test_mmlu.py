"""MMLU by log-probability on real weights: placid on vLLM gives the letters that plain transformers gives.

100 questions of MMLU where PLACID_DATA holds it (tests/test_evals_data.py), else the 40 of the shipped set.
"""

import os
from pathlib import Path

from weights import GEMMA

from placid.evals import load
from placid.evals.asking import kept
from placid.evals.mcq import questions
from placid.evals.mmlu import prompt
from placid.evals.running import check, run
from placid.evals.sources import MINI
from placid.judge import JudgeSettings
from placid.rollout.settings import RolloutSettings
from placid.store import RunDir

DATA = Path(os.environ.get("PLACID_DATA", "none")) / "mmlu"
SOURCE, ROWS = (str(DATA), 100) if DATA.is_dir() else (MINI, 40)
CLOSE = 0.05
"""Nats: two letters so near each other may change places between two bf16 implementations."""


def plain_letters(rows):
    """Row id → (letter, its lead over the next one in nats), by transformers alone: one forward a row, no batching."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(str(GEMMA))
    model = AutoModelForCausalLM.from_pretrained(str(GEMMA), dtype=torch.bfloat16).eval()
    by_id = {question.id: question for question in questions("mmlu", SOURCE)}
    found = {}
    for row in rows:
        chat = [{"role": "user", "content": prompt(by_id[row.id])}]
        text = tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True)
        ids = tokenizer.encode(text, add_special_tokens=False, return_tensors="pt")
        with torch.no_grad():
            logits = model(ids, logits_to_keep=1).logits[0, -1].float()
        logprobs = logits.log_softmax(-1)
        scores = sorted(
            ((float(logprobs[tokenizer.encode(x, add_special_tokens=False)[0]]), x) for x in "ABCD"), reverse=True
        )
        found[row.id] = (scores[0][1], scores[0][0] - scores[1][0], scores[0][0])
    return found


def test_letters_equal_those_of_plain_transformers(tmp_path):
    evals = {"mmlu": load("mmlu", {"source": SOURCE, "n": ROWS})}
    rows = check(evals)["mmlu"].rows
    settings = RolloutSettings.model_validate({
        "model": str(GEMMA), "arms": {"base": {"prompts": "none.jsonl"}},
        "engine": {"context_tokens": 2048, "max_concurrent": 16},
    })  # fmt: skip
    run_dir = RunDir(tmp_path / "run")
    results = run(evals, settings, JudgeSettings(), run_dir, run_dir.new_attempt())
    letters = {result.row: result.answer for result in results}
    assert len(letters) == ROWS
    answers = {answer.ask: answer.logprob for answer in kept(run_dir).values()}
    want = plain_letters(rows)
    other = {name: (letters[name], *want[name]) for name in letters if letters[name] != want[name][0]}
    gaps = [abs(answers[row.asks[""].name] - want[row.id][2]) for row in rows if row.id not in other]
    mean = sum(gaps) / len(gaps)
    print(f"equal {ROWS - len(other)}/{ROWS}; mean |difference of log-probability| {mean:.4f}; other: {other}")
    assert all(lead <= CLOSE for _, _, lead, _ in other.values()), "(vLLM, transformers, lead in nats, log-probability)"
    assert len(other) <= ROWS / 50
    assert mean <= 0.05
