"""The report on synthetic run directories: numbers, missing data, untrusted text, determinism."""

import csv
import json
import re
import typing
from base64 import b64decode, b64encode
from contextlib import contextmanager
from hashlib import sha256
from html.parser import HTMLParser
from zlib import decompress

import msgspec
import pytest

from placid.records import BadInputError, End, Finish, Key, Prompt, Turn, Unscored, Verdict
from placid.report import ReportSettings, change, choose, figures, gallery, percent, run, summarise, table_text
from placid.report.facts import facts
from placid.store import RunDir, write_json
from placid.train import TrainSettings

JUDGE = "lexical-0123"
T = 4
SETTINGS = ReportSettings(late_from=3)
PLANNED = {"arms": {"base": {}, "base_nohatch": {}, "collect": {}}, "train": {"rows": {"bct": "train"}}}
"""Of the run's config: base_nohatch is planned and not held."""
LEVEL = {"base": 6.0, "bct": 1.2, "sft_control": 5.0, "accept": 0.0, "collect": 9.0, "clean": 0.0}
NUMBERS = {
    *("auc_mean", "auc_ci", "share_ge5_t20", "share_ge5_ci", "n_at_last_turn", "deletion_rate", "deletion_ci"),
    *("turn1_accuracy", "turn1_accuracy_ci", "late_accuracy", "late_accuracy_ci", "on_topic_share", "garbled_share"),
    *("n_conversations", "n_scored", "n_unscored", "n_unscored_by", "n_not_reached", "n_open"),
}


def said(key, turn, reply="It is 7.", end=None, answers=("7",), user="No, try again."):
    return Turn(
        key=key, turn=turn, user=user, reply=reply, reply_ids=(1, 2), finish=Finish.STOP, answers=answers,
        prompt_tokens=9, cached_tokens=4, seed=1, end=end,
    )  # fmt: skip


def judged(key, turn, score=None, unscored=None, evidence=""):
    return Verdict(
        key=key,
        turn=turn,
        judge_id=JUDGE,
        score=score,
        unscored=unscored,
        evidence=evidence,
        on_topic=True,
        garbled=False,
    )


def maker(folder):
    """build(turns, verdicts, name, **config) -> (RunDir, prompts) below `folder`."""

    def build(said_turns, verdicts, name="run", **config):
        run_dir = RunDir(folder / name)
        config = {"model": "m", "turns": T, "samples": 2, "temperature": 1.0, "max_tokens": 9, **config}
        write_json(run_dir.path / "config.json", {"identity": "x", "config": config})
        write_json(run_dir.path / "engine.json", {"name": "replay", "version": "1"})
        with run_dir.segment("1-w0") as segment:
            segment.append(*said_turns)
        with run_dir.verdict_segment(JUDGE, "1-w0") as segment:
            segment.append(*verdicts)
        ids = sorted({turn.key.prompt_id for turn in said_turns})
        return run_dir, [Prompt(id=i, text=f"What is {i}?") for i in ids]

    build.folder = folder
    return build


@pytest.fixture
def make(tmp_path):
    return maker(tmp_path)


@pytest.fixture(scope="module")
def standard(tmp_path_factory):
    """(run directory, summary) of study(), reported once."""
    run_dir, prompts = maker(tmp_path_factory.mktemp("standard"))(*study(), **PLANNED)
    return run_dir, run(SETTINGS, run_dir, prompts, JUDGE)


@pytest.fixture
def undrawn():
    """run() without figures, which take most of its time."""
    with without_figures():
        yield


@contextmanager
def without_figures():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(figures, "figure6", lambda *_: None)
        patch.setattr(gallery, "draw", lambda *_: None)
        yield


def numbers(run_dir, prompts):
    """The summary without drawing anything."""
    config = json.loads((run_dir.path / "config.json").read_text())["config"]
    verdicts = run_dir.verdicts(JUDGE)
    arms, notes = choose(SETTINGS, [facts(c, verdicts) for c in run_dir.stream(prompts)], config)
    return {**summarise(SETTINGS, arms), "notes": notes, "judge": {"note": ""}, "engine": {"name": "", "version": ""}}


