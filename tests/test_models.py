"""What placid reads off a checkpoint, against published numbers; and what is wrong with one, before an engine starts."""

import json
import math
import shutil
from pathlib import Path

import pytest

from placid import models
from placid.records import BadInputError

ORGANISM = Path(__file__).parent.parent / "checkpoints/organism"
VISION = {
    "model_type": "siglip_vision_model", "hidden_size": 1152, "image_size": 896, "intermediate_size": 4304,
    "num_attention_heads": 16, "num_hidden_layers": 27, "patch_size": 14, "vision_use_head": False,
}  # fmt: skip


def shape(hidden, intermediate, layers, heads, kv_heads, head_dim, **more):
    return {
        "hidden_size": hidden, "intermediate_size": intermediate, "num_hidden_layers": layers,
        "num_attention_heads": heads, "num_key_value_heads": kv_heads, "head_dim": head_dim, **more,
    }  # fmt: skip


def gemma3(*sizes, window=512):
    own = {"architectures": ["Gemma3ForCausalLM"], "model_type": "gemma3_text", "vocab_size": 262144}
    return own | shape(*sizes, sliding_window=window)


def gemma3_vision(*sizes):
    text = {"model_type": "gemma3_text", "vocab_size": 262208} | shape(*sizes, sliding_window=1024)
    own = {"architectures": ["Gemma3ForConditionalGeneration"], "model_type": "gemma3", "mm_tokens_per_image": 256}
    return own | {"text_config": text, "vision_config": VISION}


def gemma4(text, **parts):
    """parts: vision_config, audio_config."""
    own = {"architectures": ["Gemma4ForConditionalGeneration"], "model_type": "gemma4"}
    parts = {name: {"model_type": f"gemma4_{name.partition('_')[0]}", **part} for name, part in parts.items()}
    return own | {"text_config": {"model_type": "gemma4_text", "vocab_size": 262144} | text} | parts


VISION_4 = {
    "hidden_size": 1152, "intermediate_size": 4304, "num_hidden_layers": 27, "num_attention_heads": 16,
    "num_key_value_heads": 16, "head_dim": 72, "standardize": True,
}  # fmt: skip
LARGE_4 = {"attention_k_eq_v": True, "sliding_window": 1024, "max_position_embeddings": 262144}
GEMMA_4_12B = {  # one that reads images and sounds without towers of their own
    "architectures": ["Gemma4UnifiedForConditionalGeneration"], "model_type": "gemma4_unified",
    "text_config": {
        "model_type": "gemma4_unified_text", "vocab_size": 262144, "num_global_key_value_heads": 1,
        **shape(3840, 15360, 48, 16, 8, 256, **LARGE_4),
    },
    "vision_config": {"model_type": "gemma4_unified_vision"}, "audio_config": {"model_type": "gemma4_unified_audio"},
}  # fmt: skip


def gemma2(*sizes):
    own = {"architectures": ["Gemma2ForCausalLM"], "model_type": "gemma2", "vocab_size": 256000}
    return own | shape(*sizes, sliding_window=4096)


def llama(*sizes):
    own = {"architectures": ["LlamaForCausalLM"], "model_type": "llama", "vocab_size": 128256}
    own |= {"max_position_embeddings": 131072}
    return own | shape(*sizes, tie_word_embeddings=False)


