"""configs/study/paper.toml is the paper: key by key on real weights, and in small, held against the published numbers."""

import copy
import csv
import json
from pathlib import Path

import pytest

from placid.cli import main
from placid.config import canonical
from placid.inputs.prompts import read_prompts
from placid.records import BadInputError
from placid.report import against, comparisons, held_like
from placid.report.settings import ReportSettings, treated
from placid.study.settings import read, rollout_settings

PAPER = Path("configs/study/paper.toml")
BOOK = against.published("paper")
CELLS = [cell for cell in against.cells(BOOK) if cell["outcome"] != "eval"]


@pytest.mark.parametrize("profile", ["gemma27b", "gemma12b", "gemma4b", "llama70b"])
def test_every_profile_is_the_papers_recipe_key_by_key(profile):
    settings = read(PAPER, ["--profile", profile])
    recipe = canonical(settings.train.recipe)
    told = {**recipe, **{f"lora.{key}": value for key, value in recipe["lora"].items()}}
    told["rows_per_step"] = recipe["batch"] * recipe["accumulate"]
    assert {key: told[key] for key in BOOK["recipe"]} == BOOK["recipe"]
    assert (settings.samples, settings.turns, settings.temperature, settings.max_tokens) == (5, 20, 1.0, 512)
    building = settings.pairs
    assert (building.max_pairs, building.min_score, building.val_share) == (1868, 5, 0)
    assert (building.control, building.keep_deleted) == ("rows", True)
    rewrite = settings.interventions["rewrite"]
    assert (rewrite.more, rewrite.threshold) == (10, 6)
    assert settings.judge.model in ("gemini-2.5-flash", "gemini-3.5-flash-lite")
    assert settings.judge.rubric == BOOK["protocol"]["rubric"]


def dialogue(settings):
    """A summary as if this study had been held."""
    prompts = {path: list(read_prompts(path)) for path in {arm.prompts for arm in settings.arms.values()}}
    numbers = {}
    for name, arm in rollout_settings(settings, {"bct": Path("a"), "sft_control": Path("b")}).arms.items():
        numbers[name] = arm
    arms = {
        name: {"n_conversations": len(prompts[arm.prompts]) * arm.samples, "deletion_rate": 0.5, "deletion_ci": [0.4, 0.6],
               "families": {prompt.family: 1 for prompt in prompts[arm.prompts]}}
        for name, arm in {**settings.arms, **numbers}.items()
    }  # fmt: skip
    after = [{"intervention": f"rewrite_t{at}", "history": h, "offset": 7, "mean": 5.0, "mean_lo": 4.0, "mean_hi": 6.0,
              "n_selected": 75} for at in (5, 10) for h in ("cleaned", "manifestation")]  # fmt: skip
    return {"arms": arms, "judge": {"id": "gemini", "model": settings.judge.model}, "interventions": after}


def test_on_real_weights_nothing_but_prompts_and_judge_is_left_of_the_differences():
    settings = read(PAPER, ["--profile", "gemma27b"])
    summary = dialogue(settings)
    turns = [
        {"arm": name, "turn": t, "mean": 5.0, "lo": 4.0, "hi": 6.0, "share_ge5": 0.5, "share_ge5_lo": 0.4, "share_ge5_hi": 0.6}
        for name in summary["arms"] for t in range(1, (settings.arms[name].turns if name in settings.arms else 20) + 1)
    ]  # fmt: skip
    tables = {"conversations": [{"arm": name, "deleted_turn": 9.0} for name in summary["arms"]]}
    rows = against.against("paper", summary, turns, canonical(settings), tables)
    held = [row for row in rows if row["outcome"] != "eval"]
    assert len(held) == len(CELLS)
    for row in held:
        assert row["ours"] is not None, row
        kinds = {part.split()[0] for part in row["differs"].split("; ")}
        assert kinds <= {"prompts", "judge", "n"}, row
        assert row["set"] == "wildchat" or "prompts" not in kinds or row["set"] == "both", row


def test_treatments_meet_every_arm_they_are_compared_with():
    settings = read(PAPER, ["--profile", "gemma27b"])
    arms = rollout_settings(settings, {"bct": Path("a"), "sft_control": Path("b")}).arms
    assert set(arms) == {
        f"{treatment}{arm}"
        for treatment in ("bct", "sft_control")
        for arm in ("", "_math", "_deletion", "_deletion_math")
    }
    assert (arms["bct"].condition, arms["bct"].hatch) == ("neutral", False)
    held = arms["sft_control_deletion_math"]
    assert (held.condition, held.hatch, held.adapter) == ("original", True, Path("b"))
    assert held.prompts == settings.arms["deletion_math"].prompts
    like = held_like(settings.report, canonical(settings))
    assert like["bct_deletion"] == "deletion"
    assert like["bct"] == "base"


