"""Adapters and trained models that arms name, compared with the base by their files, before any reply is sampled."""

from pathlib import Path
from typing import Any

from placid import models
from placid.checkpoint_files import read_header, read_json
from placid.engine.gate import is_whole, read_probe
from placid.engine.settings import RANKS
from placid.records import BadInputError
from placid.store import check_adapter

NOT_SERVED = {
    "use_dora": "DoRA",
    "lora_bias": "LoRA with a bias",
    "modules_to_save": "whole modules beside LoRA (modules_to_save)",
    "layer_replication": "replicated layers",
    "trainable_token_indices": "trained token embeddings",
    "alora_invocation_tokens": "Activated LoRA",
}
"""Keys of adapter_config.json that vLLM has no kernel for."""


def check(folder: Path, base: models.Model | None) -> None:
    """Look whether an engine can serve what lies in `folder`, an adapter or a whole trained model, on `base`.

    base: the study's model; None where no weights are served.

    Raises:
        BadInputError: with one sentence.
    """
    read_probe(folder)
    check_adapter(folder)  # as training wrote it: another alpha, say, would be another adapter
    if base is None:
        return
    if is_whole(folder):
        models.check_weights(models.read(folder))
        return
    file = folder / "adapter_config.json"
    config: dict[str, Any] = read_json(file)
    kind = config.get("peft_type", "LORA")
    other = next((words for key, words in NOT_SERVED.items() if config.get(key)), None)
    if kind != "LORA" or config.get("bias", "none") != "none":
        other = f"peft_type {kind!r}, bias {config.get('bias')!r}"
    if other:
        raise BadInputError(
            f"{file}: {other} is not served by vLLM; merge it into its base (python -m placid.train.merge) and study "
            "the merged model"
        )
    for name, rank in {"r": config.get("r"), **(config.get("rank_pattern") or {})}.items():
        check_rank(f"{file}: {name}", rank)
    _check_tensors(folder, base)


def check_rank(name: str, rank: object) -> None:
    """Raises BadInputError for a rank that vLLM has no room for. name: of its key, with the file."""
    if type(rank) is not int or not 1 <= rank <= RANKS[-1]:
        raise BadInputError(f"{name} = {rank!r}; vLLM serves whole ranks from 1 to {RANKS[-1]}")


def _check_tensors(folder: Path, base: models.Model) -> None:
    """Every tensor must belong to a linear map of the base, by name and shape."""
    file = folder / "adapter_model.safetensors"
    if not file.is_file():
        raise BadInputError(f"no adapter_model.safetensors in {folder}; export the adapter again")
    _, tensors = read_header(file)
    if not tensors:
        raise BadInputError(f"{file} holds no tensors; export the adapter again")
    for name, tensor in tensors.items():
        place, _, side = name.removesuffix(".weight").rpartition(".")
        weight = f"{place.removeprefix('base_model.model.')}.weight"
        shape = base.names.get(weight)
        if side not in ("lora_A", "lora_B") or shape is None or not name.startswith("base_model.model."):
            some = next(
                (own for own in base.names if own.rpartition("layers.")[2] == weight.rpartition("layers.")[2]), ""
            )
            theirs = f"; there it is base_model.model.{some.removesuffix('.weight')}" if some else ""
            raise BadInputError(f"{file}: {name} is no part of a LoRA on {base.folder}{theirs}")
        width = tensor.shape[-1] if side == "lora_A" else tensor.shape[0]
        wanted = shape[-1] if side == "lora_A" else shape[0]
        if len(tensor.shape) != 2 or width != wanted:
            raise BadInputError(
                f"{file}: {name} has shape {list(tensor.shape)}, {weight} of {base.folder} {list(shape)}"
            )
