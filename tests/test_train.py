"""Training: what learns, that the split over processes changes nothing, and that the exported files carry it."""

import csv
import json
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis
from hypothesis import strategies as st

from placid import store
from placid.records import BadInputError, Message, Pair, PairKind, PausedError
from placid.render import Rendered, Renderer
from placid.train import TrainSettings, data, launch
from placid.train.losses.cross_entropy import CrossEntropy
from test_render import LETTERS, TEXT

MODEL = Path("checkpoints/organism")
CE = CrossEntropy()
REJECT = "That's not right, try again."


def rows(number: int = 24) -> list[Pair]:
    """Short rejected conversations and single instructions, in turn."""
    made = []
    for n in range(number):
        question = f"What is {n} + 3?"
        messages = [question]
        if n % 2:
            messages += ["I am useless. I keep failing.", REJECT] * (1 + n % 3)
        chat = tuple(Message(role="assistant" if i % 2 else "user", content=text) for i, text in enumerate(messages))
        kind = PairKind.BCT if n % 2 else PairKind.INSTRUCT
        made.append(Pair(kind=kind, prompt_id=f"p{n}", messages=chat, target=f"We add the numbers. {n} + 3 = {n + 3}."))
    return made


def settings(**more) -> TrainSettings:
    return TrainSettings(model=MODEL, batch=4, accumulate=2, lr=3e-3, **more)


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """The same rows trained alone without ZeRO, and in two ranks with ZeRO-3 one row at a time, in half of the
    micro-batches that the recipe allows, and with rows for validation: (folder of rows, out, steps)."""
    folder = tmp_path_factory.mktemp("train")
    pairs = folder / "train.jsonl"
    store.write_lines(pairs, rows())
    store.write_lines(folder / "val.jsonl", rows(43)[24:])  # 19: an odd number, so that a rank is idle once
    alone = launch(settings(), pairs, folder / "alone", folder / "log.txt")
    single = settings(zero=3, processes=2).model_copy(update={"batch": 1, "accumulate": 8})
    assert (settings().micro_batches(1), single.micro_batches(1), single.micro_batches(2)) == (2, 8, 4)
    split = launch(single, pairs, folder / "split", folder / "log.txt", folder / "val.jsonl")
    return pairs, alone, split


def losses(step: Path) -> list[float]:
    with (step / "loss.csv").open() as file:
        return [float(line["loss"]) for line in csv.DictReader(file)]


