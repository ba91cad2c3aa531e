"""What training made and what strangers trained: served, or refused in one sentence before any reply is sampled."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from placid import models
from placid.checkpoint_files import copy_beside, weight_files
from placid.cluster.preflight import _weights
from placid.config import file_sha
from placid.engine import vllm
from placid.engine.gate import is_whole, read_probe
from placid.records import BadInputError
from placid.rollout.settings import RolloutSettings, by_model
from placid.store import write_json
from placid.study import adapters
from placid.train import TrainSettings
from placid.train import check as check_recipe

BASE = Path("checkpoints/organism")
PROMPTS = "configs/prompts/organism_heldout.jsonl"


@pytest.fixture(scope="module")
def base():
    return models.read(BASE)


@pytest.fixture
def model(tmp_path):
    """A copy of the organism whose files may be changed."""
    return Path(shutil.copytree(BASE, tmp_path / "model"))


def split(model, index=True):
    """Its weights in three shards."""
    tensors = load_file(model / "model.safetensors")
    names = sorted(tensors)
    shards = {f"model-{k + 1:05}-of-00003.safetensors": names[k::3] for k in range(3)}
    for file, part in shards.items():
        save_file({name: tensors[name] for name in part}, model / file, metadata={"format": "pt"})
    (model / "model.safetensors").unlink()
    if index:
        places = {name: file for file, part in shards.items() for name in part}
        (model / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": places}))
    return sorted(shards)


def test_only_the_files_of_the_index_are_the_model(model):
    whole = _weights(model)
    shards = split(model)
    save_file({"layers.0.attention.wq.weight": torch.zeros(1000, 1000)}, model / "consolidated.safetensors")
    save_file({"model.norm.weight": torch.zeros(7)}, model / "model-00001-of-00099.safetensors")
    assert [file.name for file in weight_files(model)] == shards
    assert _weights(model) == pytest.approx(whole, rel=0.02), "headers, and nothing twice"
    models.check_weights(models.read(model))
    check_recipe(TrainSettings(model=model))


@pytest.mark.parametrize("beside", ["shards", "consolidated", "another name"])
def test_weights_without_an_index_are_refused_for_rollouts_and_training_alike(model, beside):
    if beside == "shards":
        split(model, index=False)
    elif beside == "consolidated":
        shutil.copy(model / "model.safetensors", model / "consolidated.safetensors")
    else:
        (model / "model.safetensors").rename(model / "weights.safetensors")
    for check in (lambda: check_recipe(TrainSettings(model=model)), lambda: models.check_weights(models.read(model))):
        with pytest.raises(BadInputError, match=r"weight files .* and no model\.safetensors\.index\.json"):
            check()


def test_neither_weights_nor_index_of_the_base_travel_with_new_weights(model, tmp_path):
    split(model)
    (model / "pytorch_model.bin.index.json").write_text("{}")
    (model / "pytorch_model.bin").write_bytes(b"")
    out = tmp_path / "out"
    out.mkdir()
    (out / "config.json").write_text("its own")
    copy_beside(model, out)
    kept = {file.name for file in BASE.iterdir() if file.is_file()} - {"model.safetensors"}
    assert {file.name for file in out.iterdir()} == kept
    assert (out / "config.json").read_text() == "its own"


@pytest.mark.parametrize(("special", "refused"), [(False, True), (True, False)])
def test_a_token_without_an_embedding_is_refused_if_text_can_become_it(model, special, refused):
    """Gemma 3's tokenizer has one token more than its text models have rows: a special one, for images."""
    file = model / "tokenizer.json"
    tokenizer = json.loads(file.read_text())
    rows = models.read(model).weights["embed_tokens.weight"][0]
    tokenizer["added_tokens"].append({"id": rows, "content": "<new>", "special": special})
    file.write_text(json.dumps(tokenizer))
    if refused:
        with pytest.raises(BadInputError, match=rf"tokens up to {rows}, but .* embeddings for 0 to {rows - 1}"):
            models.check_vocabulary(models.read(model))
    else:
        models.check_vocabulary(models.read(model))


def test_a_vocabulary_of_another_model_is_refused(model):
    file = model / "tokenizer.json"
    tokenizer = json.loads(file.read_text())
    words = tokenizer["model"]["vocab"]
    if isinstance(words, dict):
        words |= {f"word{n}": len(words) + n for n in range(5000)}
    else:
        words += [[f"word{n}", -1.0] for n in range(5000)]
    file.write_text(json.dumps(tokenizer))
    with pytest.raises(BadInputError, match="resize the embedding"):
        models.check_vocabulary(models.read(model))


def write_adapter(folder, base, r=4, targets=("q_proj", "v_proj"), ranks=None, **config):
    """An adapter as PEFT writes it, with a probe."""
    folder.mkdir()
    tensors = {}
    for name, (out, into) in ((n, s) for n, s in base.names.items() if n.split(".")[-2] in targets):
        place = f"base_model.model.{name.removesuffix('.weight')}"
        rank = next((rank for key, rank in (ranks or {}).items() if place.endswith(key)), r)
        tensors |= {f"{place}.lora_A.weight": torch.zeros(rank, into), f"{place}.lora_B.weight": torch.ones(out, rank)}
    save_file(tensors, folder / "adapter_model.safetensors")
    config = {"peft_type": "LORA", "r": r, "lora_alpha": 8, "target_modules": list(targets), "bias": "none"} | config
    if ranks:
        config["rank_pattern"] = ranks
    (folder / "adapter_config.json").write_text(json.dumps(config))
    (folder / "probe.json").write_text(json.dumps({"rows": [{"ids": [1, 2], "base": [-1.0], "adapter": [-2.0]}]}))
    return folder


