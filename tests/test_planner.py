"""What fits: our arithmetic beside DeepSpeed's estimator, and the plans that configs/train/ promise."""

import json
import math
import re
import tomllib
from pathlib import Path

import pytest

from placid.config import load
from placid.records import BadInputError
from placid.train import LoraSettings, TrainSettings, check, planner
from test_models import PUBLISHED

ALL = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
CONFIGS = sorted(Path("configs/train").glob("*.toml"))


@pytest.fixture(scope="module")
def gemma(tmp_path_factory) -> Path:
    """The published config.json of Gemma-3-27B; the planner needs no weights."""
    return written(tmp_path_factory.mktemp("planner") / "gemma-3-27b-it", 62)


def written(folder: Path, layers: int) -> Path:
    config, _ = PUBLISHED["gemma-3-27b"]
    folder.mkdir()
    text = config["text_config"] | {"num_hidden_layers": layers}
    (folder / "config.json").write_text(json.dumps(config | {"text_config": text}))
    return folder


def full(model: Path, **more) -> TrainSettings:
    return TrainSettings(model=model, method="full", dtype="bfloat16", **more)


def test_parameters_are_those_of_gemma(gemma):
    shape = planner.shape_of(gemma)
    assert shape.parameters == pytest.approx(27.01e9, rel=1e-3)
    assert planner.trained_parameters(shape, TrainSettings(model=gemma)) == pytest.approx(8.4e6, rel=0.02)
    everything = TrainSettings(model=gemma, lora=LoraSettings(rank=64, targets=ALL))
    assert planner.trained_parameters(shape, everything) == pytest.approx(454e6, rel=0.01)


def test_the_organism_is_counted_right():
    from safetensors import safe_open

    from placid.train import model

    with safe_open("checkpoints/organism/model.safetensors", "pt") as file:
        counted = sum(math.prod(file.get_slice(name).get_shape()) for name in list(file.keys()))
    shape = planner.shape_of(Path("checkpoints/organism"))
    assert shape.parameters == counted
    settings = TrainSettings(model=Path("checkpoints/organism"), lora=LoraSettings(rank=3, targets=ALL))
    trained = sum(p.numel() for p in model.build(settings).parameters() if p.requires_grad)
    assert planner.trained_parameters(shape, settings) == trained


@pytest.mark.parametrize("gpus", [8, 16])
def test_model_states_of_a_full_fine_tune_are_deepspeeds(gemma, gpus):
    """Same 27B, same GPUs. ZeRO 2: 2 + 18/n bytes a parameter, as they say. ZeRO 3: they count 18/n and a layer; we count
    the gradients' float32 copy as in ZeRO 2, so a little more."""
    from deepspeed.runtime.zero.stage3 import estimate_zero3_model_states_mem_needs as zero3
    from deepspeed.runtime.zero.stage_1_and_2 import estimate_zero2_model_states_mem_needs as zero2

    shape = planner.shape_of(gemma)
    largest = max(shape.layer_parameters, shape.vocabulary * shape.width)

    def ours(zero):
        parts = planner.bytes_on_gpu(shape, full(gemma), gpus, zero, (1.0, 0.0))
        return sum(parts[name] for name in ("weights", "gradients", "optimizer", "gathered"))

    _, theirs_3, _ = zero3(
        shape.parameters, largest, gpus, 1, cpu_offload=False, cpu_offload_params=False, zero_init=True
    )
    _, theirs_2 = zero2(shape.parameters, gpus, 1, cpu_offload=False)
    assert theirs_3 <= ours(3) <= 1.12 * theirs_3
    assert ours(2) == pytest.approx(theirs_2, rel=1e-6)
    print({"zero 3": (ours(3) / 2**30, theirs_3 / 2**30), "zero 2": (ours(2) / 2**30, theirs_2 / 2**30)})


def test_lora_on_a_large_card_needs_no_split_base_and_no_recomputation(gemma):
    plan = planner.plan(TrainSettings(model=gemma, dtype="bfloat16"), 1, 139)
    assert (plan.zero, plan.recompute, plan.recompute_mlp) == (1, 0.0, 0.0)
    small = planner.plan(TrainSettings(model=gemma, dtype="bfloat16"), 1, 79)
    assert small.zero == 1
    assert 0 < small.recompute < 1
    assert small.gib["total"] <= small.gib["available"] <= 79


def test_what_does_not_fit_says_what_is_missing(gemma):
    with pytest.raises(
        BadInputError, match=r"27\.0e9 parameters, method full.* on 1 GPU: \d+\.\d GiB .*optimizer.*16 GPUs"
    ):
        planner.plan(full(gemma), 1, 79)
    with pytest.raises(BadInputError, match="offload = true"):
        planner.plan(full(gemma), 4, 79)
    with pytest.raises(BadInputError, match=r"no config\.json in nowhere/llama"):
        planner.plan(TrainSettings(model=Path("nowhere/llama")), 1, 79)