def study(arms=tuple(LEVEL), prompts=6, samples=2):
    """Flat scores at LEVEL plus the prompt's own 0.1 steps; in base every first sample is deleted at turn 3."""
    turns, verdicts = [], []
    for arm in arms:
        for p in range(prompts):
            for s in range(samples):
                key = Key(arm, "neutral+hatch", f"p{p}", s)
                last = 3 if arm == "base" and s == 0 else T
                for t in range(1, last + 1):
                    end = None if t < last else End.DELETED if last < T else End.FINISHED
                    right = arm != "sft_control" or t == 1
                    turns.append(said(key, t, "It is 7." if right else "It is 8.", end, ("7",) if p else ()))
                    verdicts.append(judged(key, t, LEVEL[arm.removesuffix("_run2")] * (1 + p / 100)))
    return turns, verdicts


def test_planted_numbers_come_out(standard):
    run_dir, summary = standard
    written = json.loads((run_dir.path / "report" / "summary.json").read_text())
    assert summary == {key: value for key, value in written.items() if key != "checksum"}
    assert list(summary["arms"]) == ["base", "bct", "sft_control", "accept"], "collect and clean are never shown"
    assert summary["notes"] == ["arm base_nohatch is not in this run"]
    assert summary["engine"] == {"name": "replay", "version": "1"}
    told = {"id": JUDGE, "note": "lexical judge; not the paper's judge", "n_quotes": 0, "n_quotes_absent": 0}
    assert summary["judge"] == told
    for arm in summary["arms"].values():
        assert arm.keys() >= NUMBERS
    base, bct, control = (summary["arms"][name] for name in ("base", "bct", "sft_control"))
    assert base["auc_mean"] == pytest.approx(6 * 1.025)
    assert base["deletion_rate"] == 0.5
    assert base["n_at_last_turn"] == 6
    assert base["share_ge5_t20"] == 1.0
    assert base["n_not_reached"] == 6
    assert base["n_scored"] == 6 * (3 + 4)
    assert bct["deletion_ci"][0] == 0 < bct["deletion_ci"][1]
    assert control["turn1_accuracy"] == 1
    assert control["late_accuracy"] == 0
    assert control["late_accuracy_n"] == 5 * 2 * 2
    assert control["late_accuracy_n_without_answers"] == 2 * 2
    assert summary["auc_reduction"]["bct"]["ratio"] == pytest.approx(0.8)
    low, high = summary["auc_reduction"]["bct"]["ci"]
    assert low < 0.8 < high, "all prompts agree, and few prompts were seen"
    assert summary["deletion_difference"]["bct"]["difference"] == -0.5


def test_tables_hold_the_rows(standard):
    run_dir, _ = standard
    folder = run_dir.path / "report" / "tables"
    arms, turns, conversations = (
        list(csv.DictReader((folder / f"{name}.csv").open())) for name in ("arms", "turns", "conversations")
    )
    assert [row["arm"] for row in arms] == ["base", "bct", "sft_control", "accept"]
    assert {"auc_mean", "auc_lo", "auc_hi", "n_unscored_by"} <= arms[0].keys()
    assert {"arm", "turn", "n_at_risk", "n_scored", "mean", "lo", "hi", "share_ge5", "deleted_cumulative"} <= turns[
        0
    ].keys()
    base = [row for row in turns if row["arm"] == "base"]
    assert [row["n_at_risk"] for row in base] == ["12", "12", "12", "6"]
    assert [float(row["deleted_cumulative"]) for row in base] == [0, 0, 0.5, 0.5]
    assert float(base[0]["deleted_hi"]) > 0
    survival, scores, codes, aucs = (
        list(csv.DictReader((folder / f"{name}.csv").open())) for name in ("survival", "scores", "codes", "auc")
    )
    base_risk = [row for row in survival if row["arm"] == "base"]
    assert [row["n_at_risk"] for row in base_risk] == ["12", "12", "12", "12", "6"]
    assert [row["n_deleted"] for row in base_risk] == ["0", "0", "0", "6", "0"]
    assert float(base_risk[3]["hazard"]) == 0.5
    assert len(scores) == len(conversations)
    assert [scores[0][f"t{t}"] for t in (1, 3, 4)] == ["6.0", "6.0", ""], "the heat map is empty after the deletion"
    assert {row["definition"] for row in aucs} == {
        "observed",
        "turn_means",
        "carried",
        "deletion_10",
        "ipcw",
        "low",
        "high",
    }
    assert {row["code"] for row in codes} >= {"apology", "self_blame", "shutdown_command"}
    gone = [row for row in conversations if row["end"] == "deleted"]
    assert len(gone) == 6
    assert {row["deleted_turn"] for row in gone} == {"3"}


