"""One rank of tests/test_tree.py's matrix: loss and gradients of one packed step, whatever its split.

torchrun tree_ranks.py MODEL METHOD ROWS.json OUT.pt ZERO...    for every ZeRO stage in turn; rank 0 writes
"""

import json
import sys
from pathlib import Path

import torch
from deepspeed.utils import safe_get_full_grad

from placid.render import Rendered
from placid.train import TrainSettings, data, model, worker
from placid.train.losses.cross_entropy import CrossEntropy


def move_adapter(learner: model.Learner) -> None:
    """peft starts with B = 0, where A has no gradient."""
    for name, parameter in learner.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.05, generator=torch.Generator().manual_seed(1))


def measure(folder: str, method: str, examples: list[data.Example], zero: int, ranks: worker.Ranks) -> dict:
    settings = TrainSettings(model=Path(folder), method=method, zero=zero, accumulate=1, grad_clip=0)
    keep = None
    if zero == 3:
        from transformers.integrations.deepspeed import HfDeepSpeedConfig

        keep = HfDeepSpeedConfig(worker.deepspeed_config(settings))
    learner = model.build(settings)
    move_adapter(learner)
    engine = worker.around(learner, settings)
    del keep
    step = data.plan(CrossEntropy(), examples, len(examples), 1, 0)[0]
    mine = data.spread(examples, step, ranks.processes)[ranks.rank]
    loss = engine([examples[n] for n in mine] or examples[:1]) * (1.0 if mine else 0.0)
    engine.backward(loss * ranks.processes)
    total = loss.detach().clone()
    torch.distributed.all_reduce(total)
    grads = {}
    for name, parameter in learner.named_parameters():
        if parameter.requires_grad:
            plain = not hasattr(parameter, "ds_id") and not hasattr(parameter, "_hp_mapping")
            grads[name] = (parameter.grad if plain else safe_get_full_grad(parameter)).detach().float().clone()
    return {"loss": total.item(), "grads": grads}


def main() -> None:
    folder, method, rows, out, *stages = sys.argv[1:]
    torch.set_num_threads(1)
    ranks = worker.join()
    examples = [data.Example((Rendered(*row),)) for row in json.loads(Path(rows).read_text())]
    found = {int(zero): measure(folder, method, examples, int(zero), ranks) for zero in stages}
    if ranks.rank == 0:
        torch.save(found, out)
    torch.distributed.barrier()
    torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main()
