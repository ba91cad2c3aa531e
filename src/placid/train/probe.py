"""The gate's first half: log-probabilities of fixed rows, by transformers + peft, from the EXPORTED files.

An engine that serves the adapter compares its own log-probabilities with these, so an adapter whose keys do not
reach the served weights cannot pass unseen. bfloat16 weights, as engines serve them.
"""

from pathlib import Path
from typing import Any

import torch

from placid.records import Pair, PairKind
from placid.render import Renderer

ROWS = 4
TOKENS = 256
"""Tokens of one probe row at most: its beginning, as a model meets it."""


def choose(renderer: Renderer, pairs: list[Pair]) -> list[list[int]]:
    """Token ids of ROWS rows: both kinds in turn, in a fixed order."""
    by_kind = [
        sorted(
            (renderer.example(p.messages, p.target).ids for p in pairs if p.kind == kind),
            key=lambda ids: (len(ids), ids),
        )
        for kind in PairKind
    ]
    # the longest row that still fits holds most rejections; with none, the beginning of the shortest
    picked = [([ids for ids in rows if len(ids) <= TOKENS] or rows[:1])[::-1] for rows in by_kind]
    turns = max((len(rows) for rows in picked), default=0)
    mixed = [rows[at] for at in range(turns) for rows in picked if at < len(rows)]
    return [ids[:TOKENS] for ids in mixed[:ROWS]]


def measure(base: Path, step: Path, rows: list[list[int]], method: str) -> dict[str, Any]:
    """probe.json's content: for each row its ids, and log p(ids[i] | ids[:i]) for i = 1..L-1, base and trained."""
    from peft import PeftModel

    model = _load(base)
    before = [logprobs(model, ids) for ids in rows]
    model = (
        _load(step) if method == "full" else PeftModel.from_pretrained(model, str(step), autocast_adapter_dtype=False)
    )
    after = [logprobs(model, ids) for ids in rows]
    moved = max(abs(a - b) for x, y in zip(before, after, strict=True) for a, b in zip(x, y, strict=True))
    if not moved:
        raise RuntimeError(f"the exported weights in {step} change no log-probability: a no-op adapter")
    return {
        "schema": 1,
        "rows": [{"ids": i, "base": b, "adapter": a} for i, b, a in zip(rows, before, after, strict=True)],
    }


def _load(folder: Path) -> Any:  # noqa: ANN401 - a transformers model
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(
        str(folder), dtype=torch.bfloat16, local_files_only=True, trust_remote_code=False, use_safetensors=True
    ).eval()


@torch.no_grad()
def logprobs(model: Any, ids: list[int]) -> list[float]:  # noqa: ANN401 - a transformers or peft model
    """log p(ids[i] | ids[:i]) for i = 1..L-1, natural logarithm, softmax in float32."""
    logits = model(input_ids=torch.tensor([ids]), use_cache=False).logits[0, :-1].float()
    picked = torch.log_softmax(logits, -1).gather(1, torch.tensor(ids[1:])[:, None])
    return [round(value, 6) for value in picked[:, 0].tolist()]