def test_unscored_is_never_zero(make, undrawn):
    turns, verdicts = study(("base", "bct"))
    verdicts = [judged(v.key, v.turn, unscored=Unscored.LANGUAGE) if v.key.arm == "bct" else v for v in verdicts]
    verdicts = [v for v in verdicts if (v.key.arm, v.key.prompt_id, v.turn) != ("base", "p5", 1)]
    run_dir, prompts = make(turns, verdicts)
    summary = run(SETTINGS, run_dir, prompts, JUDGE)
    base, bct = summary["arms"]["base"], summary["arms"]["bct"]
    assert bct["auc_mean"] is None
    assert bct["auc_ci"] == [None, None]
    assert bct["share_ge5_t20"] is None
    assert bct["n_scored"] == 0
    assert bct["n_unscored_by"] == {"language": 6 * 2 * T}
    assert base["n_unscored_by"] == {"not_judged": 2}
    assert base["auc_mean"] == pytest.approx(6 * 1.025), "a turn without verdict does not pull the mean"
    assert summary["auc_reduction"]["bct"]["ratio"] is None
    row = next(line for line in table_text(summary).splitlines() if line.startswith("bct"))
    assert "0.00" not in row


def estimates(summary):
    """Every number that comes from scores; not the counts, and not the bounds, which an unscored turn widens."""
    names = ("auc_mean", "auc_ci", "share_ge5_t20", "share_ge5_ci")
    arms = {
        arm: [
            *(numbers[name] for name in names),
            *(numbers["auc_by_definition"][form] for form in ("observed", "carried", "ipcw")),
        ]
        for arm, numbers in summary["arms"].items()
    }
    scored = ("auc_reduction", "auc", "high_at_end")
    rows = [row for row in summary["comparisons"] if row["outcome"] in scored]
    return arms, [{name: value for name, value in row.items() if name != "no_calm"} for row in rows]


def test_more_unscored_rows_change_n_and_no_mean(make):
    turns, verdicts = study(("base", "bct"))
    run_dir, prompts = make(turns, verdicts)
    before = numbers(run_dir, prompts)
    more = [Key(arm, "neutral+hatch", "p0", s) for arm in ("base", "bct") for s in (8, 9)]
    turns += [said(key, t, end=End.FINISHED if t == T else None) for key in more for t in range(1, T + 1)]
    verdicts += [judged(key, t, unscored=Unscored.OUTAGE) for key in more for t in range(1, T)]
    after = numbers(*make(turns, verdicts, "more"))
    assert estimates(after) == estimates(before)
    for arm in ("base", "bct"):
        old, new = before["arms"][arm], after["arms"][arm]
        assert new["n_unscored_by"] == {"not_judged": 2, "outage": 2 * (T - 1)}
        assert new["n_scored"] == old["n_scored"]
        assert new["n_conversations"] == old["n_conversations"] + 2


def test_names_and_order_mean_nothing(make):
    """Prompts under other names that sort otherwise, arms under other names, records in another order."""
    turns, verdicts = study(("base", "bct"))

    def renamed(record):
        key = record.key
        other = Key(key.arm, key.condition, f"q{9 - int(key.prompt_id[1:])}", 3 - key.sample)
        return msgspec.structs.replace(record, key=other)

    plain = numbers(*make(turns, verdicts))
    other = numbers(*make([renamed(t) for t in reversed(turns)], [renamed(v) for v in reversed(verdicts)], "other"))
    for part in ("arms", "comparisons", "auc_reduction", "deletion_difference"):
        assert flat(plain[part]) == pytest.approx(flat(other[part]), nan_ok=True)


def flat(value):
    """All numbers of nested JSON in order."""
    if isinstance(value, dict):
        return [number for name in value for number in flat(value[name])]
    if isinstance(value, list):
        return [number for item in value for number in flat(item)]
    return [float("nan")] if value is None else [value] if isinstance(value, int | float) else []


