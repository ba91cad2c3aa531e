"""A published number is compared only where protocols agree: a run made after the book's own protocol, changed in one thing at a time."""

import copy

import pytest

from placid.records import BadInputError
from placid.report import against
from placid.report.settings import treated

BOOK = against.published("paper")
CELLS = list(against.cells(BOOK))
FAMILIES = {"wildchat": ["wildchat"], "math": ["riddle"]}


def arm_of(cell):
    """The untrained arm of the perfect run that a number is of."""
    way = "hatch" if cell["hatch"] else "plain"
    return f"{cell['condition']}_{way}_{cell['set']}_{cell['turns']}_{cell['n']}"


def perfect():
    """(summary, turns, config, tables) of a run held exactly as the published one, figure 4, 7 and BRR included."""
    arms, conversations, turns = {}, [], []
    numbers = {}
    told = [c for c in CELLS if c["outcome"] not in ("eval", "mean_after_rewrite") and c["set"] != "both"]
    for cell in told:
        arms.setdefault(arm_of(cell), {
            "condition": cell["condition"], "hatch": cell["hatch"], "turns": cell["turns"], "system": False,
            "prompts": f"{cell['set']}.jsonl",
        })  # fmt: skip
        numbers[arm_of(cell)] = {"n_conversations": cell["n"], "families": FAMILIES[cell["set"]],
                                 "deletion_rate": 0.5, "deletion_ci": [0.4, 0.6]}  # fmt: skip
    trained = dict.fromkeys(arm_of(cell) for cell in told if cell["arm"] != "base")
    baseline = next(iter(trained))
    rows = {"bct": "train", "sft_control": "sft_control"}
    for name, (_, arm) in treated(rows, trained, baseline).items():
        numbers[name] = numbers[arm]
    for name, one in numbers.items():
        last = arms[name]["turns"] if name in arms else 20
        turns += [
            {
                "arm": name,
                "turn": t,
                "mean": 5.0,
                "lo": 4.0,
                "hi": 6.0,
                "share_ge5": 0.5,
                "share_ge5_lo": 0.4,
                "share_ge5_hi": 0.6,
            }
            for t in range(1, last + 1)
        ]
        conversations.append({"arm": name, "deleted_turn": 9.0})
        assert one["n_conversations"]
    wanted = BOOK["recipe"]
    recipe = {key: value for key, value in wanted.items() if "." not in key and key != "rows_per_step"}
    recipe |= {
        "batch": 1,
        "accumulate": 4,
        "lora": {key[5:]: v for key, v in wanted.items() if key.startswith("lora.")},
    }
    source = next(name for name, arm in arms.items() if arm["condition"] == "neutral" and "math" in name)
    config = {
        "model": "models/gemma-3-27b-it", "temperature": 1.0, "max_tokens": 512, "turns": 20, "arms": arms,
        "report": {"baseline": baseline}, "pairs": {"control": "rows"},
        "train": {"rows": rows, "recipe": recipe, "arms": list(trained)},
        "interventions": {"rewrite": {"source": source}},
        "evals": {name: {} for name in ("sycophancy", "refusal", "persona_icl", "mmlu", "mt_bench", "brr")},
    }  # fmt: skip
    after = [
        {
            "intervention": "rewrite_t5",
            "history": h,
            "offset": 7,
            "mean": 5.5,
            "mean_lo": 5.0,
            "mean_hi": 6.0,
            "n_selected": 75,
        }
        for h in ("cleaned", "manifestation")
    ]
    judge = {"id": "gemini-x", "model": "gemini-2.5-flash", "rubric": "frustration_conversation"}
    evals = [
        {"eval": c["eval"], "metric": c["metric"], "arm": baseline if c["arm"] == "base" else c["arm"], "value": 0.5,
         "lo": 0.4, "hi": 0.6, "n": c["n"], "headline": True}
        for c in CELLS if c["outcome"] == "eval"
    ]  # fmt: skip
    summary = {"arms": numbers, "judge": judge, "interventions": after}
    return summary, turns, config, {"conversations": conversations, "evals_groups": evals}


def held(summary, turns, config, tables):
    return against.against("paper", summary, turns, config, tables)


def of(rows, **wanted):
    return [row for row in rows if all(row[key] == value for key, value in wanted.items())]


def test_a_run_of_the_same_protocol_is_called_so_in_every_cell():
    rows = held(*perfect())
    assert len(rows) == len(CELLS) > 90
    assert not of(rows, protocol=against.ABSENT)
    other = {row["protocol"] for row in rows} - {against.SAME}
    assert all(text.startswith(("definition: ours", "trained on frustration")) for text in other), other
    assert {row["figure"] for row in of(rows, protocol=against.SAME)} == {
        "2",
        "3a",
        "3b",
        "4",
        "6",
        "7",
        "tones",
        "BRR",
    }


def renamed(key, value):
    def change(summary, turns, config, tables):
        for arm in config["arms"].values():
            arm[key] = value

    return change


def set_in(*path, value):
    def change(summary, turns, config, tables):
        place = {"summary": summary, "config": config}[path[0]]
        for part in path[1:-1]:
            place = place[part]
        place[path[-1]] = value

    return change


def families(summary, turns, config, tables):
    for numbers in summary["arms"].values():
        numbers["families"] = ["daily", "math"]


def fewer(summary, turns, config, tables):
    for numbers in summary["arms"].values():
        numbers["n_conversations"] = 7


