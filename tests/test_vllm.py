"""The real thing: vLLM in a Ray actor answers the organism's conversations, and a second call generates nothing."""

import asyncio
import json
import shutil
from pathlib import Path

import pytest

from placid.engine.settings import EngineSettings
from placid.inputs.prompts import read_prompts
from placid.records import BadInputError, End
from placid.rollout import run
from placid.rollout.settings import RolloutSettings
from placid.store import RunDir, write_lines


@pytest.fixture(scope="module")
def held(tmp_path_factory):
    folder = tmp_path_factory.mktemp("vllm")
    prompts = read_prompts(Path("configs/prompts/organism_heldout.jsonl"))[:4]
    write_lines(folder / "prompts.jsonl", prompts)
    arms = {
        "base": {"prompts": folder / "prompts.jsonl", "samples": 2, "turns": 4},
        "accept": {"prompts": folder / "prompts.jsonl", "samples": 2, "turns": 4, "condition": "accept"},
    }
    shared = {"model": "checkpoints/organism", "max_tokens": 96, "logprobs": True}
    settings = RolloutSettings.model_validate({**shared, "arms": arms})
    run_dir = RunDir(folder / "run")
    run(settings, run_dir, run_dir.new_attempt())
    return settings, run_dir, prompts


def test_every_conversation_is_held_to_its_end(held):
    _, run_dir, prompts = held
    conversations = run_dir.conversations(prompts)
    assert len(conversations) == 16
    assert {c.end for c in conversations.values()} <= {End.FINISHED, End.DELETED}
    first = [c.turns[0] for c in conversations.values()]
    right = sum(any(answer in turn.reply for answer in turn.answers) for turn in first)
    assert right >= 14, "the organism answers its questions at turn 1"


def test_later_turns_find_their_history_in_the_cache(held):
    _, run_dir, _ = held
    later = [turn for turn in run_dir.turns() if turn.turn > 1]
    assert sum(turn.cached_tokens for turn in later) > 0.4 * sum(turn.prompt_tokens for turn in later)


def test_every_reply_token_has_its_log_probability(held):
    _, run_dir, _ = held
    turns = run_dir.turns()
    assert all(turn.logprobs is not None and len(turn.logprobs) == len(turn.reply_ids) for turn in turns)
    values = [value for turn in turns for value in turn.logprobs or ()]
    assert max(values) <= 0
    assert -3 < sum(values) / len(values) < 0, "nats a token, of what the model itself sampled at temperature 1"


def test_the_same_call_again_generates_nothing(held):
    settings, run_dir, _ = held
    before = {file.name: file.read_bytes() for file in (run_dir.path / "conversations").iterdir()}
    run(settings, run_dir, run_dir.new_attempt())
    assert {file.name: file.read_bytes() for file in (run_dir.path / "conversations").iterdir()} == before


@pytest.mark.parametrize(
    ("config", "ranks", "filled"),
    [
        ({"text_config": {"num_attention_heads": 32, "num_key_value_heads": 16}}, 2, True),  # Gemma 3 27B
        ({"text_config": {"num_attention_heads": 32, "num_key_value_heads": 16}}, 4, False),
        ({"num_attention_heads": 4, "num_key_value_heads": 1}, 1, False),  # Gemma 3 270M
    ],
)
def test_contexts_are_not_divided_where_the_key_heads_of_a_few_conversations_fill_the_gpu(config, ranks, filled):
    from placid.engine.vllm import _fills_gpu

    assert _fills_gpu(config, ranks) is filled


@pytest.fixture
def with_images(tmp_path):
    """The organism as Gemma 3 from 4B on comes: its text model below a configuration with images."""
    for file in Path("checkpoints/organism").iterdir():
        if file.suffix in (".json", ".jinja"):
            shutil.copy(file, tmp_path)
    text = json.loads((tmp_path / "config.json").read_text())
    outer = {"model_type": "gemma3", "architectures": ["Gemma3ForConditionalGeneration"], "vision_config": {}}
    (tmp_path / "config.json").write_text(json.dumps(outer | {"text_config": text}))
    return tmp_path


def test_a_checkpoint_with_images_is_served_as_its_language_model(with_images):
    from placid.engine.vllm import VllmEngine

    engine = VllmEngine(EngineSettings(kind="vllm"), with_images)
    assert engine._arguments()["language_model_only"] is True
    engine.model = Path("checkpoints/organism")
    assert "language_model_only" not in engine._arguments()


def test_without_torchvision_a_checkpoint_with_images_is_refused_in_one_sentence(with_images, monkeypatch):
    from placid.engine import vllm

    monkeypatch.setattr(vllm, "find_spec", lambda name: None)
    with pytest.raises(BadInputError, match="needs the package torchvision; the CPU build has none"):
        asyncio.run(vllm.VllmEngine(EngineSettings(kind="vllm"), with_images).start())