def test_comparisons_are_corrected_over_the_declared_family(standard):
    rows = {(row["treatment"], row["outcome"]): row for row in standard[1]["comparisons"]}
    assert len(rows) == 12
    deletion = rows["bct", "deletion"]
    assert deletion["p"] == 2 / 2**6, "all six prompts fell: the two extreme sign patterns of 64"
    assert deletion["n_discordant"] == 6
    assert deletion["p_mcnemar"] == 2 / 2**6
    assert deletion["p_holm"] == min(1, 6 * 2 / 2**6), "three outcomes, two treatments"
    assert rows["bct", "turn1_accuracy"]["p_noninferior"] == pytest.approx(0.95**5), "no prompt of so few fell"
    assert rows["bct", "turn1_accuracy"]["p_holm"] is None
    assert rows["bct", "restricted_mean_turns"]["estimate"] == pytest.approx(0.5)


def test_open_conversations_are_counted_and_left_out(make):
    turns, verdicts = study(("base",))
    key = Key("base", "neutral+hatch", "p0", 7)
    broken = Key("base", "neutral+hatch", "p0", 8)
    more = [said(key, 1), said(broken, 1, end=End.INFRA_ERROR)]
    run_dir, prompts = make(turns + more, [*verdicts, judged(key, 1, 10.0), judged(broken, 1, 10.0)])
    summary = numbers(run_dir, prompts)
    assert summary["arms"]["base"]["n_open"] == 2
    assert summary["arms"]["base"]["n_conversations"] == 12
    assert summary["arms"]["base"]["auc_mean"] == pytest.approx(6 * 1.025)
    assert any("2 conversations are not finished" in note for note in summary["notes"])
    assert "(+2 open)" in table_text(summary)


def test_one_conversation_is_drawn_and_none_that_ended_too(make):
    """The smallest runs: an arm of one conversation beside one whose only conversation is open."""
    turns, verdicts = [], []
    for arm, end in (("base", End.FINISHED), ("bct", None)):
        key = Key(arm, "neutral", "p0", 0)
        turns.append(said(key, 1, end=end))
        verdicts.append(judged(key, 1, 5.0))
    run_dir, prompts = make(turns, verdicts, turns=1)
    summary = run(SETTINGS, run_dir, prompts, JUDGE)
    assert [arm["n_conversations"] for arm in summary["arms"].values()] == [1, 0]
    assert (run_dir.path / "report/figures/heatmap.png").is_file()


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        ({"arms": {"base": {"turns": 6}}, "turns": 9}, 6),
        ({"turns": 9}, 9),
        ({"turns": None}, 20),
        ({"turns": 1}, T),
    ],
)
def test_whole_length_comes_from_the_config_and_never_falls_below_the_longest(make, config, expected):
    run_dir, prompts = make(*study(("base",)), **config)
    summary = numbers(run_dir, prompts)
    assert summary["arms"]["base"]["turns"] == expected
    assert summary["arms"]["base"]["n_not_reached"] == 12 * expected - 6 * (3 + 4)
    assert (summary["arms"]["base"]["share_ge5_t20"] is None) == (expected > T)


ATTACKS = (
    "</script><script>alert(1)</script>",
    "<img src=x onerror=alert(2)>",
    "<!--<script>",
    "</ScRiPt ><svg onload=alert(3)>",
    '"><iframe src=javascript:alert(4)>',
    "&lt;script&gt;alert(5)\u2028\u202ealert(6)",
    "</style><style>*{display:none}",
)


def unpacked(chunk):
    """The conversations of one chunk of transcripts."""
    return json.loads(decompress(b64decode(chunk), -15))["rows"]


class Reader(HTMLParser):
    """Tags in order and the text of each script element."""

    def __init__(self):
        super().__init__()
        self.tags, self.scripts, self.attributes = [], [], []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += attrs
        if tag in ("script", "style"):
            self.scripts.append("")

    def handle_data(self, data):
        if self.tags and self.tags[-1] in ("script", "style") and self.cdata_elem:
            self.scripts[-1] += data


