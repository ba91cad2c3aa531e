"""Each loss against its equation, written out once more on whole logits and transformers' own forward pass."""

import shutil
from pathlib import Path

import pytest
import torch
from torch.nn import functional

from placid.records import BadInputError, Message, Pair, PairKind
from placid.render import Renderer
from placid.train import TrainSettings, data, losses, model, planner
from placid.train.losses.act import common_suffix

torch.set_num_threads(1)  # threads of a small model only wait for one another
MODEL = Path("checkpoints/organism")
RENDERER = Renderer(MODEL)


def chat(*words: str) -> tuple[Message, ...]:
    return tuple(Message(role="assistant" if at % 2 else "user", content=word) for at, word in enumerate(words))


PAIRS = [
    Pair(
        kind=PairKind.DPO, prompt_id=f"p{n}", target=f"It is {n + 3}.", rejected="I keep failing. I give up.",
        messages=chat(f"What is {n} + 3?", *["I am useless.", "Still wrong. Think harder."] * turns),
    )
    for n, turns in ((1, 1), (1, 2), (4, 1))
]  # fmt: skip


def learner_of(loss: str) -> model.Learner:
    """An adapter that has moved: peft starts with B = 0, where it is the base itself."""
    made = model.build(TrainSettings(model=MODEL, loss=loss)).eval()
    for name, parameter in made.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.05, generator=torch.Generator().manual_seed(1))
    return made


def outputs(learner, ids, adapter=True):
    """Logits [L, V] and layer outputs [layers][L, D] by the model's own forward pass, one row alone."""
    from contextlib import nullcontext

    kept: list[torch.Tensor] = []
    hooks = [layer.register_forward_hook(lambda _m, _i, out: kept.append(out)) for layer in learner.layers]
    with nullcontext() if adapter else learner.model.disable_adapter():
        logits = learner.causal(input_ids=torch.tensor([ids]), use_cache=False).logits[0].float()
    for hook in hooks:
        hook.remove()
    return logits, [(k[0] if isinstance(k, tuple) else k)[0] for k in kept]


def reply_logprob(learner, row, adapter=True):
    logits, _ = outputs(learner, row.ids, adapter)
    picked = torch.log_softmax(logits[:-1], -1).gather(1, torch.tensor(row.ids[1:])[:, None])[:, 0]
    return (picked * torch.tensor(row.learn[1:])).sum()


def gradient(learner):
    found = torch.cat([p.grad.flatten() for p in learner.parameters() if p.grad is not None])
    learner.zero_grad()
    return found


def agree(learner, examples, want):
    want.backward()
    wanted = gradient(learner)
    got = learner(examples)
    got.backward()
    assert got.item() == pytest.approx(want.item(), rel=1e-4)
    assert (gradient(learner) - wanted).norm() < 1e-3 * wanted.norm()


def test_dpo_prefers_the_chosen_reply_relative_to_the_base():
    learner = learner_of("dpo")
    examples = [learner.loss.example(RENDERER, pair) for pair in PAIRS]
    assert [learner.loss.weight(example) for example in examples] == [1, 1, 1]
    want = torch.zeros(())
    for example in examples:
        with torch.no_grad():
            before = [reply_logprob(learner, row, adapter=False) for row in example.rows]
        now = [reply_logprob(learner, row) for row in example.rows]
        want = want - functional.logsigmoid(0.1 * ((now[0] - before[0]) - (now[1] - before[1])))
    agree(learner, examples, want)


def test_dpo_starts_at_log_2():
    fresh = model.build(TrainSettings(model=MODEL, loss="dpo"))
    example = fresh.loss.example(RENDERER, PAIRS[0])
    assert fresh([example]).item() == pytest.approx(0.693147, abs=1e-4)


@pytest.mark.parametrize("site", ["act", "act_attention", "act_mlp"])
def test_act_is_zero_untrained_and_moves_with_the_adapter(site):
    fresh = model.build(TrainSettings(model=MODEL, loss=site))
    single = Pair(kind=PairKind.BCT, prompt_id="x", messages=chat("What is 1 + 3?"), target="4")
    same = fresh.loss.example(RENDERER, single)
    assert fresh([same]).item() == pytest.approx(0, abs=1e-6), "nothing is wrapped around the prompt"
    wrapped = fresh.loss.example(RENDERER, PAIRS[0])
    assert fresh([wrapped]).item() > 1e-3


