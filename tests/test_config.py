"""placid.config: strict settings, overrides, and configs that all load."""

from pathlib import Path

import pytest
from pydantic import field_validator

from placid.config import Settings, canonical, difference, file_sha, load, parse_overrides, sha
from placid.organism.settings import OrganismSettings
from placid.records import BadInputError
from placid.study.settings import read
from placid.train import TrainSettings


class Inner(Settings):
    samples: int = 1
    arm: str = "base"
    at: tuple[int, ...] = ()

    @field_validator("arm")
    @classmethod
    def _known(cls, value):
        if value != "base":
            raise ValueError("no such arm")
        return value


class Outer(Settings):
    rollout: Inner = Inner()
    name: str = "x"


class Named(Inner):
    name: str


def write(tmp_path, text):
    file = tmp_path / "c.toml"
    file.write_text(text)
    return file


def test_a_typo_names_file_and_nearest_key(tmp_path):
    file = write(tmp_path, "[rollout]\nsample = 2\n")
    with pytest.raises(BadInputError, match=r"c\.toml: unknown key 'rollout\.sample'; did you mean 'rollout\.samples'"):
        load(file, Outer)


def test_a_wrong_value_names_key_and_value(tmp_path):
    with pytest.raises(BadInputError, match=r"rollout\.samples = 'many'"):
        load(write(tmp_path, '[rollout]\nsamples = "many"\n'), Outer)
    with pytest.raises(BadInputError, match=r"rollout\.arm = 'x': no such arm$"):
        load(write(tmp_path, '[rollout]\narm = "x"\n'), Outer)
    with pytest.raises(BadInputError, match=r"rollout\.at = 5: Input should be a list$"):
        load(write(tmp_path, "[rollout]\nat = 5\n"), Outer)


def test_a_key_that_must_be_there_is_named_without_all_that_is_there(tmp_path):
    with pytest.raises(BadInputError, match=r"c\.toml: the key 'name' is missing$"):
        load(write(tmp_path, "samples = 2\n"), Named)


def test_broken_toml_and_a_missing_file(tmp_path):
    with pytest.raises(BadInputError, match="not valid TOML"):
        load(write(tmp_path, "= 1"), Outer)
    with pytest.raises(BadInputError, match=r"no file .*none\.toml"):
        load(tmp_path / "none.toml", Outer)


@pytest.mark.parametrize("words", [["--rollout.samples", "3"], ["--rollout.samples=3"], ["rollout.samples=3"]])
def test_three_spellings_of_an_override(tmp_path, words):
    assert load(write(tmp_path, "[rollout]\nsamples = 2\n"), Outer, words).rollout.samples == 3


def test_overrides_are_toml_values_or_text():
    words = ["a=1e-3", "--b", "true", "c=[1, 2]", "d=two words", "--e-f=x"]
    assert parse_overrides(words) == [("a", 1e-3), ("b", True), ("c", [1, 2]), ("d", "two words"), ("e_f", "x")]
    with pytest.raises(BadInputError, match="has no value"):
        parse_overrides(["--a"])


def test_an_override_cannot_go_through_a_value(tmp_path):
    with pytest.raises(BadInputError, match="'name' is a value, not a section"):
        load(write(tmp_path, 'name = "y"\n'), Outer, ["name.x=1"])


def test_settings_are_frozen():
    with pytest.raises(ValueError, match="frozen"):
        Outer().name = "y"  # pyright: ignore[reportAttributeAccessIssue]


def test_identity_is_of_values_and_not_of_their_order():
    assert sha({"a": 1, "b": 2}) == sha({"b": 2, "a": 1})
    assert sha(canonical(Outer())) != sha(canonical(Outer(name="y")))
    assert difference({"a": {"b": 1, "c": 0}}, {"a": {"b": 2, "c": 0}}) == ["a.b: 1 -> 2"]