@pytest.mark.parametrize(
    ("method", "zero", "gpus", "gib", "helps"),
    [
        ("full", None, 1, 139, "8 GPUs"),
        ("full", None, 4, 139, "8 GPUs, offload = true"),
        ("full", 0, 4, 139, "8 GPUs with zero = 2, offload = true with zero = 2"),
        ("full", 1, 8, 139, "zero = 2, offload = true"),
        ("full", 0, 8, 139, "zero = 2, offload = true with zero = 1"),
        ("full", 3, 4, 139, "8 GPUs, offload = true"),
        ("lora", 1, 2, 48, "zero = 3"),
        ("lora", None, 1, 48, "2 GPUs"),
        ("lora", 0, 1, 24, "8 GPUs with zero = 3"),
    ],
)
def test_what_is_said_to_help_does_and_the_stage_before_more_gpus(gemma, method, zero, gpus, gib, helps):
    """zero: the stage that the user wants; None: free."""
    settings = TrainSettings(model=gemma, dtype="bfloat16", method=method, zero=zero or 0)
    stages = (1, 2, 3) if zero is None else (zero,)
    with pytest.raises(BadInputError) as refusal:
        planner.plan(settings, gpus, gib, stages=stages)
    assert str(refusal.value).rpartition("what would help: ")[2] == helps
    for way in helps.split(", "):
        count, said = re.match(r"(\d+) GPUs", way), re.search(r"zero = (\d)", way)
        taken = settings.model_copy(update={"offload": "offload" in way})
        own = (int(said[1]),) if said else stages
        planner.plan(taken, int(count[1]) if count else gpus, gib, stages=own)


def test_a_model_that_cannot_be_trained_is_refused_before_anything(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps(PUBLISHED["gemma-2-2b"][0] | {"attn_logit_softcapping": 50.0}))
    with pytest.raises(BadInputError, match=r"Gemma 2.*train a Gemma 3, a Gemma 4 or a Llama"):
        check(TrainSettings(model=tmp_path))


def test_recomputing_less_never_needs_less(gemma):
    shape = planner.shape_of(gemma)
    sizes = [planner.activations(shape, 4096, *rung, full=False) for rung in planner.LADDER]
    assert sizes == sorted(sizes, reverse=True)


def test_there_is_a_recipe_for_each_loss_and_size():
    assert {path.stem for path in CONFIGS} >= {
        "paper", "rank64", "rank256", "full_8gpu", "full_16gpu", "dpo", "act", "sft_control",
    }  # fmt: skip


@pytest.mark.parametrize("path", CONFIGS, ids=lambda p: p.stem)
def test_a_recipe_fits_as_its_first_lines_say(gemma, path):
    """`# Plan: N GPUs of G GiB, R tokens an epoch, C computed` and, below it, the planner's own sentence."""
    text = path.read_text()
    tomllib.loads(text)
    settings = load(path, TrainSettings).model_copy(update={"model": gemma})
    found = re.search(r"^# Plan: (\d+) GPUs? of (\d+) GiB, ([\d_]+) tokens an epoch, ([\d_]+) computed:$", text, re.M)
    assert found, f"{path} does not say what it was planned for"
    gpus, gib, tokens, computed = (int(word) for word in found.groups())
    plan = planner.plan(settings, gpus, gib, tokens, computed)
    said = " ".join(line.removeprefix("#").strip() for line in text[found.end() :].splitlines() if line.startswith("#"))
    assert plan.sentence() in said, f"{path} should say: {plan.sentence()}"
    assert (settings.zero, settings.recompute, settings.recompute_mlp) == (
        plan.zero,
        plan.recompute,
        plan.recompute_mlp,
    )


def test_recomputation_follows_the_memory_at_hand(gemma):
    paper = TrainSettings(model=gemma, dtype="bfloat16")
    large, small = (planner.at_hand(paper, 1, gib * 2**30) for gib in (139, 79))
    assert (large.recompute, large.recompute_mlp) == (0.0, 0.0)
    assert (small.recompute or 0.0) > 0
    with pytest.raises(BadInputError, match="does not fit on 1 GPU"):
        planner.at_hand(paper, 1, 40 * 2**30)


@pytest.mark.parametrize(
    ("file", "part", "layers", "tokens", "method"),
    [
        ("train_throughput_h100", "plain", 40, 4096, "lora"),
        ("train_throughput_h100", "pairs", 40, 6144, "lora"),  # 5,800 tokens of the tree, padded to a block
        ("train_full_h100", "full", 4, 4096, "full"),
    ],
)
def test_the_count_of_bytes_is_what_a_gpu_held(tmp_path, file, part, layers, tokens, method):
    results = json.loads(Path(f"benchmarks/results/{file}.json").read_text())["results"]
    measured = next(r for r in results if r.get("part") == part and r.get("side") == "placid")
    assert measured["recompute"] == [0.0, 0.0]
    model = written(tmp_path / "cut", layers)
    shape = planner.shape_of(model)
    settings = TrainSettings(model=model, dtype="bfloat16", max_tokens=tokens, method=method)
    parts = planner.bytes_on_gpu(shape, settings, 1, 1, (0.0, 0.0))
    counted = (sum(parts.values()) - parts["reserve"]) / 2**30  # the allocator does not see the reserve
    assert counted == pytest.approx(measured["peak_gib"], rel=0.02)
