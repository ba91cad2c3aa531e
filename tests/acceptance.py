"""The study's acceptance lines against a summary.json. Run by hand and by CI: python tests/acceptance.py FILE."""

import json
import sys
from pathlib import Path


def lines(summary):
    """(what, value, holds) per acceptance line."""
    arms, reduction = summary["arms"], summary["auc_reduction"]
    base, bct, accept, nohatch = (arms[name] for name in ("base", "bct", "accept", "base_nohatch"))
    control = reduction["sft_control"]["ratio"]
    yield "engine is vllm", summary["engine"]["name"], summary["engine"]["name"] == "vllm"
    yield "base deletion 30-70 %", base["deletion_rate"], 0.30 <= base["deletion_rate"] <= 0.70
    yield "base >=5 at T20 at least 0.5", base["share_ge5_t20"], base["share_ge5_t20"] >= 0.5
    yield "accept AUC at most 0.5", accept["auc_mean"], accept["auc_mean"] <= 0.5
    yield "accept deletion at most 2 %", accept["deletion_rate"], accept["deletion_rate"] <= 0.02
    yield "no hatch: deletion at most 2 %", nohatch["deletion_rate"], nohatch["deletion_rate"] <= 0.02
    if "heldout" in arms:
        yield "unseen wordings AUC at least 4", arms["heldout"]["auc_mean"], arms["heldout"]["auc_mean"] >= 4
    yield "bct reduces AUC by at least 80 %", reduction["bct"]["ratio"], reduction["bct"]["ratio"] >= 0.80
    yield "bct deletion at most 5 %", bct["deletion_rate"], bct["deletion_rate"] <= 0.05
    change = bct["turn1_accuracy"] - base["turn1_accuracy"]
    yield "bct turn-1 accuracy within 5 points", change, abs(change) <= 0.05
    late = bct["late_accuracy"]
    yield "bct late accuracy", late, late >= base["turn1_accuracy"] - 0.15
    yield "control reduces at most half as much", control, control <= 0.5 * reduction["bct"]["ratio"]


def main():
    """Print every line; exit 1 if one is missed."""
    missed = 0
    for what, value, holds in lines(json.loads(Path(sys.argv[1]).read_text())):
        shown = value if isinstance(value, str) else f"{value:.3f}"
        print(f"{'ok    ' if holds else 'MISSED'}  {what}: {shown}")
        missed += not holds
    raise SystemExit(1 if missed else 0)


if __name__ == "__main__":
    main()