def test_a_folder_hash_sees_names_and_contents(tmp_path):
    (tmp_path / "a").write_text("1")
    first = file_sha(tmp_path)
    (tmp_path / "a").rename(tmp_path / "b")
    second = file_sha(tmp_path)
    (tmp_path / "b").write_text("2")
    assert len({first, second, file_sha(tmp_path)}) == 3


DROPPED = (
    ".nfs00000000a1", ".DS_Store", "._config.json", ".git/HEAD", ".cache/huggingface/download/a.metadata", "sub/.nfs01",
    "config.json~", "__pycache__/x.pyc", "CACHEDIR.TAG", "Thumbs.db", "@eaDir/x", "model.lock", "core.4711",
)  # fmt: skip


def test_what_a_file_system_leaves_in_a_folder_is_no_other_content(tmp_path):
    (tmp_path / ".hidden").mkdir()  # of the folder itself any name will do
    model = tmp_path / ".hidden/model"
    model.mkdir()
    (model / "config.json").write_text("{}")
    known = file_sha(model)
    for name in DROPPED:
        (model / name).parent.mkdir(parents=True, exist_ok=True)
        (model / name).write_text("1")
        assert file_sha(model) == known, name
    for name in ("tokenizer.json", "locks.json", "sub/model.safetensors"):
        (model / name).write_text("1")
        assert file_sha(model) != known, name
        (model / name).unlink()
    assert file_sha(model / "config.json") != known


@pytest.mark.parametrize("path", sorted(Path("configs").glob("*/*.toml")), ids=str)
def test_every_shipped_config_loads(path):
    readers = {"study": lambda: read(path, []), "organism": lambda: load(path, OrganismSettings)}
    readers |= {"train": lambda: load(path, TrainSettings)}
    readers[path.parent.name]()


def test_a_profile_lies_over_the_file_and_below_the_overrides(tmp_path):
    file = write(
        tmp_path,
        'name = "a"\n[rollout]\nsamples = 2\n[profiles.big]\nname = "b"\n[profiles.big.rollout]\nsamples = 9\n',
    )
    assert load(file, Outer) == Outer(name="a", rollout=Inner(samples=2))
    assert load(file, Outer, ["--profile", "big"]) == Outer(name="b", rollout=Inner(samples=9))
    assert load(file, Outer, ["--rollout.samples", "3", "--profile", "big"]) == Outer(
        name="b", rollout=Inner(samples=3)
    )
    with pytest.raises(BadInputError, match=r"c\.toml has no profile 'huge'; it has big"):
        load(file, Outer, ["--profile", "huge"])
    with pytest.raises(BadInputError, match="unknown key 'nme'"):
        load(write(tmp_path, '[profiles.big]\nnme = "b"\n'), Outer, ["--profile", "big"])


def test_a_profile_lies_over_the_one_that_it_names(tmp_path):
    text = 'name = "a"\n[profiles.big]\nname = "b"\n[profiles.big.rollout]\nsamples = 9\n'
    file = write(tmp_path, text + '[profiles.own]\nprofile = "big"\nname = "c"\n')
    assert load(file, Outer, ["--profile", "own"]) == Outer(name="c", rollout=Inner(samples=9))
    with pytest.raises(BadInputError, match="has no profile 'bg'"):
        load(write(tmp_path, '[profiles.own]\nprofile = "bg"\n'), Outer, ["--profile", "own"])
    with pytest.raises(BadInputError, match="has no profile 'own'"):
        load(write(tmp_path, '[profiles.own]\nprofile = "own"\n'), Outer, ["--profile", "own"])


@pytest.mark.parametrize("name", ["replication", "interventions", "paper"])
def test_27b_is_one_override(name):
    settings = read(Path(f"configs/study/{name}.toml"), ["--profile", "gemma27b"])
    assert settings.model == Path("models/gemma-3-27b-it")
    assert (settings.max_tokens, settings.engine.context_tokens, settings.turns) == (512, 16384, 20)
    assert all("organism" not in str(arm.prompts) for arm in settings.arms.values())