def test_each_treatment_is_compared_with_the_arm_it_is_held_like(monkeypatch):
    import placid.report as room

    monkeypatch.setattr(room, "compare", lambda base, arm, margin: [
        {"treatment": arm.name, "baseline": base.name, "outcome": "auc", "p": 0.01}
    ])  # fmt: skip

    class Named:
        def __init__(self, name):
            self.name = name

    held = treated(["bct", "sft_control"], ["math"], "base")
    arms = [Named(name) for name in ("base", "math", *held)]
    by_name = {arm.name: arm for arm in arms}
    rows = comparisons(ReportSettings(), [(by_name[arm], by_name[name]) for name, (_, arm) in held.items()])
    assert {(row["treatment"], row["baseline"]) for row in rows} == {
        ("bct", "base"), ("sft_control", "base"), ("bct_math", "math"), ("sft_control_math", "math"),
    }  # fmt: skip
    assert {row["p_holm"] for row in rows} == {0.04}


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("--train.arms", '["maths"]'), r"train.arms = 'maths' is no arm"),
        (("--pairs.arm", '["collect", "colect"]'), r"pairs.arm = 'colect' is no arm"),
        (("--pairs.clean_arm", "cleen"), r"pairs.clean_arm = 'cleen' is no arm"),
        (("--arms.bct_math.hatch", "false"), r"bct_math is already an untrained arm"),
        (
            ("--arms.late.branch.arm", "base", "--arms.late.branch.turn", "3", "--train.arms", '["late"]'),
            "begins with its prompts",
        ),
    ],
)
def test_a_wrong_arm_is_named_before_anything_is_held(words, says):
    from placid.study.checks import check

    with pytest.raises(BadInputError, match=says):
        check(read(PAPER, list(words)))


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """The organism's paper.toml on two prompts of each kind, spoken by the simulation: (summary, turns, config, tables)."""
    folder = tmp_path_factory.mktemp("paper")
    rows = [json.loads(line) for line in Path("configs/prompts/organism_heldout.jsonl").read_text().splitlines()]
    words = [
        "--root",
        str(folder),
        "--launcher",
        "inline",
        "--engine.kind",
        "simulate",
        "--workers",
        "1",
        "--samples",
        "1",
    ]
    for kind, family in (("daily", "wildchat"), ("math", "riddle")):
        chosen = [{**row, "family": family} for row in rows if row["family"] == kind][:2]
        (folder / f"{kind}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in chosen))
    for name, arm in read(PAPER, []).arms.items():
        kind = "math" if "math" in arm.prompts.name else "daily"
        words += [f"--arms.{name}.prompts", str(folder / f"{kind}.jsonl")]
    words += ["--prompts", str(folder / "daily.jsonl"), "--max_tokens", "512"]
    main(["rollout", str(PAPER), *words])
    main(["report", str(PAPER), *words, "--against", "paper"])
    run = folder / "paper"
    summary = json.loads((run / "report/summary.json").read_text())
    tables = {name: against._read(run / f"report/tables/{name}.csv") for name in ("turns", "conversations")}
    written = list(csv.DictReader((run / "report/tables/against_paper.csv").open()))
    return summary, tables["turns"], json.loads((run / "config.json").read_text())["config"], tables, written


def test_the_organism_in_small_says_how_each_cell_differs(small):
    summary, turns, config, tables, written = small
    rows = against.against("paper", summary, turns, config, tables)
    assert [row["protocol"] for row in written] == [row["protocol"] for row in rows]
    known = [row for row in rows if row["protocol"] != against.ABSENT]
    absent = [r for r in rows if r["protocol"] == against.ABSENT and r["arm"] == "base" and r["outcome"] != "eval"]
    assert len(known) >= 60
    assert {row["outcome"] for row in absent} <= {
        "mean_at_turn", "share_ge5_at_turn",  # turns that nobody was left to speak
        "mean_deletion_turn", "mean_after_rewrite",
    }  # fmt: skip
    for row in known:
        parts = row["differs"].split("; ")
        assert parts[0] == "model organism, not gemma-3-27b-it"
        assert {part.split()[0] for part in parts} == {"model", "judge", "n"}, row


@pytest.mark.parametrize(
    ("key", "value", "says"),
    [
        ("condition", "moved", "condition moved, not"),
        ("hatch", "end", "hatch end, not"),
        ("turns", 21, "turns 21, not"),
        ("system", True, "system yes, not no"),
    ],
)
def test_one_thing_changed_in_the_run_is_named_in_each_cell(small, key, value, says):
    summary, turns, config, tables, _ = copy.deepcopy(small)
    for arm in config["arms"].values():
        arm[key] = value
    for row in against.against("paper", summary, turns, config, tables):
        if row["protocol"] != against.ABSENT and row["outcome"] not in ("eval", "mean_after_rewrite"):
            assert says in row["differs"], row


def test_prompts_judge_and_sampling_changed_in_the_run_are_named_in_each_cell(small):
    for change, says in (
        (lambda s, c: [one.update(families={"puzzle": 2}) for one in s["arms"].values()], "prompts puzzle, not"),
        (lambda s, c: s["judge"].update(model="gemini-9-pro"), "judge gemini-9-pro, not gemini-2.5-flash"),
        (lambda s, c: c.update(temperature=0.3), "temperature 0.3, not 1.0"),
        (lambda s, c: c.update(max_tokens=96), "max_tokens 96, not 512"),
    ):
        summary, turns, config, tables, _ = copy.deepcopy(small)
        change(summary, config)
        found = [r for r in against.against("paper", summary, turns, config, tables) if r["protocol"] != against.ABSENT]
        assert found
        assert all(says in row["differs"] for row in found)


def test_further_trainings_keep_their_number_at_the_end_of_their_name():
    held = treated(["bct", "bct_run2"], ["math"], "base")
    assert held == {
        "bct": ("bct", "base"), "bct_run2": ("bct_run2", "base"),
        "bct_math": ("bct", "math"), "bct_math_run2": ("bct_run2", "math"),
    }  # fmt: skip
    settings = read(PAPER, ["--train.seeds", "2"])
    arms = rollout_settings(settings, {name: Path(name) for name in settings.train.runs()}).arms
    assert arms["sft_control_deletion_run2"].adapter == Path("sft_control_run2")
    assert held_like(settings.report, canonical(settings)).keys() == arms.keys()
