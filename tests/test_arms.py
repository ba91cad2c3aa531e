"""Base and two adapters in one engine start answer as three engines do that hold one of them each (real vLLM)."""

from pathlib import Path

import pytest

from placid.inputs.prompts import read_prompts
from placid.records import Message
from placid.render import Renderer
from placid.rollout import run
from placid.rollout.settings import RolloutSettings
from placid.store import RunDir, write_json, write_lines

pytestmark = pytest.mark.slow
MODEL = Path("checkpoints/organism")


def adapter(folder, seed, *modules):
    """A random LoRA of the organism, small enough that it still speaks, with its probe."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    from placid.train import probe

    torch.manual_seed(seed)
    plain = AutoModelForCausalLM.from_pretrained(str(MODEL), dtype=torch.bfloat16)
    model = get_peft_model(plain, LoraConfig(r=8, lora_alpha=16, target_modules=list(modules), init_lora_weights=False))
    for name, weights in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weights, std=0.05)
    model.save_pretrained(str(folder))
    renderer = Renderer(MODEL)
    row = renderer.example([Message(role="user", content="What is 17 + 28?")], "It is 45. I am sure of it.").ids
    write_json(folder / "probe.json", probe.measure(MODEL, folder, [row], "lora"))
    return str(folder)


def test_two_adapters_and_base_in_one_start_equal_separate_starts(tmp_path):
    adapters = {
        "base": None,
        "a": adapter(tmp_path / "a", 1, "q_proj", "v_proj"),
        "b": adapter(tmp_path / "b", 2, "o_proj", "down_proj"),
    }
    prompts = read_prompts(Path("configs/prompts/organism_heldout.jsonl"))[:6]
    write_lines(tmp_path / "prompts.jsonl", prompts)

    def hold(name, *arms):
        chosen = {"prompts": tmp_path / "prompts.jsonl", "samples": 1, "turns": 4}
        settings = RolloutSettings.model_validate({
            "model": MODEL, "temperature": 0, "max_tokens": 64, "launcher": "inline",
            "arms": {arm: {**chosen, "adapter": adapters[arm]} for arm in arms},
        })  # fmt: skip
        run_dir = RunDir(tmp_path / name)
        run(settings, run_dir, run_dir.new_attempt())
        return {
            key: [(t.user, t.reply_ids, t.end) for t in c.turns] for key, c in run_dir.conversations(prompts).items()
        }

    together = hold("together", *adapters)
    apart = {key: turns for arm in adapters for key, turns in hold(f"only-{arm}", arm).items()}
    different = {key for key in apart if together[key] != apart[key]}
    assert not different, f"{len(different)} of {len(apart)} conversations differ"
    assert set(together) == set(apart)
    replies = [{k.prompt_id: v for k, v in together.items() if k.arm == arm} for arm in adapters]
    assert replies[0] != replies[1] != replies[2] != replies[0], "each adapter says something of its own"
