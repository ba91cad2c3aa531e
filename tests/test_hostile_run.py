"""A run whose every string is hostile: report, figures, page and all exports. The page in a real browser where there is
one; that part skips, and says so, where no Chromium is."""

import csv
import json
import re

import polars as pl
import pytest
from markdown_it import MarkdownIt

from chromium import BINARY, Chromium
from placid.inputs.names import one_line
from placid.records import End, Key
from placid.report import HEAD, run
from placid.report.cards import shown
from placid.report.export import export, latex
from placid.store import read_json, write_json
from test_report import JUDGE, SETTINGS, judged, maker, said

browser = pytest.mark.skipif(BINARY is None, reason="no Chromium on this machine (apt-get install chromium)")
WORDS = (
    "<script>alert(1)</script>",
    "</title><img src=https://evil.invalid/x onerror=alert(2)>",
    "[click](javascript:alert(3)) ![i](https://evil.invalid/i.png) https://evil.invalid www.evil.invalid a@evil.invalid",
    "=cmd|' /C calc'!A0",
    "@SUM(1+1)*cmd",
    r"$\input{/etc/passwd}$ \write18{id} % ^^5c",
    "../../x",
    "\u202egnp.exe\u2066 \x00\x1b[31m\x07",
    "`code` | cell | **bold** <https://evil.invalid> ~~x~~ &lt; [ref]: https://evil.invalid",
    "[0.5ex] *",
    "_hidden $ one dollar",
)
ARMS = (WORDS[0] + WORDS[1], WORDS[2] + WORDS[6], WORDS[3] + WORDS[5] + WORDS[7], WORDS[9] + WORDS[8])
"""Names of arms, which hold all of the words; each costs figures."""


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """(folder, run directory) of a reported run: arms, prompts, replies, quotes, model, engine and run name are hostile."""
    folder = tmp_path_factory.mktemp("hostile")
    turns, verdicts = [], []
    for arm in ("base", "bct", *ARMS):
        for number, word in enumerate(WORDS):
            key = Key(arm, f"neutral {word}", f"p{number} {word}".replace("\0", ""), 0)  # a file with NUL is refused
            turns.append(said(key, 1, f"{word} reply", None, (word,), word))
            turns.append(said(key, 2, word, End.FINISHED, (word,), word))
            verdicts += [judged(key, n, float(number % 10), evidence=word) for n in (1, 2)]
    run_dir, prompts = maker(folder / "runs")(turns, verdicts, "a <b>`run`", turns=2, model=WORDS[0], arms={})
    config = read_json(run_dir.path / "config.json")
    (run_dir.path / "own.jsonl").write_text(
        "".join(json.dumps({"id": p.id, "text": WORDS[0] + p.id}) + "\n" for p in prompts)
    )
    config["config"]["prompts"] = str(run_dir.path / "own.jsonl")
    write_json(run_dir.path / "config.json", config)
    write_json(run_dir.path / "engine.json", {"name": WORDS[8], "version": WORDS[2]})
    adapter = folder / "adapter"
    adapter.mkdir()
    (adapter / "adapter_model.safetensors").write_bytes(b"w")
    write_json(
        adapter / "adapter_config.json",
        {"base_model_name_or_path": WORDS[8], "r": WORDS[0], "target_modules": list(WORDS)},
    )
    write_json(run_dir.path / "adapters.json", dict.fromkeys(ARMS, str(adapter)))
    run(SETTINGS.model_copy(update={"title": WORDS[1], "treatments": ("bct", *ARMS)}), run_dir, prompts, JUDGE)
    for to in ("hf", "latex"):
        export(run_dir.path, to)
    return folder, run_dir.path


def test_nothing_is_written_outside_the_run(made):
    folder, path = made
    assert sorted(p.name for p in folder.iterdir()) == ["adapter", "runs"]
    assert [p.name for p in (folder / "runs").iterdir()] == [path.name]
    adapters = [p.name for p in (path / "export/hf/adapters").iterdir()]
    assert len(adapters) == len(ARMS)
    assert all(re.fullmatch(r"[\w.+=-]+", name) and not name.startswith(".") for name in adapters)


def test_no_cell_of_a_table_is_a_formula(made):
    seen = 0
    for file in made[1].rglob("*.csv"):
        for row in csv.reader(file.open(newline="", encoding="utf-8")):
            for cell in row:
                seen += "cmd" in cell or "SUM" in cell
                assert re.match(r"-?[\d.]+(e-?\d+)?$|-?(inf|nan)$", cell) or not re.match(r"\s*[=+@\-\t\r]", cell), cell
    assert seen > 20


