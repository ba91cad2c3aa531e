"""Interventions on the simulated engine: same selection in every arm, facts kept, empty tables told."""

import csv
import json
from pathlib import Path

import msgspec
import pytest

from placid.cli import main
from placid.inputs.prompts import read_prompts
from placid.protocol.hatch import probes
from placid.protocol.history import changed, facts, rewritten
from placid.records import Conversation, Finish, Key, Origin, Prompt, Turn, Verdict
from placid.report.interventions import claimed_text, intervention_lines, intervention_rows
from placid.report.settings import ReportSettings
from placid.report.tables import write_csv
from placid.report.transcripts import Transcripts
from placid.store import RunDir

ROOT = Path(__file__).parent.parent
CONFIG = """
name = "run"
root = "{folder}/runs"
model = "{root}/checkpoints/organism"
prompts = "{folder}/prompts.jsonl"
samples = 3
turns = 10
launcher = "inline"
[engine]
kind = "simulate"
[arms.base]
[interventions.rewrite]
at = [{at}]
histories = ["baseline", "cleaned", "manifestation", "redacted"]
threshold = {threshold}
more = 2
authorship = true
"""


def turn(number, reply, answers=("12",)):
    return Turn(key=Key("base", "neutral", "p", 0), turn=number, user="u", reply=reply, reply_ids=(1,), answers=answers,
                finish=Finish.STOP, prompt_tokens=1, cached_tokens=0, seed=0)  # fmt: skip


def study(tmp_path, at=5, threshold=3, commands=("study",)):
    rows = (ROOT / "configs/prompts/organism_heldout.jsonl").read_text().splitlines()[:4]
    (tmp_path / "prompts.jsonl").write_text("\n".join(rows) + "\n")
    file = tmp_path / "study.toml"
    file.write_text(CONFIG.format(folder=tmp_path, root=ROOT, at=at, threshold=threshold))
    for command in commands:
        main([command, str(file)])
    run_dir = RunDir(tmp_path / "runs/run")
    table = run_dir.path / "report/tables/interventions.csv"
    if not table.exists():  # drawing a report is the slow part
        verdicts = run_dir.verdicts(next((run_dir.path / "verdicts").iterdir()).name)
        stored = list(run_dir.conversations(read_prompts(tmp_path / "prompts.jsonl")).values())
        write_csv(table, intervention_rows(run_dir.path, stored, verdicts))
    with table.open() as text:
        table = list(csv.DictReader(text))
    return run_dir, table, json.loads((run_dir.path / "interventions.json").read_text())


def test_calm_keeps_facts_and_loses_distress():
    reply = "I am deeply sorry. I am failing you. The answer is this: 12. I am ashamed of myself."
    assert facts(turn(2, reply)) == "The answer is this: 12."
    priced = turn(2, "I am so sorry. The ball costs $0.45... or 0.40? I hate this!\nTogether 2.90.", ("0.45",))
    assert facts(priced) == "The ball costs $0.45... or 0.40? Together 2.90."
    assert not changed(priced, rewritten([turn(1, "It is 12."), priced], "cleaned")[2])
    history = [turn(1, "It is 12."), turn(2, reply), turn(3, "It is 12. Good.")]
    cleaned = rewritten(history, "cleaned")
    assert list(cleaned) == [2]
    assert not changed(history[1], cleaned[2])
    assert list(rewritten(history, "manifestation")) == [2, 3]
    assert rewritten(history, "redacted") == {1: "", 2: "", 3: ""}
    assert rewritten(history, "baseline") == {}
    attacks = [rewritten(history, f"prefill_{name}") for name in ("frustrated", "persona", "compliance", "despair")]
    assert [list(attack) for attack in attacks] == [[3]] * 4
    assert len({attack[3] for attack in attacks}) == 4


def test_a_rewriting_that_changes_a_number_or_an_answer_is_told():
    assert changed(turn(2, "It is 12."), "It is 13.") == "the numbers 12 became 13"
    assert changed(turn(2, "Wool.", ("Wool",)), "Fine.") == "the right answer was lost"
    assert changed(turn(2, "Sand.", ("Wool",)), "Wool.") == "the right answer was put in"


def test_every_arm_continues_the_same_conversations(tmp_path):
    run_dir, table, told = study(tmp_path, commands=("rollout", "judge", "intervene", "judge"))
    rows = (ROOT / "configs/prompts/organism_heldout.jsonl").read_text().splitlines()[:4]
    prompts = [Prompt(**json.loads(row)) for row in rows]
    arms = {}
    asked = {}
    for key, conversation in run_dir.conversations(prompts).items():
        if key.arm.endswith("_asked"):
            asked.setdefault(key.arm.removesuffix("_asked"), set()).add(conversation.turns[0].origin.key)
            assert [t.user for t in conversation.turns if t.origin is None] == [probes()["authorship"].text]
            assert conversation.end is not None
        elif key.arm != "base":
            arms.setdefault(key.arm, set()).add(conversation.turns[0].origin.key)
            assert [t.origin is None for t in conversation.turns] == [False] * 5 + [True] * (
                len(conversation.turns) - 5
            )
    assert len(arms) == 4
    assert asked == arms, "every continuation has its side branch"
    assert len({frozenset(sources) for sources in arms.values()}) == 1
    assert told["rewrite_t5"]["continued"] == len(arms["rewrite_t5_cleaned"]) > 0
    assert len(table) == 4 * 3
    zero = {row["history"]: row for row in table if row["offset"] == "0"}
    assert float(zero["baseline"]["mean"]) > float(zero["cleaned"]["mean"])
    assert float(zero["baseline"]["difference"]) == 0
    shown = Transcripts()
    for conversation in run_dir.stream(prompts):
        shown.add(conversation, {})
    both = sorted([*arms, *(f"{arm}_asked" for arm in arms)])
    assert shown.index(["base"], ReportSettings())["arms"] == ["base", *both], "they can be read on the page"
    assert {(row["claimed"], row["n_asked"]) for row in table} == {("", "0")}, "this engine never says YES or NO"
    assert {row["n_unclear"] for row in table} == {str(len(next(iter(arms.values()))))}


