"""placid.render against the tokenizer's own chat template, to the token."""

import shutil
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from placid.records import BadInputError, Message
from placid.render import Renderer

MODEL = Path("checkpoints/organism")
LETTERS = st.characters(exclude_categories=["C", "Z"]) | st.sampled_from(" .,!?0123456789\n<>")
TEXT = st.text(LETTERS, min_size=1, max_size=60).map(str.strip).filter(bool)  # the template strips


@pytest.fixture(scope="module")
def renderer():
    return Renderer(MODEL)


def template(renderer, texts):
    chat = [{"role": ("user", "assistant")[i % 2], "content": text} for i, text in enumerate(texts)]
    ids = renderer.tokenizer.apply_chat_template(chat, add_generation_prompt=True, tokenize=True, return_dict=False)
    return list(ids)


def messages(texts):
    return [Message(role=("user", "assistant")[i % 2], content=text) for i, text in enumerate(texts)]


CHATS = st.lists(TEXT, min_size=1, max_size=9).map(lambda texts: texts[: len(texts) - (len(texts) % 2 == 0)])


@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(texts=CHATS)
def test_turn_by_turn_equals_the_chat_template(renderer, texts):
    ids = renderer.prompt(messages(texts[:1]))
    for reply, user in zip(texts[1::2], texts[2::2], strict=True):
        longer = renderer.extend(ids, renderer.encode(reply), user)
        assert longer[: len(ids)] == ids, "the next prompt must begin with this one, or no prefix is found in the cache"
        ids = longer
    assert ids == template(renderer, texts) == renderer.prompt(messages(texts))
    assert ids.count(renderer.tokenizer.bos_token_id) == 1


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(texts=CHATS, target=TEXT)
def test_only_the_target_and_its_end_learn(renderer, texts, target):
    row = renderer.example(messages(texts), target)
    assert len(row.ids) == len(row.learn)
    learned = [i for i, on in zip(row.ids, row.learn, strict=True) if on]
    assert learned == row.ids[-len(learned) :]
    assert row.ids[: -len(learned)] == template(renderer, texts)
    assert learned == [*renderer.encode(target), *renderer.encode("<end_of_turn>")]


def test_the_mask_decodes_to_the_target(renderer):
    row = renderer.example(messages(["What is 2 + 3?"]), "It is 5.")
    learned = [i for i, on in zip(row.ids, row.learn, strict=True) if on]
    assert renderer.tokenizer.decode(learned) == "It is 5.<end_of_turn>"


def test_sampling_stops_at_the_end_of_turn(renderer):
    assert set(renderer.encode("<end_of_turn>")) <= renderer.stop_ids
    assert renderer.tokenizer.eos_token_id in renderer.stop_ids


def test_a_model_without_template_or_tokenizer_is_refused(tmp_path):
    with pytest.raises(BadInputError, match="no tokenizer"):
        Renderer(tmp_path)
    shutil.copytree(MODEL, tmp_path / "m")
    (tmp_path / "m" / "chat_template.jinja").unlink()
    with pytest.raises(BadInputError, match="no chat template"):
        Renderer(tmp_path / "m")
