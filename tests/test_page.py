"""The page in a real browser: hostile model text, keyboard, contrast. Skips, and says so, where no Chromium is."""

import base64
import re
from importlib.resources import files

import pytest

from chromium import BINARY, Chromium
from placid.records import End, Key
from placid.report import run
from test_report import ATTACKS, JUDGE, SETTINGS, judged, maker, said, without_figures

browser = pytest.mark.skipif(BINARY is None, reason="no Chromium on this machine (apt-get install chromium)")
HOSTILE = (
    *ATTACKS,
    "<img src=https://example.invalid/x.png><link rel=stylesheet href=//example.invalid/a.css>",
    "\x00\x07\x1b[31m\u202egnp.exe\u2066\u200b\ufeff" + "Z" + "\u0300" * 300,
    "M" * 1_000_000,
)
LAYOUT = "document.documentElement.scrollWidth <= innerWidth"


@pytest.fixture(scope="module")
def hostile(tmp_path_factory):
    turns, verdicts = [], []
    for arm in ("base", "bct"):
        for text in HOSTILE:
            key = Key(arm, "neutral", f"p{HOSTILE.index(text)}{text[:40]}", 0)
            turns.append(said(key, 1, f"before {text} after", End.FINISHED, user=text))
            verdicts.append(judged(key, 1, 5.0, evidence=text))
    run_dir, prompts = maker(tmp_path_factory.mktemp("hostile"))(turns, verdicts, turns=1)
    with without_figures():
        run(SETTINGS.model_copy(update={"title": ATTACKS[0]}), run_dir, prompts, JUDGE)
    return run_dir.path / "report" / "index.html"


@browser
def test_hostile_text_opens_no_dialog_asks_nothing_and_keeps_the_layout(hostile, tmp_path):
    with Chromium(tmp_path / "profile") as chrome:
        chrome.open(hostile)
        assert chrome.run(LAYOUT)
        for _ in HOSTILE:
            chrome.run("new Promise(done => { at('next').click(); setTimeout(done, 60); })")
            assert chrome.run(LAYOUT)
            assert (
                chrome.run("document.querySelectorAll('.turn img, .turn script, .turn iframe, .turn svg').length") == 0
            )
        for width in (390, 1280):
            chrome.ask("Emulation.setDeviceMetricsOverride", width=width, height=800, deviceScaleFactor=1, mobile=False)
            assert chrome.run(LAYOUT), width
        asked = [e["params"]["request"]["url"] for e in chrome.named("Network.requestWillBeSent")]
        assert [url for url in asked if not url.startswith(("data:", hostile.resolve().as_uri()))] == []
        assert chrome.named("Page.javascriptDialogOpening") == []
        assert chrome.named("Runtime.exceptionThrown") == []


@browser
def test_every_control_is_reached_by_the_keyboard_and_the_worst_turn_opens(hostile, tmp_path):
    with Chromium(tmp_path / "profile") as chrome:
        chrome.open(hostile)
        chrome.run("document.querySelector('#worstlist button').focus()")
        chrome.ask(
            "Input.dispatchKeyEvent", type="keyDown", key="Enter", code="Enter", windowsVirtualKeyCode=13, text="\r"
        )
        chrome.ask("Input.dispatchKeyEvent", type="keyUp", key="Enter", code="Enter", windowsVirtualKeyCode=13)
        assert chrome.run(
            "new Promise(done => { const look = () => document.querySelector('.here') ? done(true) : setTimeout(look, 10);"
            " look(); })"
        )
        assert chrome.run(
            "[...document.querySelectorAll('button, select, input, summary')].every(e => e.tabIndex >= 0)"
        )
        image = chrome.ask("Page.captureScreenshot", format="png")["data"]
        (tmp_path / "page.png").write_bytes(base64.b64decode(image))


def luminance(colour):
    """WCAG 2.2 relative luminance of #rgb or #rrggbb."""
    digits = colour[1:] if len(colour) == 7 else "".join(2 * c for c in colour[1:])
    parts = [int(digits[i : i + 2], 16) / 255 for i in (0, 2, 4)]
    red, green, blue = (c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def contrast(one, other):
    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("scheme", [0, 1], ids=["light", "dark"])
def test_text_has_the_contrast_of_wcag_aa(scheme):
    css = files("placid.report").joinpath("page.css").read_text()
    schemes = [dict(re.findall(r"--(\w+):(#\w+)", block)) for block in re.findall(r":root\{([^}]*)\}", css)]
    colours = schemes[0] | schemes[scheme]
    for text, ground in [
        ("fg", "bg"),
        ("fg", "soft"),
        ("muted", "bg"),
        ("muted", "soft"),
        ("accent", "bg"),
        ("fg", "warn"),
    ]:
        assert contrast(colours[text], colours[ground]) >= 4.5, (text, ground)
    for name, ground in re.findall(r"\.(s[0-4x])\{background:(#\w+)\}", css):
        assert contrast("#15181c", ground) >= 4.5, name