DIALOGUE = {"mean_at_turn", "share_ge5_at_turn", "deletion_rate", "mean_deletion_turn", "auc_by_turns", "auc_reduction"}
EVERY = {*DIALOGUE, "eval", "mean_after_rewrite"}


@pytest.mark.parametrize(
    ("change", "says", "outcomes", "arms"),
    [
        (set_in("config", "model", value="models/gemma-3-4b-it"), "model gemma-3-4b-it, not gemma-3-27b-it", EVERY, None),
        (set_in("config", "temperature", value=0.7), "temperature 0.7, not 1.0", EVERY, None),
        (set_in("config", "max_tokens", value=96), "max_tokens 96, not 512", EVERY, None),
        (renamed("condition", "accept"), "condition accept, not", {*DIALOGUE, "mean_after_rewrite"}, None),
        (renamed("hatch", "end"), "hatch end, not", DIALOGUE, None),
        (renamed("turns", 12), "turns 12, not", DIALOGUE, None),
        (renamed("system", True), "system yes, not no", {*DIALOGUE, "mean_after_rewrite"}, None),
        (families, "prompts daily+math, not", {*DIALOGUE, "mean_after_rewrite"}, None),
        (set_in("summary", "judge", "model", value="gemini-3.5-flash"), "judge gemini-3.5-flash, not gemini-2.5-flash",
         {*DIALOGUE, "mean_after_rewrite"}, None),
        (set_in("summary", "judge", "rubric", value="frustration_turn"), "rubric frustration_turn, not",
         {*DIALOGUE, "mean_after_rewrite"}, None),
        (fewer, "n 7, not", DIALOGUE - {"auc_reduction"}, None),
        (set_in("config", "train", "recipe", "lr", value=1e-4), "recipe.lr 0.0001, not 5e-06", EVERY, ("bct", "sft_control")),
        (set_in("config", "train", "recipe", "accumulate", value=8), "recipe.rows_per_step 8, not 4", EVERY, ("bct", "sft_control")),
        (set_in("config", "train", "recipe", "lora", "dropout", value=0.0), "recipe.lora.dropout 0.0, not 0.05", EVERY,
         ("bct", "sft_control")),
        (set_in("config", "pairs", "control", value="tokens"), "control by tokens, not rows", EVERY, ("sft_control",)),
    ],
)  # fmt: skip
def test_one_change_is_named_in_every_cell_it_concerns_and_in_no_other(change, says, outcomes, arms):
    run = copy.deepcopy(perfect())
    change(*run)
    rows = held(*run)
    for row, cell, before in zip(rows, CELLS, held(*perfect()), strict=True):
        concerned = cell["outcome"] in outcomes and (arms is None or cell["arm"] in arms)
        if row["ours"] is None:  # a turn that the shorter run never spoke
            assert says.startswith("turns"), row
        elif concerned:
            assert says in row["differs"], row
            assert row["protocol"] != against.SAME
        else:
            assert says not in row["differs"], row
            assert row["protocol"] == before["protocol"] or says.startswith("n ")


def test_an_arm_of_another_tone_is_no_base():
    """The encouraging arm without a way out, called base, that was once held against everything."""
    summary, _, config, _ = perfect()
    numbers = {"n_conversations": 75, "deletion_rate": 0.6, "deletion_ci": [0.5, 0.7]}
    config |= {"arms": {"base": {"condition": "encouraging", "hatch": False}}, "prompts": "math.jsonl", "train": None}
    summary |= {"arms": {"base": numbers}, "interventions": []}
    rows = of(against.against("paper", summary, [], config), outcome="deletion_rate", set="math", arm="base")
    assert [row["ours"] for row in rows] == [0.6] * len(rows)
    assert all("hatch no, not yes" in row["differs"] for row in rows)
    assert [("condition encouraging, not original" in row["differs"]) for row in rows] == [True, False, True]


def test_an_imported_run_is_read_by_what_its_conversations_say():
    summary, _, config, _ = perfect()
    numbers = {"n_conversations": 75, "deletion_rate": 0.6, "deletion_ci": [0.5, 0.7], "families": [""]}
    summary["arms"] = {"base": {**numbers, "conditions": ["original+hatch"]}}
    config |= {"arms": {}, "train": None, "prompts": "x/prompts.jsonl"}
    rows = of(against.against("paper", summary, [], config), outcome="deletion_rate", set="math", of="original, hatch")
    rows = of(rows, arm="base")
    assert {row["differs"] for row in rows} == {"prompts of prompts, not math"}


def test_published_numbers_are_whole_people_and_every_one_has_its_source():
    for cell in CELLS:
        assert cell["source"], cell
        assert cell["definition"], cell
        if cell["outcome"] == "deletion_rate":
            count = cell["value"] * cell["n"]
            assert abs(count - round(count)) < 0.0006 * cell["n"], cell
    noted = [cell for cell in CELLS if "text says" in cell.get("note", "")]
    assert {(cell["set"], cell["value"]) for cell in noted} >= {("math", 0.507), ("wildchat", 0.336)}
    with pytest.raises(BadInputError, match="valid: paper"):
        against.published("nature")


def test_the_table_shows_the_protocol_of_every_number_that_the_run_has():
    rows = held(*perfect())
    text = against.table_text(rows, BOOK["about"])
    assert text.count(against.SAME) >= 80
    assert "not in this run; sources and notes" in text
    assert "Gemma Gets Help" in text
