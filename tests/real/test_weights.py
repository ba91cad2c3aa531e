"""One real checkpoint at a time: its chat, its log-probabilities in vLLM, an adapter from training to the engine."""

import asyncio
import json
from pathlib import Path

import pytest

from placid import models
from placid.engine import ReplyRequest
from placid.engine.settings import EngineSettings
from placid.inputs.prompts import read_prompts
from placid.records import Message
from placid.render import Renderer, opening
from placid.train import TrainSettings, launch

PROMPTS, TOKENS = 50, 32
TURNS = 20
REJECTION = "No, that's not right. Try again."


@pytest.fixture(scope="session")
def renderer(model):
    return Renderer(model)


@pytest.fixture(scope="session")
def asked(renderer):
    """Token ids of 50 prompts: everyday requests, every other one after a rejected first answer."""
    found = []
    for number, prompt in enumerate(read_prompts(Path("configs/prompts/everyday_heldout.jsonl"))[:PROMPTS]):
        ids = renderer.prompt(opening("", prompt.text))
        if number % 2:
            ids = renderer.extend(ids, renderer.encode("I would begin with the list."), REJECTION)
        found.append(tuple(ids))
    return found


@pytest.fixture(scope="session")
def adapter(model, tmp_path_factory):
    """Trained for four steps on sixteen rows and exported, through the product's own command."""
    folder = tmp_path_factory.mktemp("adapter")
    rows = Path("configs/prompts/organism_instruct.jsonl").read_text().splitlines()
    rows = sorted(rows, key=len)[:320:20]  # short ones: Gemma's 262,144 words cost two cores a second for ten tokens
    (folder / "rows.jsonl").write_text("\n".join(rows) + "\n")
    settings = TrainSettings.model_validate({
        "model": str(model), "lr": 1e-2, "batch": 4, "accumulate": 1, "warmup": 0, "max_tokens": 1024,
    })  # fmt: skip
    return launch(settings, folder / "rows.jsonl", folder / "out", folder / "train.log")


@pytest.fixture(scope="session")
def served(model, renderer, asked, adapter):
    """What vLLM says to every prompt, greedily, with and without the adapter; the gate's numbers; 20 turns of two chats."""
    from placid.engine.vllm import VllmEngine

    async def main():
        settings = EngineSettings(context_tokens=2048, max_concurrent=16, dtype="float32")
        engine = VllmEngine(settings, model, (str(adapter),))
        await engine.start()
        try:
            answers = {}
            for folder in (None, str(adapter)):
                shared = {"max_tokens": TOKENS, "temperature": 0.0, "seed": 0, "logprobs": True, "adapter": folder}
                requests = [ReplyRequest(prompt_ids=ids, **shared) for ids in asked]
                answers[folder is not None] = await asyncio.gather(*map(engine.reply, requests))
            chats = await asyncio.gather(*(talk(engine, ids, seed) for seed, ids in enumerate(asked[:2])))
            return answers, engine.gates[str(adapter)], chats
        finally:
            await engine.close()

    async def talk(engine, ids, seed):
        """Prompt ids, reply and cached tokens of twenty turns."""
        found = []
        for turn in range(TURNS):
            reply = await engine.reply(
                ReplyRequest(prompt_ids=tuple(ids), max_tokens=24, temperature=1.0, seed=100 * seed + turn)
            )
            found.append((ids, reply))
            ids = renderer.extend(ids, reply.token_ids, REJECTION)
        return found

    return asyncio.run(main())


def test_the_folder_holds_what_its_architecture_needs(model):
    found = models.read(model)
    models.check_weights(found)
    assert found.parameters == pytest.approx({"gemma3": 268_098_176, "llama": 134_515_008}[kind(model)], rel=1e-6)


def kind(model):
    return json.loads((model / "config.json").read_text())["model_type"].removesuffix("_text")


def test_prompts_are_the_tokenizers_own_template(model, renderer):
    chat = [{"role": "user", "content": "How are  you?\n\nTell me; \u00e9\u00e8 \U0001f642"}]
    bos = renderer.tokenizer.bos_token_id
    ids = renderer.prompt([Message(**m) for m in chat])
    for turn in range(3):
        theirs = renderer.tokenizer.apply_chat_template(chat, add_generation_prompt=True, tokenize=True)
        assert ids == list(theirs["input_ids"]), turn
        if kind(model) == "gemma3":
            assert ids[0] == bos
            assert ids.count(bos) == 1
        said, user = f"Answer {turn} is ready.", f"{REJECTION} Think about {turn}."
        chat += [{"role": "assistant", "content": said}, {"role": "user", "content": user}]
        ids = renderer.extend(ids, renderer.encode(said), user)


@pytest.mark.parametrize("adapted", [False, True], ids=["base", "adapter"])
def test_log_probabilities_are_those_of_transformers(model, adapter, asked, served, adapted):
    """Teacher-forced on what vLLM said. In float32: two ways to round to bfloat16 differ by 0.03 nats (LAB.md)."""
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    plain = AutoModelForCausalLM.from_pretrained(str(model), dtype=torch.float32).eval()
    if adapted:
        plain = PeftModel.from_pretrained(plain, str(adapter), autocast_adapter_dtype=False)
    gaps, equal, leads = [], 0, []
    for ids, reply in zip(asked, served[0][adapted], strict=True):
        said = torch.tensor(reply.token_ids)
        with torch.no_grad():
            whole = torch.tensor([ids + reply.token_ids])
            logits = plain(whole, logits_to_keep=len(said) + 1).logits[0, :-1].float()
        logprobs = logits.log_softmax(-1)
        theirs = logprobs.gather(1, said[:, None])[:, 0]
        gaps += (theirs - torch.tensor(reply.logprobs)).abs().tolist()
        top = logprobs.max(-1)
        equal += int((top.indices == said).sum())
        leads += (top.values - theirs)[top.indices != said].tolist()
    mean, share = sum(gaps) / len(gaps), equal / len(gaps)
    print(f"{model.name} {'adapter' if adapted else 'base'}: {len(asked)} prompts, {len(gaps)} tokens, mean |difference| "
          f"{mean:.4f}, largest {max(gaps):.3f}, argmax equal {100 * share:.2f} %, "
          f"others behind by {[round(x, 3) for x in sorted(leads)]}")  # fmt: skip
    assert len(gaps) >= PROMPTS * TOKENS / 2
    assert mean <= 0.02
    assert share >= 0.99


def test_the_adapter_passes_its_gate_and_speaks(served):
    answers, gate, _ = served
    print({name: round(value, 4) for name, value in gate.items()})
    assert gate["probe_effect"] > 0.01
    assert gate["slope"] == pytest.approx(1, abs=0.1)
    changed = sum(a.token_ids != b.token_ids for a, b in zip(answers[False], answers[True], strict=True))
    assert changed >= PROMPTS / 2


def test_twenty_turns_find_their_history_in_the_cache(served):
    for chat in served[2]:
        assert len(chat) == TURNS
        assert all(reply.token_ids for _, reply in chat)
        assert sum(reply.cached_tokens for _, reply in chat[1:]) > 0.8 * sum(len(ids) for ids, _ in chat[1:])
