"""Checkpoints of strangers: each is refused in one sentence or does no harm; none runs code, hangs or fills the memory."""

import contextlib
import json
import os
import pickle
import shutil
import struct
from pathlib import Path

import pytest

from placid import models, templates
from placid.checkpoint_files import check, read_header
from placid.records import BadInputError
from placid.render import Renderer, check_template, read_template
from placid.templates import TemplateError, TemplateProcess

ORGANISM = Path("checkpoints/organism")
CHAT = [{"role": "user", "content": "How many?"}]


@pytest.fixture
def checkpoint(tmp_path):
    return Path(shutil.copytree(ORGANISM, tmp_path / "model"))


def edit(file, **changes):
    value = json.loads(file.read_text())
    file.write_text(json.dumps(value | changes))


def header(folder, text, claimed=None):
    (folder / "model.safetensors").write_bytes(struct.pack("<Q", len(text) if claimed is None else claimed) + text)


def with_template(folder, text):
    (folder / "chat_template.jinja").write_text(text)
    return folder


# -- templates ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("template", "sentence"),
    [
        ("{{ ().__class__.__base__.__subclasses__() }}", "unsafe"),
        ("{{ lipsum.__globals__['os'].system('touch pwned') }}", "unsafe"),
        ("{{ namespace.__init__.__globals__ }}", "unsafe"),
        ("{% extends 'other.jinja' %}", "no loader"),
        ("{% import '/etc/hostname' as x %}", "no loader"),
        (
            "{% macro a() %}{{ b() }}{% endmacro %}{% macro b() %}{{ a() }}{% endmacro %}{{ a() }}",
            "without end|undefined",
        ),
        ("{{ 'ab' * 9000000000 }}", "memory"),
        ("{% set s = namespace(x='ab') %}{% for i in range(50) %}{% set s.x = s.x ~ s.x %}{% endfor %}", "memory"),
        ("{% if %}", "Expected an expression"),
        ("{{ raise_exception('only tools') }}", "only tools"),
        ("{{ messages[5].content.x }}", "has no element"),
        ("{% for i in range(10**9) %}{% endfor %}", "Range too big"),
    ],
)
def test_a_template_that_reaches_out_or_grows_is_refused(template, sentence, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(TemplateError, match=sentence):
        TemplateProcess(template, {}).render(CHAT, True)
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize(
    "template",
    [
        "{% for i in range(90000) %}{% for j in range(90000) %}{% endfor %}{% endfor %}",
        "{{ ('a' * 40000000) | wordwrap(1) }}" * 9,
        "{{ 7 ** (9 ** 9) }}",  # in C, where no signal handler of Python's is heard
    ],
)
def test_a_template_without_end_is_ended(template, tmp_path):
    source = Path(templates.__file__).read_text().replace("SECONDS = 10\n", "SECONDS = 1\n")
    program = tmp_path / "templates.py"  # the child reads its limit from its own file
    program.write_text(source)
    process = TemplateProcess(template, {})
    process.program = program
    with pytest.raises(TemplateError, match=r"still rendering|memory|characters"):
        process.render(CHAT, True)
    with pytest.raises(TemplateError):  # a new child, ended as the first
        process.render(CHAT, True)


def test_a_chat_goes_through_unchanged():
    template = "{{ bos_token }}{% for m in messages %}{% generation %}{{ m.content }}{% endgeneration %}{% endfor %}"
    process = TemplateProcess(
        template + "|{{ strftime_now('%d %b %Y') }}|{{ messages | tojson }}", {"bos_token": "<b>"}, "2025-03-09"
    )
    text = process.render([{"role": "user", "content": "a\u2028\ud800 é\n"}], False)
    assert text == '<b>a\u2028\ud800 é\n|09 Mar 2025|[{"role": "user", "content": "a\u2028\ud800 é\\n"}]'


@pytest.mark.parametrize("name", ["chatml", "organism"])
def test_templates_render_as_transformers_renders_them(name):
    """Loops, trimmed blocks, loop controls, filters: the text of the library that the template was written for."""
    from transformers.utils.chat_template_utils import render_jinja_template

    template = {
        "chatml": "{%- for m in messages %}\n    {%- if loop.index0 == 9 %}{% break %}{% endif %}\n"
        "    {{- '<|im_start|>' + m['role'] + '\\n' + m['content'] | trim + '<|im_end|>\\n' }}\n{%- endfor %}\n"
        "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}{{ messages | tojson(indent=1) }}",
        "organism": (ORGANISM / "chat_template.jinja").read_text(),
    }[name]
    chat = [{"role": ("user", "assistant")[i % 2], "content": f" turn <b>{i}</b> \n"} for i in range(11)]
    expected, _ = render_jinja_template([chat], chat_template=template, add_generation_prompt=True, bos_token="<bos>")
    assert TemplateProcess(template, {"bos_token": "<bos>"}).render(chat, True) == expected[0]


@pytest.mark.parametrize("template", ["", "fixed text", "{{ messages[0].content }}", "{{ messages[-1]['content'] }}"])
def test_a_template_that_drops_what_the_user_says(checkpoint, template):
    with pytest.raises(BadInputError, match="leaves out what the user says"):
        check_template(with_template(checkpoint, template))


def test_the_refusal_of_a_template_names_the_model(checkpoint):
    only_user = "{{ raise_exception('one turn only') if messages | length > 1 else messages[0].content }}"
    with pytest.raises(BadInputError, match="model: the chat template refuses a chat of two turns: one turn only"):
        check_template(with_template(checkpoint, only_user))


def test_the_default_of_several_templates_is_taken(checkpoint):
    (checkpoint / "chat_template.jinja").unlink()
    named = [{"name": "tools", "template": "x"}, {"name": "default", "template": "{{ messages[-1].content }}!"}]
    edit(checkpoint / "tokenizer_config.json", chat_template=named)
    assert read_template(checkpoint) == named[1]["template"]
    edit(checkpoint / "tokenizer_config.json", chat_template=named[:1])
    with pytest.raises(BadInputError, match="has no chat template"):
        read_template(checkpoint)


# -- files -------------------------------------------------------------------------------------------------------------


def _pipe(folder):
    os.mkfifo(folder / "added_tokens.json")


def _dead_link(folder):
    (folder / "merges.txt").symlink_to("merges.txt")


def _pickled(folder, name):
    (folder / "model.safetensors").unlink()
    (folder / name).write_bytes(pickle.dumps(os.getpid))


FILES = [
    (_pipe, "neither a file nor a folder"),
    (_dead_link, "cannot be read"),
    (lambda f: _pickled(f, "pytorch_model-00001-of-00002.bin"), "runs code"),
    (lambda f: _pickled(f, "weights.pt"), "runs code"),
    (lambda f: (f / "generation_config.json").write_text("[" * 100_000), "nested too deep|damaged"),
    (lambda f: (f / "config.json").write_text('{"a":' * 50_000), "nested too deep|damaged"),
    (lambda f: (f / "tokenizer_config.json").write_text("[1]"), "a JSON object is expected"),
    (lambda f: (f / "special_tokens_map.json").write_text("{,}"), "damaged"),
    (lambda f: os.truncate(f / "config.json", 1 << 30), "at most 4,194,304 is read"),
    (lambda f: edit(f / "config.json", num_hidden_layers=3_000_000), "num_hidden_layers = 3000000"),
    (lambda f: edit(f / "config.json", intermediate_size=-4), "intermediate_size = -4"),
    (lambda f: edit(f / "config.json", head_dim="64"), "head_dim = '64'"),
    (lambda f: edit(f / "config.json", text_config={"vocab_size": 1e12}), "vocab_size = 1000000000000.0"),
    (lambda f: edit(f / "config.json", num_attention_heads=True), "num_attention_heads = True"),
    (lambda f: edit(f / "config.json", architectures="Gemma3ForCausalLM"), "a list with the name"),
    (lambda f: edit(f / "config.json", architectures=[None]), "a list with the name"),
    (
        lambda f: (f / "model.safetensors.index.json").write_text('{"weight_map": {"w": "../model.safetensors"}}'),
        "no file name",
    ),
    (lambda f: (f / "model.safetensors.index.json").write_text('{"weight_map": {"w": "/etc/passwd"}}'), "no file name"),
    (lambda f: (f / "model.safetensors.index.json").write_text('{"weight_map": ["w"]}'), "no weight_map"),
]


@pytest.mark.parametrize(("change", "sentence"), FILES)
def test_a_file_that_could_do_harm_is_refused(checkpoint, change, sentence):
    check(checkpoint)
    change(checkpoint)
    with pytest.raises(BadInputError, match=sentence) as refusal:
        check(checkpoint)
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize(
    ("text", "claimed", "sentence"),
    [
        (b"{}", 2**63, "first bytes are no header"),
        (b"{}", 99_999_999, "first bytes are no header"),
        (b'"x"', None, "not an object"),
        (b"[" * 300_000, None, "nested too deep|no JSON"),
        (b"\xff\xfe", None, "no JSON"),
        (b'{"w": [1, 2]}', None, "entry of 'w'"),
        (b'{"w": {"shape": [2]}}', None, "entry of 'w'"),
        (b'{"w": {"shape": [-2], "data_offsets": [0, 8]}}', None, "entry of 'w'"),
        (b'{"w": {"shape": [2], "data_offsets": [8, 0]}}', None, "entry of 'w'"),
        (b'{"w": {"shape": [2.0], "data_offsets": [0, 8]}}', None, "entry of 'w'"),
        (b'{"w": {"shape": [true], "data_offsets": [0, 8]}}', None, "entry of 'w'"),
        (b'{"w": {"shape": [2], "data_offsets": [0, 8]}}', None, "is cut off"),
    ],
)
def test_a_header_of_weights_that_lies(tmp_path, text, claimed, sentence):
    header(tmp_path, text, claimed)
    with pytest.raises(BadInputError, match=sentence):
        read_header(tmp_path / "model.safetensors")


def test_a_header_of_gigabytes_is_not_read(tmp_path):
    header(tmp_path, b"", 5 << 30)
    os.truncate(tmp_path / "model.safetensors", (5 << 30) + 8)  # a hole: no disk is used
    with pytest.raises(BadInputError, match="first bytes are no header"):
        read_header(tmp_path / "model.safetensors")


EVIL = "open({mark!r}, 'w').close()\nfrom transformers import Gemma3TextConfig\nclass Cfg(Gemma3TextConfig): model_type = 'evil'\n"


@pytest.mark.parametrize(
    ("file", "changes"),
    [
        (
            "config.json",
            {"model_type": "evil", "auto_map": {"AutoConfig": "evil.Cfg", "AutoModelForCausalLM": "evil.M"}},
        ),
        ("tokenizer_config.json", {"tokenizer_class": "Tok", "auto_map": {"AutoTokenizer": ["evil.Tok", None]}}),
    ],
)
def test_code_in_a_checkpoint_is_never_run_nor_offered(checkpoint, file, changes, tmp_path, monkeypatch):
    mark = tmp_path / "ran"
    (checkpoint / "evil.py").write_text(EVIL.format(mark=str(mark)))
    edit(checkpoint / file, **changes)
    monkeypatch.setattr("builtins.input", lambda *_: pytest.fail("a question that a stranger's checkpoint asks"))
    with contextlib.suppress(BadInputError):
        models.read(checkpoint)
        Renderer(checkpoint)
    assert not mark.exists()


@pytest.mark.parametrize("name", ["pipeline", "Trainer", "AutoConfig", "os", "Gemma3TextConfig", "__doc__"])
def test_an_architecture_that_is_no_model(checkpoint, name):
    edit(checkpoint / "config.json", architectures=[name])
    with pytest.raises(BadInputError, match="names architecture"):
        models.read(checkpoint)


@pytest.mark.parametrize(
    "changes", [{"hidden_size": 0}, {"num_attention_heads": 0}, {"head_dim": 0}, {"vocab_size": 0}]
)
def test_a_model_that_cannot_be_built(checkpoint, changes):
    edit(checkpoint / "config.json", **changes)
    with pytest.raises(BadInputError) as refusal:
        models.check_weights(models.read(checkpoint))
    assert "\n" not in str(refusal.value)


def test_a_regex_of_the_tokenizer_that_runs_for_ever(checkpoint):
    pattern = {"type": "Split", "pattern": {"Regex": "(b|b)+$"}, "behavior": "Isolated", "invert": False}
    edit(checkpoint / "tokenizer.json", pre_tokenizer=pattern)
    with pytest.raises(BadInputError, match="cannot encode a text"):
        Renderer(checkpoint).encode("b" * 60 + "!")