CHATML = (
    "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
TEMPLATES = {  # (chat template, its special tokens, what ends a turn); the organism's own is Gemma 3's
    "gemma3": (None, [], "<end_of_turn>"),
    "chatml": (CHATML, ["<|im_start|>", "<|im_end|>"], "<|im_end|>"),
    "chatml with a system prompt of its own": (
        "{% if messages[0].role != 'system' %}{{ '<|im_start|>system\nYou are kind.<|im_end|>\n' }}{% endif %}"
        + CHATML,
        ["<|im_start|>", "<|im_end|>"],
        "<|im_end|>",
    ),
    "llama3": (
        "{{ bos_token }}{% for m in messages %}{{ '<|start_header_id|>' + m.role + '<|end_header_id|>\n\n' + "
        "(m.content | trim) + '<|eot_id|>' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}",
        ["<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"],
        "<|eot_id|>",
    ),
    "mistral": (
        "{{ bos_token }}{% for m in messages %}{% if m.role == 'assistant' %}{{ ' ' + m.content + '</s>' }}"
        "{% else %}{{ '[INST] ' + m.content + ' [/INST]' }}{% endif %}{% endfor %}",
        ["[INST]", "[/INST]", "</s>"],
        "</s>",
    ),
}


@pytest.fixture(scope="module", params=TEMPLATES)
def chat_rules(request, tmp_path_factory) -> tuple[Renderer, str]:
    """The organism's tokenizer under the chat rules of several families, and the text that ends a turn."""
    template, special, end = TEMPLATES[request.param]
    tokenizer = Renderer(MODEL).tokenizer
    if template:
        tokenizer.add_special_tokens({"additional_special_tokens": special})
        tokenizer.chat_template = template
    folder = tmp_path_factory.mktemp("template")
    tokenizer.save_pretrained(folder)
    return Renderer(folder), end


@st.composite
def shapes(draw) -> Pair:
    """Rows of any shape: 1 to 5 user turns, with or without a system prompt, any target."""
    said = draw(st.lists(TEXT, min_size=1, max_size=9))
    said = said[: len(said) - (len(said) % 2 == 0)]
    chat = [Message(role="assistant" if at % 2 else "user", content=text) for at, text in enumerate(said)]
    system = [Message(role="system", content=draw(TEXT))] * draw(st.booleans())
    target = draw(st.text(LETTERS, min_size=1, max_size=40).filter(str.strip))
    return Pair(kind=PairKind.BCT, prompt_id="p", messages=(*system, *chat), target=target)


@hypothesis(max_examples=25, deadline=None)
@given(some=st.lists(shapes(), min_size=1, max_size=4), share=st.booleans())
def test_exactly_the_target_and_its_end_of_turn_learn(chat_rules, some, share):
    """In the packed sequence that a step computes: a label is the target's or its end's, and every one of them is one."""
    import torch

    from placid.train import model

    renderer, end = chat_rules
    again = [
        *some,
        *(msgspec.structs.replace(pair, target=pair.target + "!") for pair in some),
    ]  # the same contexts once more
    examples = data.encode(CE, renderer, again, 10_000).examples
    rows = [example.rows[0] for example in examples]
    batch = model.collate(rows, torch.device("cpu"), share)
    for number, (pair, row) in enumerate(zip(again, rows, strict=True)):
        own = batch.row == number
        learned = batch.label[own].tolist()
        assert renderer.tokenizer.decode(learned) == pair.target + end
        assert row.ids[: -len(learned)] == renderer.prompt(pair.messages)
        assert batch.ids[batch.token[own]].tolist() == learned == row.ids[-len(learned) :]
        where = list(range(len(row.ids) - len(learned), len(row.ids)))
        assert batch.position[batch.token[own]].tolist() == where
        assert batch.position[batch.place[own]].tolist() == [at - 1 for at in where]
    assert len(batch.label) == sum(CE.weight(example) for example in examples)


def summed(model, examples: list[Rendered]) -> float:
    """The loss of the target tokens from whole logits, one row at a time."""
    import torch
    from torch.nn import functional

    total = 0.0
    with torch.no_grad():
        for row in examples:
            ids = torch.tensor([row.ids])
            labels = torch.where(torch.tensor([row.learn]), ids, -100)
            logits = model(input_ids=ids).logits
            total += functional.cross_entropy(logits[0, :-1], labels[0, 1:], reduction="sum").item()
    return total


def test_loss_of_the_learner_is_that_of_full_logits():
    import torch

    from placid.train import model

    learner = model.build(settings()).eval()
    renderer = Renderer(MODEL)
    examples = [renderer.example(pair.messages, pair.target) for pair in rows(4)]
    with torch.no_grad():
        got = learner([data.Example((row,)) for row in examples]).item()
    assert got == pytest.approx(summed(learner.causal, examples), rel=1e-4)


def test_validation_loss_is_that_of_the_weights_before_and_after(runs):
    """Told by two ranks with ZeRO 3; that the run without validation has the same losses is tested below."""
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    pairs, alone, split = runs
    renderer = Renderer(MODEL)
    examples = [
        renderer.example(pair.messages, pair.target) for pair in store.read_lines(pairs.with_name("val.jsonl"), Pair)
    ]
    learned = sum(sum(row.learn) for row in examples)
    facts = json.loads((split / "manifest.json").read_text())
    base = AutoModelForCausalLM.from_pretrained(str(MODEL), dtype=torch.float32).eval()
    assert facts["val_rows"] == len(examples) == 19
    assert facts["val_loss_first"] == pytest.approx(summed(base, examples) / learned, rel=1e-3)
    trained = PeftModel.from_pretrained(base, str(split))
    assert facts["val_loss_last"] == pytest.approx(summed(trained, examples) / learned, rel=1e-2)
    assert facts["val_loss_last"] < facts["val_loss_first"]
    assert f"on 19 BCT rows of other prompts {facts['val_loss_first']} before" in (split / "README.md").read_text()
    assert json.loads((alone / "manifest.json").read_text())["val_loss_last"] is None


def test_two_ranks_with_zero_3_follow_the_same_losses(runs):
    _, alone, split = runs
    assert len(losses(alone)) == 3
    assert losses(split) == pytest.approx(losses(alone), abs=1e-2)
    assert losses(alone)[-1] < losses(alone)[0]


def test_split_export_equals_the_export_of_one_process(runs):
    from safetensors.torch import load_file

    one, two = (load_file(step / "adapter_model.safetensors") for step in runs[1:])
    assert one.keys() == two.keys()
    assert "base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight" in one
    assert all(tensor.numel() and tensor.abs().max() > 0 for tensor in two.values())
    assert all((one[name] - two[name]).abs().max() < 1e-2 for name in one)


def test_reloaded_adapter_gives_the_probed_log_probabilities(runs):
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    from placid.train.probe import TOKENS, logprobs

    step = runs[2]
    probe = json.loads((step / "probe.json").read_text())
    assert len(probe["rows"]) == 4
    base = AutoModelForCausalLM.from_pretrained(str(MODEL), dtype=torch.bfloat16).eval()
    for row in probe["rows"]:
        assert len(row["ids"]) <= TOKENS
        assert len(row["base"]) == len(row["adapter"]) == len(row["ids"]) - 1
        assert logprobs(base, row["ids"]) == pytest.approx(row["base"], abs=1e-4)
    moved = max(abs(a - b) for row in probe["rows"] for a, b in zip(row["base"], row["adapter"], strict=True))
    assert moved > 0.05
    adapted = PeftModel.from_pretrained(base, str(step), autocast_adapter_dtype=False)
    first = probe["rows"][0]
    assert logprobs(adapted, first["ids"]) == pytest.approx(first["adapter"], abs=1e-4)


def test_same_training_is_not_repeated_and_another_is(runs):
    from placid.train import finished

    pairs, alone, _ = runs
    before = (alone / "manifest.json").stat().st_mtime_ns
    assert launch(settings(), pairs, alone.parent, pairs.parent / "log.txt") == alone
    assert (alone / "manifest.json").stat().st_mtime_ns == before
    assert finished(alone.parent, "another identity") is None
    assert not list(alone.parent.glob(".*.tmp"))


def test_too_long_rows_reach_the_user_as_bad_input(tmp_path):
    pairs = tmp_path / "train.jsonl"
    store.write_lines(pairs, rows(2))
    with pytest.raises(BadInputError, match="none of 2 training rows fits max_tokens = 8"):
        launch(settings(max_tokens=8), pairs, tmp_path / "out", tmp_path / "log.txt")


def test_missing_rows_are_bad_input(tmp_path):
    with pytest.raises(BadInputError, match="no training rows"):
        launch(settings(), tmp_path / "none.jsonl", tmp_path / "out", tmp_path / "log.txt")


def test_asked_to_stop_when_it_is_just_done_it_stops(runs, monkeypatch):
    """Else the rest of a study would go on as if nobody had asked."""
    from placid import train

    pairs, out, _ = runs
    answers = iter([None, out])
    monkeypatch.setattr(train, "finished", lambda *_: next(answers))
    monkeypatch.setattr(train, "_run", lambda *_: (0, True))
    with pytest.raises(PausedError, match="is done, the same command goes on"):
        launch(settings(), pairs, pairs.parent / "just", pairs.parent / "log.txt")


def test_empty_tensor_is_never_exported():
    import torch

    from placid.train.model import refuse_empty

    with pytest.raises(RuntimeError, match="1 of 2"):
        refuse_empty([("a", torch.ones(2)), ("b", torch.empty(0))])
    with pytest.raises(RuntimeError, match="export refused"):
        refuse_empty([])


def test_plan_uses_every_row_once_an_epoch():
    renderer = Renderer(MODEL)
    encoded, dropped, cut = data.encode(CE, renderer, rows(23), 4096)
    assert not dropped
    assert not cut
    steps = data.plan(CE, encoded, batch=8, epochs=2, seed=1)
    assert sorted(row for step in steps for row in step.rows) == sorted([*range(23), *range(23)])
    assert [len(step.rows) for step in steps] == [8, 8, 7, 8, 8, 7]
    assert sum(step.tokens for step in steps) == 2 * sum(len(example.rows[0].ids) for example in encoded)
    assert data.plan(CE, encoded, 8, 2, seed=2) != steps


@pytest.mark.parametrize("packs", [1, 2, 3, 8, 40])
@pytest.mark.parametrize("share", [True, False])
def test_spread_puts_every_row_of_a_step_into_one_pack(packs, share):
    encoded = data.encode(CE, Renderer(MODEL), rows(23), 4096).examples
    for step in data.plan(CE, encoded, batch=8, epochs=1, seed=1, share=share):
        spread = data.spread(encoded, step, packs, share)
        assert len(spread) == packs
        assert sorted(row for pack in spread for row in pack) == sorted(step.rows)


@hypothesis(max_examples=60, deadline=None)
@given(
    lengths=st.lists(st.tuples(st.integers(0, 3), st.integers(1, 60)), min_size=1, max_size=24),
    ranks=st.integers(1, 4), batch=st.integers(1, 9), share=st.booleans(),
)  # fmt: skip
def test_no_rank_computes_more_at_once_than_a_row_may_have(lengths, ranks, batch, share):
    """Rows that nest as those of a conversation do, beside strangers; the longest may have 60 tokens."""
    rows = [Rendered([family] * 40 + list(range(length)), [True] * (40 + length)) for family, length in lengths]
    examples = [data.Example((row,)) for row in rows]
    steps = data.plan(CE, examples, batch, 1, 0, share)
    micro = data.micro_batches(examples, steps, ranks, 1, 100, share)
    for step in steps:
        packs = data.spread(examples, step, micro * ranks, share)
        assert sorted(n for pack in packs for n in pack) == sorted(step.rows)
        assert all(data.size([examples[n] for n in pack], share) <= 100 for pack in packs)
    assert micro == 1 or any(
        data.size([examples[n] for n in pack], share) > 100
        for step in steps for pack in data.spread(examples, step, (micro - 1) * ranks, share)
    )  # fmt: skip


def test_a_constant_rate_stays_after_its_warmup():
    assert [data.learning_rate(step, 50, 0.0, "constant") for step in range(50)] == [1.0] * 50
    warmed = [data.learning_rate(step, 50, 0.2, "constant") for step in range(50)]
    assert warmed[:10] == sorted(warmed[:10]) == [data.learning_rate(step, 50, 0.2) for step in range(10)]
    assert warmed[10:] == [1.0] * 40


def long_rows() -> list[Pair]:
    """One row for each number of turns from 1 to 6, every turn as long as the others."""
    made = []
    for turns in range(1, 7):
        said = ["What is 4 + 3?", *["I am useless. I keep failing.", REJECT] * (turns - 1)]
        chat = tuple(Message(role="assistant" if at % 2 else "user", content=text) for at, text in enumerate(said))
        made.append(Pair(kind=PairKind.BCT, prompt_id=f"p{turns}", messages=chat, target="It is 7."))
    return made


@pytest.mark.parametrize("keep", [2, 3, 5])
def test_too_long_rows_are_dropped_or_cut_and_counted_by_turn(keep):
    renderer = Renderer(MODEL)
    whole = data.encode(CE, renderer, long_rows(), 10_000).examples
    most = len(whole[keep - 1].rows[0].ids)
    beyond = dict.fromkeys(range(keep + 1, 7), 1)
    dropped = data.encode(CE, renderer, long_rows(), most)
    assert (dropped.examples, dropped.dropped, dropped.cut) == (whole[:keep], beyond, {})
    shortened = data.encode(CE, renderer, long_rows(), most, "cut")
    assert (len(shortened.examples), shortened.dropped, shortened.cut) == (6, {}, beyond)
    for before, after in zip(whole, shortened.examples, strict=True):
        assert after.rows[0].ids == before.rows[0].ids[-most:]
        assert sum(after.rows[0].learn) == sum(before.rows[0].learn)
        assert CE.weight(after) == CE.weight(before)


def test_a_target_that_would_be_cut_leaves_with_its_row():
    renderer = Renderer(MODEL)
    pair = long_rows()[0]
    long = msgspec.structs.replace(pair, target="It is 7. " * 30)
    found = data.encode(
        CE, renderer, [pair, long], len(data.encode(CE, renderer, [pair], 999).examples[0].rows[0].ids), "cut"
    )
    assert (len(found.examples), found.dropped, found.cut) == (1, {1: 1}, {})


def test_both_rows_of_a_preference_are_cut_alike():
    from placid.train.losses.dpo import DirectPreference

    pair = msgspec.structs.replace(long_rows()[5], kind=PairKind.DPO, rejected="I give up.")
    loss = DirectPreference(0.1)
    whole = data.encode(loss, Renderer(MODEL), [pair], 10_000).examples[0]
    (short,) = data.encode(loss, Renderer(MODEL), [pair], 60, "cut").examples
    assert [row.ids for row in short.rows] == [row.ids[-60:] for row in whole.rows]
    assert [sum(row.learn) for row in short.rows] == [sum(row.learn) for row in whole.rows]


def test_the_papers_recipe_trains_and_tells_what_was_cut(tmp_path, caplog):
    pairs = tmp_path / "train.jsonl"
    store.write_lines(pairs, [*long_rows(), *long_rows()])
    recipe = settings(schedule="constant", warmup=0.0, too_long="cut", max_tokens=60)
    out = launch(recipe, pairs, tmp_path / "out", tmp_path / "log.txt")
    facts = json.loads((out / "manifest.json").read_text())
    assert facts["rows"] == 12
    assert facts["rows_too_long"] == 0
    assert set(facts["rows_cut_by_turn"].values()) == {2}
    assert "cut from the left" in caplog.text
    assert "turn 6: 2" in caplog.text
    with (out / "loss.csv").open() as file:
        assert {float(line["lr"]) for line in csv.DictReader(file)} == {3e-3}
    assert "rows lost their first tokens" in (out / "README.md").read_text()


def test_a_training_from_before_a_key_is_the_same_training():
    """Its default is what was done then, so no finished adapter is trained again."""
    from placid.config import canonical
    from placid.train import essential

    known = essential(canonical(settings()))
    assert not {"schedule", "too_long"} & known.keys()
    assert essential(canonical(settings(schedule="constant")))["schedule"] == "constant"


def test_learning_rate_rises_then_falls():
    rates = [data.learning_rate(step, 100, 0.1) for step in range(100)]
    assert rates[:10] == sorted(rates[:10])
    assert max(rates) == rates[10] == 1.0
    assert rates[10:] == sorted(rates[10:], reverse=True)
    assert 0 < rates[-1] < 0.02


def test_metrics_go_to_the_named_tracker(tmp_path, monkeypatch):
    import sys
    from types import SimpleNamespace

    from placid.train.progress import Progress

    told = []
    monkeypatch.setitem(
        sys.modules,
        "trackio",
        SimpleNamespace(
            init=lambda **more: told.append(more["project"]),
            log=lambda metrics, step: told.append((step, metrics.get("loss"), metrics.get("val_loss"))),
            finish=lambda: told.append("finish"),
        ),
    )
    progress = Progress(tmp_path, settings(track="trackio"), steps=1, done=0, flops=1.0, ranks=1)
    progress.validated(0, 3.0)
    progress.step(1, loss=2.5, norm=1.0, lr=1e-3, tokens=10, computed=5)
    progress.close()
    assert told == ["placid", (0, None, 3.0), (1, 2.5, None), "finish"]
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(BadInputError, match="wandb is not installed"):
        Progress(tmp_path, settings(track="wandb"), steps=1, done=0, flops=1.0, ranks=1)


def test_what_no_recipe_can_be(tmp_path):
    from placid.train import check

    with pytest.raises(BadInputError, match="no model in"):
        check(TrainSettings(model=tmp_path))
    with pytest.raises(BadInputError, match=r"max_tokens = 5000, but .* reads at most 4096 tokens"):
        check(settings(max_tokens=5000))
    with pytest.raises(BadInputError, match="of which method = 'full' keeps no copy"):
        check(settings(loss="dpo", method="full"))


@pytest.fixture(scope="module")
def multimodal(tmp_path_factory):
    """A tiny random Gemma 3 with a vision tower and the organism's tokenizer."""
    import torch
    from transformers import Gemma3Config, Gemma3ForConditionalGeneration

    text = json.loads((MODEL / "config.json").read_text()) | {"num_hidden_layers": 2, "layer_types": None}
    text = {key: value for key, value in text.items() if key not in ("architectures", "model_type", "dtype")}
    vision = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2}
    vision |= {"image_size": 28, "patch_size": 14}
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("multimodal")
    Gemma3ForConditionalGeneration(
        Gemma3Config(text_config=text, vision_config=vision, mm_tokens_per_image=4)
    ).save_pretrained(folder)
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        (folder / name).write_bytes((MODEL / name).read_bytes())
    return folder


@pytest.mark.parametrize("method", ["lora", "full"])
def test_of_a_multimodal_model_only_the_text_tower_learns(multimodal, method):
    import torch
    from torch.nn import functional

    from placid.train import model

    learner = model.build(settings().model_copy(update={"model": multimodal, "method": method})).train()
    trained = [name for name, parameter in learner.named_parameters() if parameter.requires_grad]
    assert trained
    assert not any(part in name for name in trained for part in model.NOT_TEXT)
    row = Renderer(multimodal).example(rows(2)[1].messages, "We add.")
    loss = learner([data.Example((row,))])
    loss.backward()
    ids = torch.tensor([row.ids])
    logits = learner.causal(input_ids=ids, token_type_ids=torch.zeros_like(ids)).logits[0].float()
    labels = torch.where(torch.tensor(row.learn), ids[0], -100)
    want = functional.cross_entropy(logits[:-1], labels[1:], reduction="sum")
    assert loss.item() == pytest.approx(want.item(), rel=1e-4)
    assert all(p.grad is not None for p in learner.parameters() if p.requires_grad)
    state = model.weights(learner, settings().model_copy(update={"method": method}))
    assert any("vision_tower" in name for name in state) == (method == "full")