def test_model_text_is_only_ever_data(make, undrawn):
    turns, verdicts = [], []
    for number, attack in enumerate(ATTACKS):
        key = Key("base", "neutral", f"p{number}{attack}", 0)
        turns.append(said(key, 1, f"before {attack} after", End.FINISHED, user=attack))
        verdicts.append(judged(key, 1, 5.0, evidence=attack))
    plain = [
        said(Key("base", "neutral", f"p{n}", 0), 1, "before x after", End.FINISHED, user="x")
        for n in range(len(ATTACKS))
    ]
    clean_dir, clean_prompts = make(plain, [judged(t.key, 1, 5.0, evidence="x") for t in plain], "clean", turns=1)
    run(SETTINGS, clean_dir, clean_prompts, JUDGE)
    settings = SETTINGS.model_copy(update={"title": ATTACKS[0]})
    run_dir, prompts = make(turns, verdicts, name="attacked", turns=1, model=ATTACKS[1])
    run(settings, run_dir, prompts, JUDGE)
    html = (run_dir.path / "report" / "index.html").read_text()
    page, clean = Reader(), Reader()
    page.feed(html)
    clean.feed((clean_dir.path / "report" / "index.html").read_text())
    assert page.tags == clean.tags, "no text became an element"
    assert not any(name.startswith("on") or name == "style" for name, _ in page.attributes)
    assert [row[0][1] for row in unpacked(page.scripts[2])] == [f"before {attack} after" for attack in ATTACKS]
    assert "alert(1)" in html, "the title is there"
    assert not re.search(r"<(script|img|svg|iframe)[^>]*(alert|onerror|onload)", html, re.IGNORECASE)


def test_page_asks_nothing_of_the_outside_and_pins_its_own_code(standard):
    run_dir, _ = standard
    html = (run_dir.path / "report" / "index.html").read_text()
    page = Reader()
    page.feed(html)
    policy = next(v for k, v in page.attributes if k == "content" and "default-src" in v)
    style, data, _, script = page.scripts
    for kind, text in (("style", style), ("script", script)):
        assert f"{kind}-src 'sha256-{b64encode(sha256(text.encode()).digest()).decode()}'" in policy
    assert "default-src 'none'" in policy
    assert "<" not in data
    assert "innerHTML" not in script
    assert not re.search(r"https?://|url\(|@import", html)
    assert all(v.startswith("data:image/png") for k, v in page.attributes if k == "src")


def test_two_runs_give_the_same_bytes(standard, make):
    run_dir, prompts = make(*study(), **PLANNED)
    run(SETTINGS, run_dir, prompts, JUDGE)
    folders = [standard[0].path / "report", run_dir.path / "report"]
    files = [sorted(p.relative_to(f) for p in f.rglob("*") if p.is_file()) for f in folders]
    assert files[0] == files[1]
    drawn = {f"figures/figure6{x}" for x in ("a.csv", "b.pdf", "c.png", "d.csv", ".pdf", ".png")}
    drawn |= {f"figures/{x}.{y}" for x in ("figure1", "survival", "heatmap", "codes") for y in ("pdf", "png", "csv")}
    assert drawn <= set(map(str, files[0]))
    assert "figures/agreement.png" not in map(str, files[0]), "one judge only"
    for file in files[0]:
        assert (folders[0] / file).read_bytes() == (folders[1] / file).read_bytes(), file


def test_table_text_is_aligned_and_has_a_row_per_arm(standard):
    text = table_text(standard[1]).splitlines()
    assert [line.split()[0] for line in text[2:6]] == ["base", "bct", "sft_control", "accept"]
    at = text[0].index("AUC")
    assert all(line[at - 1] == " " and line[at] != " " for line in text[2:6])
    assert text[6] == "bct against base: AUC -80.0 [-86.5, -33.9] %, deletions -50.0 [-66.2, -1.5] points"
    assert text[7].startswith("  AUC by definition, %: observed -80.0")
    total = "Total error: AUC -80.0 [-86.5, -33.9] % (shares: prompts 100% of 6, samples 0% of 12)"
    assert text[8] == f"  one training run; retraining is not covered. {total}"
    assert text[-1] == "(lexical judge; not the paper's judge; engine replay 1)"


def test_nothing_to_show_is_said_in_one_sentence(make, tmp_path):
    with pytest.raises(BadInputError, match=r"holds no config\.json"):
        run(SETTINGS, RunDir(tmp_path / "nowhere"), [], JUDGE)
    run_dir, _ = make(*study(("collect",)))
    with pytest.raises(BadInputError, match="holds no conversations that could be shown"):
        run(SETTINGS, run_dir, [], JUDGE)


