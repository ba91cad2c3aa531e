"""How sizes from 270M to 70B lie on one GPU, one node and two: what is chosen, why, and what is refused."""

import re
import shlex
from pathlib import Path

import pytest

from placid import jobs, models
from placid.cli import main
from placid.cluster import slurm
from placid.cluster.site import SiteSettings
from placid.cluster.site import read as read_site
from placid.fit import fit
from placid.plan import plan
from placid.records import BadInputError
from placid.study.settings import read
from test_models import headers

ROOT = Path(__file__).parent.parent
PAPER = ROOT / "configs/study/paper.toml"
H200 = ROOT / "slurm/h200-8x.toml"
WEIGHTS = {"gemma27b": "gemma-3-27b", "gemma12b": "gemma-3-12b", "gemma4b": "gemma-3-4b", "llama70b": "llama-3.1-70b"}
"""Profile of the paper → the published model that it names."""


@pytest.fixture(scope="module", autouse=True)
def at_root():
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(ROOT)
        yield


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A published model by its name, as a folder without weights."""
    made = {}

    def folder(name):
        if name not in made:
            made[name] = headers(tmp_path_factory.mktemp("models") / name, name)
        return made[name]

    return folder


def paper(model, profile="gemma27b", *words):
    return read(PAPER, ["--profile", profile, "--model", str(model(WEIGHTS[profile])), *words])


def promised():
    """(profile, words of the site, rest of the line) of every `# Plan WORDS: ...` above a profile."""
    found, lines = [], []
    for line in PAPER.read_text().splitlines():
        if told := re.fullmatch(r"# Plan ?([^:`]*): (.* for the judge)", line):
            lines.append(told.groups())
        elif (name := re.fullmatch(r"\[profiles\.(\w+)\]", line)) and lines:
            found += [(name[1], shlex.split(words), told) for words, told in lines]
            lines = []
    return found


def test_the_paper_has_a_plan_for_one_gpu_for_a_node_and_for_two():
    sites = {(profile, " ".join(words)) for profile, words, _ in promised()}
    counts = [f"--site.gpus_per_node {n}" for n in (1, 2)]
    assert {("gemma27b", words) for words in (*counts, "", "--site.nodes 2")} <= sites
    assert {profile for profile, _ in sites} == WEIGHTS.keys()


@pytest.mark.parametrize(("profile", "words", "told"), promised(), ids=lambda value: str(value))
def test_a_profile_costs_what_its_comment_says_and_is_set_for_its_site(model, profile, words, told):
    site = read_site(H200, [word.replace("--site.", "--") for word in words])
    settings = paper(model, profile)
    found = fit(settings, site)
    assert found.chosen.keys() <= {"workers", "train.recipe.processes"}, "what placid submit takes from the profile"
    totals = plan(
        paper(model, profile, *(w for k, v in found.chosen.items() for w in (f"--{k}", str(v)))), 0, found.rates
    )["totals"]
    assert told == f"{totals['gpu_hours']:.1f} GPU-hours, {totals['judge_usd']:.2f} dollars for the judge"


def test_what_an_h200_and_an_h100_were_run_with_is_what_is_chosen(model):
    """LAB.md: 68 and 14 GiB beside 51 GiB of weights, 2,976 tokens/s at 94 conversations active on the H200."""
    settings = paper(model)
    large = fit(settings, SiteSettings(gpus_per_node=1, gpu_memory_gb=143771 / 1024, gpu_type="h200"))
    small = fit(settings, SiteSettings(gpus_per_node=1, gpu_memory_gb=81559 / 1024, gpu_type="h100"))
    assert large.chosen.get("engine.kv_gib", settings.engine.kv_gib) == 68
    assert small.chosen["engine.kv_gib"] == 14
    assert large.rates["reply_tokens_per_s"] == pytest.approx(2976, rel=0.1)
    then = fit(
        paper(model, "gemma27b", "--engine.max_concurrent", "16"),
        SiteSettings(gpus_per_node=1, gpu_memory_gb=81559 / 1024, gpu_type="h100"),
        ["engine.max_concurrent"],
    )
    assert then.rates["reply_tokens_per_s"] == pytest.approx(534, rel=0.3), "16 open, replies prefilled again"
    open_ = [found.chosen.get("engine.max_concurrent", settings.engine.max_concurrent) for found in (large, small)]
    assert open_ == [188, 38], "twice the whole ones that fit: most are not at their last turn"
    free = fit(paper(model, "gemma27b", "--schedule", "free"), SiteSettings(gpus_per_node=1, gpu_memory_gb=79.6))
    assert free.chosen["engine.max_concurrent"] == 19, "the baseline would be cut off by the cache"


def test_a_small_cache_is_not_rounded_below_one_conversation(model):
    settings = read(PAPER, ["--profile", "llama70b", "--model", str(model("llama-3.1-70b"))])
    with pytest.raises(BadInputError, match=r"or GPUs of \d+ GiB") as refusal:
        fit(settings, SiteSettings(gpus_per_node=1, gpu_memory_gb=141))
    enough = int(re.search(r"GPUs of (\d+) GiB", str(refusal.value)).group(1))
    found = fit(settings, SiteSettings(gpus_per_node=1, gpu_memory_gb=enough), ["train.recipe.zero"])
    expected = models.final_tokens(max(arm.turns for arm in settings.arms.values()), settings.max_tokens)
    assert found.chosen["engine.kv_gib"] * 2**30 >= models.read(settings.model).kv_bytes(expected)


@pytest.mark.parametrize(
    ("name", "gpus", "gib", "split"),
    [
        ("gemma-3-270m", 1, 24, 1),
        ("gemma-3-4b", 8, 80, 1),
        ("gemma-2-27b", 8, 80, 2),
        ("gemma-3-27b", 8, 80, 2),
        ("gemma-3-27b", 1, 80, 1),
        ("gemma-4-31b", 8, 140, 1),
        ("llama-3.1-70b", 8, 140, 4),
        ("llama-3.1-70b", 8, 80, 8),
        ("llama-3.1-70b", 6, 140, 2),  # 64 heads are not divided by 3 or 6
    ],
)
def test_an_engine_takes_the_fewest_gpus_of_which_weights_are_half(model, name, gpus, gib, split):
    settings = read(PAPER, ["--profile", "gemma27b", "--model", str(model(name)), "--train.recipe.dtype", "float32"])
    found = fit(settings, SiteSettings(gpus_per_node=gpus, gpu_memory_gb=gib))
    assert found.rates["gpus"] == split, found.lines
    assert found.chosen.get("engine.kv_gib", settings.engine.kv_gib) >= 1
    assert "counted for train.recipe.dtype = bfloat16 only" in found.lines[-2]


def test_training_takes_the_lowest_stage_that_fits_and_one_row_a_pack(model):
    settings = paper(model, "llama70b", "--train.recipe.batch", "4", "--train.recipe.accumulate", "1")
    chosen = fit(settings, read_site(H200)).chosen
    assert chosen["train.recipe.accumulate"] == 4, "one row a pack, as many ranks as there are"
    assert "train.recipe.zero" not in chosen, "3, as in the config"
    assert (
        fit(paper(model, "llama70b"), SiteSettings(gpus_per_node=8, gpu_memory_gb=190)).chosen["train.recipe.zero"] == 1
    )
    assert settings.train
    recipe = settings.train.recipe.model_copy(update={"batch": 1, "accumulate": 4})
    assert [recipe.micro_batches(ranks) for ranks in (1, 2, 3, 4, 8)] == [4, 2, 2, 1, 1]


@pytest.mark.parametrize(
    ("profile", "engines", "zero", "one_node"), [("gemma27b", 2, 1, True), ("llama70b", 1, 3, False)]
)
def test_the_comment_of_the_a100_profile_is_what_is_chosen(model, profile, engines, zero, one_node):
    told = "\n".join(fit(paper(model, profile), read_site(ROOT / "slurm/a100-4x.toml")).lines)
    assert f"{engines} engine(s) a node" in told
    assert f"training    ZeRO {zero}, " in told
    assert ("--site.train_nodes 1 would do" in told) is one_node


@pytest.mark.parametrize(
    ("site", "words", "says"),
    [
        ({"gpu_memory_gb": 40}, [], r"GPUs of 65 GiB"),
        ({"gpus_per_node": 8, "gpu_memory_gb": 40}, ["--engine.tensor_parallel", "1"], "engine.tensor_parallel = 2 or"),
        ({"gpus_per_node": 8, "gpu_memory_gb": 80}, ["--engine.tensor_parallel", "3"], "split into 1, 2, 4, 8"),
        ({"gpu_memory_gb": 80}, ["--engine.kv_gib", "30"], "has room for 14.4"),
        (
            {"gpu_memory_gb": 140},
            ["--train.recipe.method", "full"],
            "method full.* on 1 GPU: .* what would help: 8 GPUs",
        ),
        (
            {"gpus_per_node": 8, "gpu_memory_gb": 140},
            ["--train.recipe.method", "full", "--train.recipe.zero", "1"],
            "on 8 GPUs: .* what would help: zero = 2, offload = true$",
        ),
        (
            {"gpu_memory_gb": 40},
            ["--train.recipe.max_tokens", "8192"],
            r"or GPUs of 65 GiB; and for training: gemma-3-27b .* on 1 GPU: .* what would help: 4 GPUs$",
        ),
    ],
)
def test_what_cannot_fit_is_refused_with_what_would(model, site, words, says):
    said = {word.removeprefix("--") for word in words[::2]}
    with pytest.raises(BadInputError, match=says):
        fit(paper(model, "gemma27b", *words), SiteSettings(**{"gpus_per_node": 1, **site}), said)


def test_plan_prints_a_command_that_does_what_it_planned(model, capsys):
    words = ["--profile", "gemma27b", "--model", str(model("gemma-3-27b"))]
    main(["plan", str(PAPER), *words, "--site", "slurm/a100-4x.toml", "--engine.max_concurrent", "64"])
    told = capsys.readouterr().out
    assert "tensor_parallel = 2, 2 engine(s) a node" in told
    assert "on 4 engine(s)" in told
    command = shlex.split(next(line for line in told.splitlines() if line.startswith("so "))[3:])
    assert command[:4] == ["placid", "submit", "study", str(PAPER)]
    assert command[-6:-2] == ["--engine.tensor_parallel", "2", "--engine.kv_gib", "39"]
    assert command[-2:] == ["--site.light.offline", "false"], "the paper's judge is on the internet"
    given, _ = jobs.sorted_words(command[10:])
    settings = read(PAPER, jobs.placed(PAPER, [*words, *given], read_site(Path(command[5]))))
    assert (settings.engine.tensor_parallel, settings.engine.max_concurrent, settings.workers) == (2, 64, 4)


def test_one_gpu_needs_no_profile_of_a_site(capsys):
    main(["plan", "configs/study/demo.toml", "--site.gpu_memory_gb", "24"])
    told = capsys.readouterr().out
    assert "engine      tensor_parallel = 1, 1 engine(s) a node" in told
    assert "so          placid study configs/study/demo.toml" in told
    assert "--workers 1" in told


@pytest.mark.parametrize(("profile", "workers"), [("gemma27b", 16), ("llama70b", 4)])
def test_the_paper_is_submitted_by_one_line(profile, workers, model, capsys, monkeypatch):
    monkeypatch.setattr(slurm, "here", lambda: False)
    words = ["--profile", profile, "--model", str(model(WEIGHTS[profile])), "--site.node_local", "[]"]
    main(["submit", "study", str(PAPER), "--site", str(H200), "--site.nodes", "2", *words, "--dry-run"])
    text = capsys.readouterr().out
    assert "--nodes=2" in text
    assert f"--workers {workers}" in text
    assert "judge.sbatch" in text, "a judge on the internet has a job of its own before the interventions"
    with pytest.raises(SystemExit):
        main(["submit", "study", str(PAPER), "--site", "slurm/a100-4x.toml", *words, "--dry-run"])
    assert re.search(r"engine.kv_gib = \d+, but beside", capsys.readouterr().err)