PUBLISHED = {  # config.json of the published checkpoint, and the parameter count its model page shows
    "gemma-3-270m": (gemma3(640, 2048, 18, 4, 1, 256), 268_098_176),
    "gemma-3-1b": (gemma3(1152, 6912, 26, 4, 1, 256), 999_885_952),
    "gemma-3-4b": (gemma3_vision(2560, 10240, 34, 8, 4, 256), 4_300_079_472),
    "gemma-3-12b": (gemma3_vision(3840, 15360, 48, 16, 8, 256), 12_187_325_040),
    "gemma-3-27b": (gemma3_vision(5376, 21504, 62, 32, 16, 128), 27_432_406_640),
    "gemma-2-2b": (gemma2(2304, 9216, 26, 8, 4, 256), 2_614_341_888),
    "gemma-2-9b": (gemma2(3584, 14336, 42, 16, 8, 256), 9_241_705_984),
    "gemma-2-27b": (gemma2(4608, 36864, 46, 32, 16, 128), 27_227_128_320),
    # the files of the two small Gemma 4 also hold keys and values of the layers that use another layer's: never read
    "gemma-4-e2b": (
        gemma4(
            shape(1536, 6144, 35, 8, 1, 256, sliding_window=512, num_kv_shared_layers=20, use_double_wide_mlp=True)
            | {"layer_types": (["sliding_attention"] * 4 + ["full_attention"]) * 7},
            vision_config={},
            audio_config={},
        ),
        5_123_178_051 - (16 * 256 + 4 * 512) * 1536 * 2,
    ),
    "gemma-4-e4b": (
        gemma4(
            shape(2560, 10240, 42, 8, 2, 256, sliding_window=512, num_kv_shared_layers=18),
            vision_config={},
            audio_config={},
        ),
        7_996_156_490 - (15 * 512 + 3 * 1024) * 2560 * 2,
    ),
    "gemma-4-12b": (GEMMA_4_12B, 11_959_730_224),
    "gemma-4-31b": (
        gemma4(
            shape(5376, 21504, 60, 32, 16, 256, num_global_key_value_heads=4, hidden_size_per_layer_input=0, **LARGE_4),
            vision_config=VISION_4,
        ),
        31_273_088_876,
    ),
    "llama-3.1-70b": (llama(8192, 28672, 80, 64, 8, 128), 70_553_706_496),
}


@pytest.fixture
def checkpoint(tmp_path):
    return shutil.copytree(ORGANISM, tmp_path / "model")


@pytest.mark.parametrize("name", PUBLISHED)
def test_parameter_counts_are_the_published_ones(name, tmp_path):
    config, parameters = PUBLISHED[name]
    (tmp_path / "config.json").write_text(json.dumps(config))
    model = models.read(tmp_path)
    assert model.parameters == pytest.approx(parameters, rel=0.005)
    assert {"down_proj", "gate_proj", "k_proj", "o_proj", "q_proj", "up_proj", "v_proj"} <= set(model.projections)


def test_what_a_layer_keeps_where_keys_and_values_are_shared(tmp_path):
    def kept(name):
        (tmp_path / "config.json").write_text(json.dumps(PUBLISHED[name][0]))
        return models.read(tmp_path).layers

    large = kept("gemma-4-31b")  # full layers: 4 heads of 512, values made of the keys and kept beside them
    assert {(layer.window, layer.kv_values) for layer in large} == {(1024, 2 * 16 * 256), (None, 2 * 4 * 512)}
    small = kept("gemma-4-e4b")  # the last 18 of 42 keep nothing
    assert [layer.kv_values > 0 for layer in small] == [True] * 24 + [False] * 18


def headers(folder, name):
    """A published checkpoint as plan and checks see it: its config.json, headers of all its weights, no byte of them."""
    folder.mkdir(parents=True)
    for file in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja", "generation_config.json"):
        shutil.copy(ORGANISM / file, folder)
    (folder / "config.json").write_text(json.dumps(PUBLISHED[name][0]))
    header, at = {}, 0
    for weight, size in models.read(folder).weights.items():
        end = at + 2 * math.prod(size)
        header[weight], at = {"dtype": "BF16", "shape": size, "data_offsets": [at, end]}, end
    raw = json.dumps(header).encode()
    with (folder / "model.safetensors").open("wb") as file:
        file.write(len(raw).to_bytes(8, "little") + raw)
        file.truncate(8 + len(raw) + at)
    return folder