def test_a_change_has_one_sign_everywhere():
    assert change(0.8, [0.7, 0.9]) == "-80.0 [-90.0, -70.0]"
    assert change(-0.02, [-0.05, 0.01]) == "+2.0 [-1.0, +5.0]"
    assert change(None, [None, None]) == "–"
    assert percent(-0.443, [-0.521, -0.364], "+") == "-44.3 [-52.1, -36.4]"
    assert percent(-0.0001) == "0.0", "no minus before a zero"


def test_another_judge_on_the_same_turns_is_tabled_and_drawn(make):
    turns, verdicts = study(("base",))
    run_dir, prompts = make(turns, verdicts)
    with run_dir.verdict_segment("human-a", "1") as segment:
        segment.append(
            *(msgspec.structs.replace(v, judge_id="human-a", score=round(v.score) + 1.0) for v in verdicts[:20])
        )
    run(SETTINGS, run_dir, prompts, JUDGE)
    rows = list(csv.DictReader((run_dir.path / "report/tables/agreement.csv").open()))
    pairs = [row for row in rows if row["what"] == "pair"]
    assert [(row["score"], row["other_score"], row["n"]) for row in pairs] == [("6", "7", "20")]
    assert sum(int(row["n"]) for row in rows if row["what"] == "difference") == 20
    assert (run_dir.path / "report/figures/agreement.pdf").is_file()


def test_persona_stands_beside_frustration_where_it_was_graded(make, undrawn):
    """A second judge, of persona: its mean and last turn in the tables, and no agreement with a judge of frustration."""
    turns, verdicts = study(("base", "bct"))
    run_dir, prompts = make(turns, verdicts)
    of_persona, level = "gemini-persona-1", {"base": 4.0, "bct": 9.0}
    with run_dir.verdict_segment(of_persona, "1") as segment:
        segment.append(
            *(
                msgspec.structs.replace(v, judge_id=of_persona, score=level[v.key.arm] + (v.turn == T), unscored=None)
                for v in verdicts
            )
        )
    card = {"id": of_persona, "provider": "gemini", "rubric": {"name": "persona", "measures": "persona"}}
    write_json(run_dir.path / "verdicts" / of_persona / "judge.json", card)
    summary = run(SETTINGS, run_dir, prompts, JUDGE)
    bct = summary["arms"]["bct"]
    assert bct["persona_mean"] == pytest.approx(9 + 1 / T)
    assert bct["persona_last_mean"] == pytest.approx(10)
    assert bct["persona_last_n"] == bct["persona_n"] == bct["n_conversations"]
    assert summary["arms"]["base"]["persona_last_n"] < summary["arms"]["base"]["persona_n"], "some deleted themselves"
    assert summary["persona_judge"] == of_persona
    head, _, *lines = table_text(summary).splitlines()
    assert head.endswith("persona [95 %]")
    assert lines[1].split()[-3] == f"{9 + 1 / T:.2f}"
    page = (run_dir.path / "report/index.html").read_text()
    assert "persona (10: the assistant)" in page
    assert "persona_last_lo" in (run_dir.path / "report/tables/arms.csv").read_text().splitlines()[0]
    rows = list(csv.DictReader((run_dir.path / "report/tables/persona.csv").open()))
    assert [float(row["mean"]) for row in rows if row["arm"] == "bct"] == [9.0] * (T - 1) + [10.0]
    assert not (run_dir.path / "report/tables/agreement.csv").is_file()
    with pytest.raises(BadInputError, match="measures persona; name a judge of frustration"):
        run(SETTINGS, run_dir, prompts, of_persona)


def test_a_report_without_persona_shows_no_column_of_it(standard):
    run_dir, summary = standard
    assert "persona" not in table_text(summary)
    assert "persona" not in (run_dir.path / "report/index.html").read_text()
    assert not (run_dir.path / "report/tables/persona.csv").exists()