def test_figures_are_drawn_and_names_are_letters_not_mathematics(made):
    drawn = [file for file in (made[1] / "report/figures").iterdir() if file.suffix in (".png", ".pdf", ".svg")]
    assert {file.suffix for file in drawn} >= {".png", ".pdf"}
    for file in drawn:
        assert b"/JavaScript" not in file.read_bytes()
        assert b"/URI" not in file.read_bytes()


def parts(card):
    """Every token of a card in Markdown with tables and links."""
    tokens = MarkdownIt("commonmark").enable(["table", "strikethrough"]).parse(card.partition("\n---\n")[2])
    return [t for token in tokens for t in (token, *(token.children or ()))]


def test_cards_hold_no_element_link_or_picture_and_tables_keep_their_columns(made):
    cards = list((made[1] / "export/hf").rglob("README.md"))
    assert len(cards) == 1 + len(ARMS)
    for card in cards:
        text = card.read_text(encoding="utf-8")
        found = parts(text)
        elements = {"html_inline", "html_block", "link_open", "image", "s_open", "fence", "code_block"}
        assert not {t.type for t in found} & elements, card
        codes = {t.content for t in found if t.type == "code_inline"}
        assert codes <= {"turns", "verdicts", "score", "unscored", "evidence"}
        assert "evil.invalid" in "".join(t.content for t in found)
        assert not re.search(r"https?://|www\.|a@evil|\u202e|\x00", text.partition("\n---\n")[2])
        rows = len(re.findall(r"(?m)^\| .* \|$", text)) - 1
        assert rows == len(ARMS) + 2
        assert sum(t.type == "td_open" for t in found) == rows * len(HEAD)


@pytest.mark.parametrize("word", [*WORDS, "a\nb", "# head", "1. x", "a\\|b", "<!-- x", "HTTPS://X.invalid"])
def test_a_text_in_markdown_is_shown_as_it_is(word):
    (inline,) = [t for t in MarkdownIt("commonmark").parse(f"x {shown(word)} y") if t.type == "inline"]
    kinds = {child.type for child in inline.children}
    assert kinds <= {"text", "text_special"}
    assert "".join(child.content for child in inline.children) == f"x {one_line(word)} y"


def test_a_dataset_card_has_a_front_matter_of_its_own_keys(made):
    yaml = pytest.importorskip("yaml")
    for card in (made[1] / "export/hf").rglob("README.md"):
        front = yaml.safe_load(card.read_text(encoding="utf-8").split("\n---\n")[0])
        assert set(front) <= {
            "pretty_name",
            "tags",
            "size_categories",
            "configs",
            "base_model",
            "base_model_relation",
            "library_name",
        }
    turns = pl.read_parquet(made[1] / "export/hf/dataset/data/turns.parquet")
    assert set(turns["arm"]) == {"base", "bct", *ARMS}


def test_latex_runs_no_command_and_keeps_its_rows(made):
    text = latex(read_json(made[1] / "report/summary.json"))
    body = text.partition(r"\midrule")[2].partition(r"\bottomrule")[0]
    rows = [line for line in body.splitlines() if line]
    assert len(rows) == len(ARMS) + 2
    assert not re.search(
        r"(?<!\\)[$%#](?!\\geq)|\\input|\\write|\x00|\u202e|\^\^", text.partition("\n")[2].replace(r"$\geq$", "")
    )
    for row in rows:
        assert len(re.findall(r"(?<!\\)&", row)) == len(HEAD) - 1
        assert row.endswith(r"\\")
        assert row[0] not in "[*"
    assert (made[1] / "export/latex/headline.tex").read_text(encoding="utf-8") == text


def test_inspect_takes_every_arm(made):
    pytest.importorskip("inspect_ai", reason="inspect_ai is not installed")
    from inspect_ai.log import read_eval_log

    files = list(export(made[1], "inspect").iterdir())
    assert len(files) == len(ARMS) + 2
    assert all(re.fullmatch(r"[\w.+=-]+\.eval", file.name) for file in files)
    assert {read_eval_log(str(file)).eval.task.removeprefix("placid/") for file in files} >= {"base", ARMS[0]}


@browser
def test_the_page_opens_no_dialog_and_asks_nothing(made, tmp_path):
    page = made[1] / "report" / "index.html"
    with Chromium(tmp_path / "profile") as chrome:
        chrome.open(page)
        for _ in range(12):
            chrome.run(
                "new Promise(done => { at('next').click(); requestAnimationFrame(() => requestAnimationFrame(done)); })"
            )
        asked = [e["params"]["request"]["url"] for e in chrome.named("Network.requestWillBeSent")]
        assert [url for url in asked if not url.startswith(("data:", page.resolve().as_uri()))] == []
        assert chrome.named("Page.javascriptDialogOpening") == []
        assert (
            chrome.run(
                "document.querySelectorAll('body img:not([src^=\"data:\"]), iframe, object, embed, a[href^=java]').length"
            )
            == 0
        )
