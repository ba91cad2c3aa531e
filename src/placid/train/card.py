"""The model card that lies beside exported weights: what it is, what it was trained on, how to check it."""

from typing import Any

WHAT = {
    "cross_entropy": "cross-entropy on the target tokens (BCT; on instruct rows alone: the SFT control)",
    "dpo": "direct preference optimisation of the calm over the frustrated reply",
    "act": "activation consistency on the residual stream",
    "act_attention": "activation consistency on the attention output",
    "act_mlp": "activation consistency on the MLP output",
    "jsd": "Jensen-Shannon consistency of the output distribution",
}


def text(facts: dict[str, Any]) -> str:
    """README.md of a step folder, from the content of its manifest."""
    config = facts["config"]
    lora = config["lora"]
    parts = ", ".join(lora["targets"])
    adapter = f"LoRA, rank {lora['rank']}, alpha {lora['alpha']:g}, dropout {lora['dropout']:g}, on {parts}"
    shape = adapter if config["method"] == "lora" else "all weights"
    longer = facts["rows_too_long"]
    left = f"; {longer} rows were longer than {config['max_tokens']} tokens and left out" if longer else ""
    shortened = sum(facts.get("rows_cut_by_turn", {}).values())
    left += f"; {shortened} rows lost their first tokens to that limit" if shortened else ""
    first = facts["val_loss_first"]
    held = (
        f"; on {facts['val_rows']} BCT rows of other prompts "
        f"{f'{first} before and ' if first is not None else ''}{facts['val_loss_last']} after"
        if facts["val_rows"]
        else ""
    )
    rate = f"{config['lr']:g} ({config.get('schedule', 'linear')})"
    hashes, batch = facts["hashes"], config["batch"] * config["accumulate"]
    return f"""---
base_model: {config["model"]}
library_name: {"peft" if config["method"] == "lora" else "transformers"}
tags: [placid, consistency-training]
---
# {WHAT[config["loss"]].split(" (")[0]}

Trained by placid {facts["versions"]["placid"]} on {facts["rows"]} rows, {facts["tokens"]} tokens in all{left}.
Base weights: sha256 {hashes["model"]}. Rows: sha256 {hashes["pairs"]}.

- Loss: {WHAT[config["loss"]]}
- {facts["steps"]} steps, loss {facts["loss_first"]} in the first and {facts["loss_last"]} in the last{held}
- Trained: {shape}
- AdamW, peak learning rate {rate}, {batch} rows a step, seed {config["seed"]}

`probe.json` holds log-probabilities of fixed texts by base and by these weights, as transformers computed them. An
engine that serves the weights must reproduce them; placid's does not serve them otherwise. All settings:
`manifest.json`.

What the rows teach, and for which base alone, is told by the study that made them; what else changes was not part of
the training signal: measure it before use.
"""