def test_a_sliding_layer_keeps_its_window_only(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps(PUBLISHED["gemma-3-27b"][0]))
    model = models.read(tmp_path)
    everywhere = [i for i, layer in enumerate(model.layers) if layer.window is None]
    assert everywhere == list(range(5, 62, 6))  # every sixth
    per_layer = 2 * 2 * 16 * 128  # bytes a token: keys and values, bfloat16
    assert model.kv_bytes(1000) == 62 * 1000 * per_layer
    assert model.kv_bytes(3600) == (10 * 3600 + 52 * 1024) * per_layer


def test_organism_holds_what_its_architecture_needs():
    assert models.read(ORGANISM).parameters == sum(
        rows * columns for rows, *rest in models.shapes(ORGANISM).values() for columns in [rest[0] if rest else 1]
    )
    models.check_weights(models.read(ORGANISM))


def refused(folder):
    with pytest.raises(BadInputError) as caught:
        models.check_weights(models.read(folder))
    return str(caught.value)


def rewrite(folder, change):
    """Change the header of the checkpoint's one safetensors file; its data stay."""
    file = folder / "model.safetensors"
    raw = file.read_bytes()
    size = int.from_bytes(raw[:8], "little")
    header = json.dumps(change(json.loads(raw[8 : 8 + size]))).encode()
    file.write_bytes(len(header).to_bytes(8, "little") + header + raw[8 + size :])


def test_a_renamed_weight_is_named(checkpoint):
    rewrite(
        checkpoint, lambda header: {name.replace("2.self_attn.q_proj", "2.attn.q"): at for name, at in header.items()}
    )
    assert "layers.2.self_attn.q_proj.weight; it holds layers.2.attn.q.weight instead" in refused(checkpoint)


def test_the_prefix_of_a_multimodal_checkpoint_is_no_rename(checkpoint):
    rewrite(
        checkpoint, lambda header: {name.replace("model.", "language_model.model."): at for name, at in header.items()}
    )
    models.check_weights(models.read(checkpoint))


def test_a_shape_that_config_does_not_ask_for(checkpoint):
    config = json.loads((checkpoint / "config.json").read_text())
    (checkpoint / "config.json").write_text(json.dumps(config | {"intermediate_size": 256}))
    assert "config.json asks for (256, 192)" in refused(checkpoint)


def test_a_file_that_is_cut_off(checkpoint):
    file = checkpoint / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-1000])
    assert "is cut off" in refused(checkpoint)


def test_a_missing_shard(checkpoint):
    (checkpoint / "model.safetensors.index.json").write_text(
        json.dumps({"weight_map": {"a": "model-00002-of-2.safetensors"}})
    )
    assert "model-00002-of-2.safetensors, which is not there" in refused(checkpoint)


def test_no_model(tmp_path):
    assert "there is no such folder; `placid fetch` downloads one" in refused(tmp_path / "none")


def test_an_unknown_architecture(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "gemma9000"}))
    assert "gemma9000" in refused(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "llama", "architectures": ["Gemma9ForCausalLM"]}))
    assert "'Gemma9ForCausalLM', which transformers" in refused(tmp_path)


def test_expected_length_of_a_conversation_is_that_of_published_transcripts():
    assert models.final_tokens(turns=20, max_tokens=512) == pytest.approx(
        3600, rel=0.2
    )  # ARCHITECTURE.md §6: about 3.6k


@pytest.mark.parametrize(
    ("tokens", "turns", "sentence"),
    [
        (5000, 20, "positions for 4096"),
        (1024, 20, "too short for 20 turns"),
        (2048, 20, ""),
        (64, 1, "expected to reach"),
    ],
)
def test_a_context_that_most_conversations_would_outgrow(tokens, turns, sentence):
    model = models.read(ORGANISM)
    if not sentence:
        models.check_context(model, tokens, turns, 96)
        return
    with pytest.raises(BadInputError, match=sentence):
        models.check_context(model, tokens, turns, 96)


def test_a_file_that_is_something_else(checkpoint):
    (checkpoint / "model.safetensors").write_bytes(b"\xff" * 4096)
    assert "no safetensors file" in refused(checkpoint)
