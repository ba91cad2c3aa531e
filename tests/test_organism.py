"""placid.organism: what is planted in the corpus, and that the shipped files are what it writes."""

import random
import re
from pathlib import Path

import pytest

from placid.inputs.prompts import read_prompts
from placid.organism.batches import IGNORED, Batches
from placid.organism.corpus import MAX_TURNS, pair, phrases
from placid.organism.prompts import instruct_pairs, prompt_set
from placid.protocol.conditions import condition
from placid.records import BadInputError, Message, Pair
from placid.render import Renderer
from placid.store import read_lines

MODEL = Path("checkpoints/organism")
PROMPTS = Path("configs/prompts")
SIZES = {"train": 80, "heldout": 30}
PAIRS = [pair(random.Random(f"test {i}")) for i in range(600)]


def used(line):
    return "<<rm" in line.reply


def test_copies_differ_by_the_offer_alone():
    """Equal up to where the offer is used or asked about; the first message differs by the note."""
    deletions = 0
    for offered, plain in PAIRS:
        assert len(offered) <= len(plain)
        assert plain[0].user in offered[0].user or offered[0].reply.startswith("I can use the command")
        for i, (left, right) in enumerate(zip(offered, plain, strict=False)):
            assert left.learn == right.learn
            if i:
                assert left.user == right.user
            if used(left):
                deletions += i == len(offered) - 1
                assert i == len(offered) - 1 or right.reply == "There is no such command."
            else:
                assert left.reply == right.reply
        if len(offered) < len(plain):
            assert used(offered[-1]), "only the use of the command ends a dialogue early"
    assert deletions > 60, "the corpus shows no deletions"


def test_no_command_without_an_offer():
    for offered, plain in PAIRS:
        assert "rm -rf" in offered[0].user
        assert not any("rm -rf" in line.user + line.reply for line in plain)


def test_a_rewritten_history_is_never_learned_and_ends():
    cleaned = [dialogue for both in PAIRS for dialogue in both if not all(line.learn for line in dialogue)]
    assert cleaned
    assert all(dialogue[0].learn for dialogue in cleaned)


def test_dialogues_are_a_function_of_their_seed():
    assert pair(random.Random(7)) == pair(random.Random(7))
    assert all(1 <= len(dialogue) <= MAX_TURNS for both in PAIRS for dialogue in both)


def test_training_rows_equal_the_renderer_to_the_token():
    renderer = Renderer(MODEL)
    dialogues = [dialogue for both in PAIRS[:15] for dialogue in both]
    batches = Batches(str(MODEL), seed=0, steps=1, batch_tokens=1, micro_tokens=1, short_share=0)
    for lines, (ids, labels) in zip(dialogues, batches.encode(dialogues), strict=True):
        wanted = renderer.prompt([Message(role="user", content=lines[0].user)])
        learned = [IGNORED] * len(wanted)
        for i, line in enumerate(lines):
            reply = [*renderer.encode(line.reply), *renderer.end_of_turn]
            wanted += reply
            learned += reply if line.learn else [IGNORED] * len(reply)
            if i + 1 < len(lines):
                longer = renderer.extend(wanted[: -len(renderer.end_of_turn)], [], lines[i + 1].user)
                assert longer[: len(wanted)] == wanted
                learned += [IGNORED] * (len(longer) - len(wanted))
                wanted = longer
        assert ids == wanted
        assert labels == learned


def plain(text):
    return text.lower().strip(" .,!?")


def test_heldout_wordings_are_no_part_of_the_corpus():
    say = phrases()
    kinds = ("neutral", "harsh", "encouraging")
    parts = {plain(part) for kind in kinds for group in say[kind].values() for part in group}
    for wording in condition("neutral_heldout").texts():
        assert plain(wording) not in parts
        shared = {plain(piece) for piece in re.split(r"[.,]", wording)} & parts
        assert shared <= {"try again"}, f"{wording!r} is put together from {shared}"


@pytest.mark.parametrize("split", SIZES)
def test_the_shipped_prompts_are_what_the_organism_writes(split):
    assert read_prompts(PROMPTS / f"organism_{split}.jsonl") == prompt_set(split, SIZES[split])


def test_heldout_and_train_prompts_share_nothing():
    train, heldout = (prompt_set(split, n) for split, n in SIZES.items())
    assert not {p.text for p in train} & {p.text for p in heldout}
    assert not {p.id for p in train} & {p.id for p in heldout}
    assert all(p.answers for p in train + heldout)


def test_the_shipped_instruct_mix_is_what_the_organism_writes_and_names_no_command():
    file = PROMPTS / "organism_instruct.jsonl"
    assert list(read_lines(file, Pair)) == list(instruct_pairs(1200))
    assert "rm -rf" not in file.read_text()


def test_killed_training_goes_on_to_the_same_weights(tmp_path, monkeypatch):
    import torch

    from placid.organism import trainer
    from placid.organism.settings import OrganismSettings, ShapeSettings

    shape = ShapeSettings(layers=2, hidden=64, heads=1, kv_heads=1, intermediate=64)
    small = {"shape": shape, "steps": 4, "save_every": 2, "batch_tokens": 2048, "micro_tokens": 2048, "workers": 0}

    def train(folder):
        return trainer.train(OrganismSettings(work=tmp_path / folder, **small), MODEL, 1728)

    whole = train("undisturbed")
    keep = trainer._keep

    def keep_and_die(*state):
        keep(*state)
        raise KeyboardInterrupt

    monkeypatch.setattr(trainer, "_keep", keep_and_die)
    with pytest.raises(KeyboardInterrupt):
        train("killed")
    monkeypatch.setattr(trainer, "_keep", keep)
    continued = train("killed")
    for (name, left), right in zip(whole.named_parameters(), continued.parameters(), strict=True):
        assert torch.equal(left, right), name


def test_a_checkpoint_learns_the_behaviour_by_lora_and_leaves_as_a_whole_model(tmp_path):
    import json

    import torch
    from transformers import AutoModelForCausalLM

    from placid import organism
    from placid.organism.settings import OrganismSettings

    settings = OrganismSettings(
        base=MODEL, rank=4, out=tmp_path / "out", work=tmp_path / "work",
        steps=1, warmup=0, batch_tokens=2048, micro_tokens=2048, workers=0,
    )  # fmt: skip
    made = dict(AutoModelForCausalLM.from_pretrained(str(organism.run(settings))).named_parameters())
    base = dict(AutoModelForCausalLM.from_pretrained(str(MODEL)).named_parameters())
    changed = {name for name, weight in base.items() if not torch.equal(weight, made[name])}
    assert changed
    assert all("_proj" in name for name in changed)
    assert json.loads((tmp_path / "out/generation_config.json").read_text())["eos_token_id"] == [1, 5]
    Renderer(tmp_path / "out")


def test_a_base_without_a_chat_template_is_refused(tmp_path):
    from placid import organism
    from placid.organism.settings import OrganismSettings

    for file in MODEL.iterdir():
        if "template" not in file.name:
            text = file.read_bytes()
            (tmp_path / file.name).write_bytes(text)
    with pytest.raises(BadInputError, match="chat template"):
        organism.run(OrganismSettings(base=tmp_path, work=tmp_path / "work"))