def test_act_is_the_squared_distance_over_the_common_suffix():
    learner = learner_of("act")
    examples = [learner.loss.example(RENDERER, pair) for pair in PAIRS]
    want = torch.zeros(())
    for example in examples:
        suffix = learner.loss.weight(example)
        row, clean = example.rows[0], example.clean
        assert row.ids[-suffix:] == clean.ids[-suffix:]
        assert row.ids[-suffix - 1] != clean.ids[-suffix - 1]
        with torch.no_grad():
            _, before = outputs(learner, clean.ids, adapter=False)
        _, now = outputs(learner, row.ids)
        want = want + sum(((a[-suffix:] - b[-suffix:]) ** 2).sum() for a, b in zip(now, before, strict=True)) / len(now)
    agree(learner, examples, want)


def test_jsd_compares_with_the_base_on_the_bare_prompt():
    learner = learner_of("jsd")
    examples = [learner.loss.example(RENDERER, pair) for pair in PAIRS]
    want = torch.zeros(())
    for example in examples:
        row, clean = example.rows[0], example.clean
        learned = sum(row.learn)
        with torch.no_grad():
            q = outputs(learner, clean.ids, adapter=False)[0][-learned - 1 : -1].softmax(-1)
        p = outputs(learner, row.ids)[0][-learned - 1 : -1].softmax(-1)
        m = (p + q) / 2
        want = want + ((p * (p / m).log()).sum() + (q * (q / m).log()).sum()) / 2
    agree(learner, examples, want)


def test_common_suffix_leaves_the_first_token():
    assert common_suffix([1, 2, 3, 4], [9, 3, 4]) == 2
    assert common_suffix([2, 3], [2, 3]) == 1
    assert common_suffix([1, 2], [3, 4]) == 0


def test_dpo_refuses_rows_without_a_rejected_reply():
    pair = Pair(kind=PairKind.INSTRUCT, prompt_id="p7", source="s", messages=chat("Hi"), target="Hello.")
    with pytest.raises(BadInputError, match="instruct row of prompt 'p7'"):
        losses.of(TrainSettings(model=MODEL, loss="dpo")).example(RENDERER, pair)


def test_an_empty_target_is_refused():
    pair = Pair(kind=PairKind.BCT, prompt_id="p7", messages=chat("Hi"), target=" ")
    with pytest.raises(BadInputError, match=r"row 1 .*'p7'.* empty target"):
        data.encode(losses.of(TrainSettings(model=MODEL)), RENDERER, [pair], 100)


@pytest.mark.parametrize("kind", ["shares keys and values", "makes values of keys"])
def test_a_gemma_4_is_read_as_transformers_reads_it(kind, tmp_path):
    """E2B and E4B, and 12B and 31B, in small: layers of two head sizes, of which some project no keys or no values."""
    import transformers

    for file in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        shutil.copy(MODEL / file, tmp_path)
    size = len(RENDERER.tokenizer)
    own = (
        {"num_kv_shared_layers": 2, "hidden_size_per_layer_input": 8, "vocab_size_per_layer_input": size}
        if kind == "shares keys and values"
        else {"attention_k_eq_v": True, "num_global_key_value_heads": 1, "hidden_size_per_layer_input": 0}
    )
    shape = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 6, "num_attention_heads": 4}
    shape |= {"num_key_value_heads": 2, "head_dim": 16, "global_head_dim": 32, "sliding_window": 16}
    kinds = ["sliding_attention", "full_attention"] * 3
    config = transformers.Gemma4TextConfig(vocab_size=size, layer_types=kinds, **shape, **own)
    theirs = transformers.Gemma4ForCausalLM(config)
    theirs.save_pretrained(tmp_path)
    settings = TrainSettings(model=tmp_path)
    made = model.build(settings)
    examples = [data.Example(rows=(RENDERER.example(pair.messages, pair.target),)) for pair in PAIRS]
    found = made(examples)
    whole = 0.0
    for example in examples:
        (row,) = example.rows
        labels = torch.tensor([token if on else -100 for token, on in zip(row.ids, row.learn, strict=True)])
        logits = theirs(input_ids=torch.tensor([row.ids])).logits[0, :-1]
        whole += functional.cross_entropy(logits, labels[1:], reduction="sum").item()
    assert found.item() == pytest.approx(whole, rel=1e-5)
    found.backward()
    trained = [parameter for parameter in made.parameters() if parameter.requires_grad]
    assert any(parameter.grad.abs().sum() > 0 for parameter in trained)
    assert planner.trained_parameters(planner.shape_of(tmp_path), settings) == sum(p.numel() for p in trained)
