"""One rank of tests/test_checkpoint.py's matrix: 30 steps at every ZeRO stage, and on from what 4 processes saved.

torchrun curve_ranks.py PAIRS.jsonl FOLDER      writes FOLDER/p<processes>z<stage>[from4].json: step -> loss
"""

import json
import shutil
import sys
from pathlib import Path

import torch

from placid.train import worker
from test_train import settings


def curve(pairs: Path, folder: Path, name: str, zero: int, ranks: worker.Ranks) -> None:
    """Train in FOLDER/name, from its newest checkpoint if there is one."""
    chosen = settings(epochs=10, zero=zero, processes=ranks.processes, save_every=12, keep=9)
    job = worker.Job(chosen, pairs, folder / name, "matrix", {})
    job.out.mkdir(exist_ok=True)
    torch.distributed.barrier()
    trainer = worker.Trainer(job, ranks)
    trainer.run()
    if trainer.progress:
        lines = [json.loads(line) for line in trainer.progress.lines]
        (folder / f"{name}.json").write_text(json.dumps({line["step"]: line["loss"] for line in lines}))


def main() -> None:
    torch.set_num_threads(1)
    pairs, folder = (Path(word) for word in sys.argv[1:])
    ranks = worker.join()
    for zero in range(4):
        name = f"p{ranks.processes}z{zero}"
        curve(pairs, folder, name, zero, ranks)
        if ranks.processes < 4:
            saved = folder / f"p4z{3 - zero}" / "resume" / "step_12"  # of another stage as well
            if ranks.rank == 0:
                shutil.copytree(saved, folder / f"{name}from4" / "resume" / "step_12")
            torch.distributed.barrier()
            curve(pairs, folder, f"{name}from4", zero, ranks)
    torch.distributed.barrier()
    torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main()