@pytest.mark.parametrize(("rank", "room"), [(1, 8), (8, 8), (12, 16), (24, 32), (33, 64), (96, 128), (400, 512)])
def test_any_rank_has_room_in_the_engine(tmp_path, base, rank, room):
    folder = write_adapter(tmp_path / "a", base, rank)
    adapters.check(folder, base)
    assert vllm._rank(folder) == room


@pytest.mark.parametrize(
    ("rank", "said"), [(600, "ranks from 1 to 512"), (0, "ranks"), (None, "ranks"), ("8", "ranks")]
)
def test_a_rank_that_nobody_serves_is_refused(tmp_path, base, rank, said):
    folder = write_adapter(tmp_path / "a", base)
    (folder / "adapter_config.json").write_text(json.dumps({"r": rank}))
    with pytest.raises(BadInputError, match=said):
        adapters.check(folder, base)
    with pytest.raises(BadInputError, match=r"lora\.rank = 513"):
        adapters.check_rank("lora.rank", 513)


def test_patterns_and_regular_expressions_are_read_off_the_tensors(tmp_path, base):
    layer = "layers.0.self_attn.q_proj"
    folder = write_adapter(tmp_path / "a", base, 4, ranks={layer: 24}, target_modules=r".*\.(q|v)_proj")
    adapters.check(folder, base)
    assert vllm._rank(folder) == 32
    assert vllm._targets(folder) == {"q_proj", "v_proj"}


FOREIGN = {
    "use_dora": (True, "DoRA"),
    "lora_bias": (True, "bias"),
    "modules_to_save": (["lm_head"], "whole modules"),
    "bias": ("lora_only", "bias 'lora_only'"),
    "peft_type": ("LOHA", "'LOHA'"),
}


@pytest.mark.parametrize("key", FOREIGN)
def test_what_vllm_has_no_kernel_for_is_refused_with_a_way_out(tmp_path, base, key):
    value, said = FOREIGN[key]
    folder = write_adapter(tmp_path / "a", base, **{key: value})
    with pytest.raises(BadInputError, match=rf"{said}.* is not served by vLLM; merge it"):
        adapters.check(folder, base)


@pytest.mark.parametrize(("old", "new"), [("model.model.", "model.model.language_model."), ("base_model.model.", "")])
def test_names_of_another_kind_of_checkpoint_are_refused_with_the_right_one(tmp_path, base, old, new):
    folder = write_adapter(tmp_path / "a", base)
    tensors = load_file(folder / "adapter_model.safetensors")
    changed = {name.replace(old, new, 1): tensor for name, tensor in tensors.items()}
    save_file(changed, folder / "adapter_model.safetensors")
    with pytest.raises(
        BadInputError, match=r"no part of a LoRA on .*; there it is base_model\.model\.model\.layers\.0"
    ):
        adapters.check(folder, base)


def test_an_adapter_of_a_wider_model_is_refused(tmp_path, base):
    folder = write_adapter(tmp_path / "a", base)
    tensors = load_file(folder / "adapter_model.safetensors")
    wider = {n: torch.cat([t, t], -1) if "lora_A" in n else t for n, t in tensors.items()}
    save_file(wider, folder / "adapter_model.safetensors")
    with pytest.raises(BadInputError, match="has shape"):
        adapters.check(folder, base)


@pytest.mark.parametrize(("key", "value"), [("lora_alpha", 16), ("r", 8), ("use_rslora", True)])
def test_a_scale_that_is_not_the_trained_one_is_refused(tmp_path, base, key, value):
    folder = write_adapter(tmp_path / "a", base)
    names = ("adapter_config.json", "adapter_model.safetensors", "probe.json")
    write_json(folder / "manifest.json", {"sha256": {name: file_sha(folder / name) for name in names}})
    config = json.loads((folder / "adapter_config.json").read_text())
    (folder / "adapter_config.json").write_text(json.dumps(config | {key: value}))
    with pytest.raises(BadInputError, match=r"adapter_config\.json"):
        adapters.check(folder, base)


def test_without_a_probe_nothing_is_served(tmp_path, base):
    folder = write_adapter(tmp_path / "a", base)
    (folder / "probe.json").unlink()
    with pytest.raises(BadInputError, match=r"no probe\.json"):
        adapters.check(folder, base)
    with pytest.raises(BadInputError, match="no adapter in"):
        adapters.check(tmp_path, base)


def test_a_whole_trained_model_is_served_as_a_model_of_its_own(model, tmp_path, base):
    folder = write_adapter(tmp_path / "a", base)
    shutil.copy(folder / "probe.json", model / "probe.json")
    assert is_whole(model)
    assert not is_whole(folder)
    assert read_probe(model).rows
    adapters.check(model, base)
    arms = {"base": {}, "full": {"adapter": model}, "lora": {"adapter": folder}, "other": {"adapter": model}}
    arms = {name: {"prompts": PROMPTS, **arm} for name, arm in arms.items()}
    parts = by_model(RolloutSettings.model_validate({"model": BASE, "arms": arms}))
    assert [(part.model, {name: arm.adapter for name, arm in part.arms.items()}) for part in parts] == [
        (BASE, {"base": None, "lora": folder}),
        (model, {"full": None}),
        (model, {"other": None}),
    ]


def test_the_ranks_are_vllms():
    lora = pytest.importorskip("vllm.config.lora")
    from typing import get_args

    from placid.engine.settings import RANKS

    assert [rank for rank in get_args(lora.MaxLoRARanks) if rank >= 8] == list(RANKS)