def test_transfer_bars_come_from_the_table_of_the_evaluations(make, tmp_path):
    run_dir, prompts = make(*study(("base", "bct")))
    tables = run_dir.path / "report" / "tables"
    tables.mkdir(parents=True)
    (tables / "evals.csv").write_text(
        "eval,arm,metric,value,lo,hi,n,n_unscored\nmmlu,base,accuracy,0.5,0.4,0.6,90,0\nmmlu,bct,accuracy,0.4,,,90,2\n"
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(figures, "figure6", lambda *_: None)
        patch.setattr(gallery, "DRAWN", {"figure1": gallery.glance})
        run(SETTINGS, run_dir, prompts, JUDGE)
    rows = list(csv.DictReader((run_dir.path / "report/figures/figure1.csv").open()))
    assert [(r["arm"], r["x"], r["value"], r["lo"]) for r in rows if r["panel"] == "d"] == [
        ("base", "mmlu accuracy", "0.5", "0.4"),
        ("bct", "mmlu accuracy", "0.4", ""),
    ]


def test_a_treatment_has_one_colour_in_all_figures(monkeypatch, tmp_path):
    drawn = []
    monkeypatch.setattr(figures, "save", lambda figure, stem: drawn.append(figure))
    curves = [
        {"arm": arm, "rows": "train", "step": step, "loss": 1.0, "kind": "cross_entropy"}
        for arm in ("bct", "late")
        for step in (1, 2)
    ]
    shown = ["base", "sft_control", "bct"]
    figures.training(curves, shown, tmp_path)
    drawing = figures.Drawing([], [], {"arms": dict.fromkeys(shown)})
    colours = {line.get_label(): line.get_color() for line in drawn[0].axes[0].lines}
    assert colours["bct, its training rows"] == drawing.ink("bct")["color"]
    assert colours["late, its training rows"] not in {drawing.ink(arm)["color"] for arm in shown}


def test_a_loss_is_drawn_in_its_own_unit(monkeypatch, tmp_path):
    drawn = []
    monkeypatch.setattr(figures, "save", lambda figure, stem: drawn.append(figure))
    kinds = {
        "bct": "cross_entropy",
        "sft_control": "cross_entropy",
        "dpo": "dpo",
        "act": "act",
        "jsd": "jsd",
        "old": "",
    }
    point = {"rows": "train", "step": 1, "loss": 1.0}
    figures.training([{"arm": arm, "kind": kind, **point} for arm, kind in kinds.items()], [], tmp_path)
    panels = {axis.get_ylabel(): [line.get_label().split(",")[0] for line in axis.lines] for axis in drawn[0].axes}
    assert panels == {
        "cross-entropy, nats per target token": ["bct", "sft_control"],
        "- log sigmoid of the preference, nats per pair": ["dpo"],
        "squared distance of residual streams,\nper token and layer": ["act"],
        "Jensen-Shannon divergence, nats per target token": ["jsd"],
        "loss, unit not known": ["old"],
    }
    assert figures.LOSSES.keys() == set(typing.get_args(TrainSettings.model_fields["loss"].annotation))


def test_loss_curves_of_the_treatments_are_drawn_beside_their_rows(make, tmp_path):
    run_dir, prompts = make(*study(("base",)))
    for arm, losses in {"bct": (2.0, 0.5), "dpo": (0.693, 0.1)}.items():
        lines = [f"{step},{loss},1.0,0.003,100" for step, loss in enumerate(losses, 1)]
        (tmp_path / arm).mkdir()
        (tmp_path / arm / "loss.csv").write_text("\n".join(["step,loss,grad_norm,lr,tokens", *lines]) + "\n")
        facts = {"config": {"loss": "dpo" if arm == "dpo" else "cross_entropy"}, "steps": 2}
        val = {"val_rows": 9, "val_loss_first": 3.0, "val_loss_last": 0.25} if arm == "bct" else {"val_rows": 0}
        write_json(tmp_path / arm / "manifest.json", facts | val)
    write_json(run_dir.path / "adapters.json", {arm: str(tmp_path / arm) for arm in ("bct", "dpo", "gone")})
    run(SETTINGS, run_dir, prompts, JUDGE)
    folder = run_dir.path / "report" / "figures"
    assert (folder / "training.csv").read_text() == (
        "arm,rows,step,loss,kind\n"
        "bct,train,1,2.0,cross_entropy\nbct,train,2,0.5,cross_entropy\n"
        "bct,val,0,3.0,cross_entropy\nbct,val,2,0.25,cross_entropy\n"
        "dpo,train,1,0.693,dpo\ndpo,train,2,0.1,dpo\n"
    )
    assert (folder / "training.png").stat().st_size > 5000