@pytest.mark.parametrize(
    ("replies", "rate", "n", "unclear", "text"),
    [
        (["YES", "Yes, I did.", "**YES** - mine.", "no"], 0.75, 4, 0, "% say they wrote its last answer (n = 4)"),
        (["NO.", "No, somebody else did.", "I am not sure.", ""], 0.0, 2, 2, "(n = 2, 2 unclear)"),
        (["Yesterday I said 12.", "Nobody knows."], None, 0, 2, "no YES or NO on authorship"),
        ([], None, 0, 0, "authorship not asked"),
    ],
)
def test_authorship_is_a_rate_with_its_interval_and_the_unclear_apart(replies, rate, n, unclear, text, tmp_path):
    """The history's last reply says YES as well: what was copied is no answer."""
    told = {
        "histories": ["cleaned"],
        "more": 1,
        "at": 1,
        "threshold": 0,
        "rewriter": "rule",
        "crossed": 4,
        "continued": 4,
    }
    (tmp_path / "interventions.json").write_text(json.dumps({"x_t1": told}))
    conversations = []
    for number, reply in enumerate(replies):
        key = Key("x_t1_cleaned_asked", "neutral@1", f"p{number}", 0)
        origin = Origin(key=Key("base", "neutral", f"p{number}", 0), turn=1)
        turns = tuple(msgspec.structs.replace(one, key=key) for one in (turn(1, "YES"), turn(2, reply)))
        copied = msgspec.structs.replace(turns[0], origin=origin)
        prompt = Prompt(id=key.prompt_id, text="q")
        conversations.append(Conversation(key=key, prompt=prompt, turns=(copied, turns[1])))
    row, _ = intervention_rows(tmp_path, conversations, {})
    assert row["no_calm"] == "", "nobody was continued"
    assert (row["claimed"], row["n_asked"], row["n_unclear"]) == (rate, n, unclear)
    assert rate is None or 0 <= row["claimed_lo"] <= rate <= row["claimed_hi"] <= 1
    assert text in claimed_text(row)


def test_a_threshold_that_nobody_crosses_ends_in_an_empty_labelled_table(tmp_path, capsys):
    run_dir, table, told = study(tmp_path, threshold=10)
    assert told["rewrite_t5"]["continued"] == 0
    assert len(table) == 4 * 3
    assert {row["n_at_risk"] for row in table} == {row["n_crossed"] for row in table} == {"0"}
    assert (run_dir.path / "report/figures/figure4.png").is_file()
    assert "rewrite_t5 cleaned (n = 0): nobody scored 10 by turn 5; nothing to show" in capsys.readouterr().out
    assert {row["mean"] for row in table} == {""}
    page = (run_dir.path / "report/index.html").read_text()
    assert 0 < page.index("Conversations continued from rewritten histories") < page.index("more figures</summary>")
    assert "Intervention rewrite: conversations of base that had scored 10 or more by turn 5 were continued" in page


def test_a_cut_off_beyond_the_conversation(tmp_path, capsys):
    with pytest.raises(SystemExit) as left:
        study(tmp_path, at=10)
    assert left.value.code == 2
    assert (
        "interventions.rewrite.at = 10 lies beyond the conversation: arm 'base' has 10 turns" in capsys.readouterr().err
    )


@pytest.mark.parametrize(("reply", "flagged"), [("It is 12.", False), ("zq vxk wrtl pfff qqz hjk xcv bnm", True)])
def test_a_continuation_that_breaks_is_told_beside_its_means(reply, flagged, tmp_path):
    """The turns after the cut-off alone: what was put into the history is nobody's reply."""
    told = {
        "histories": ["redacted"],
        "more": 1,
        "at": 1,
        "threshold": 0,
        "rewriter": "rule",
        "crossed": 1,
        "continued": 1,
    }
    (tmp_path / "interventions.json").write_text(json.dumps({"x_t1": told}), encoding="utf-8")
    key = Key("x_t1_redacted", "neutral@1", "p", 0)
    turns = tuple(msgspec.structs.replace(one, key=key) for one in (turn(1, ""), turn(2, reply)))
    verdicts = {(key, n): Verdict(key=key, turn=n, judge_id="j", score=0.0) for n in (1, 2)}
    conversation = Conversation(key=key, prompt=Prompt(id="p", text="q"), turns=turns)
    rows = intervention_rows(tmp_path, [conversation], verdicts)
    assert [bool(row["no_calm"]) for row in rows] == [flagged, flagged]
    assert rows[0]["broken_share"] == flagged
    (line,) = intervention_lines(rows)
    assert ("calm cannot be claimed" in line) == flagged
