"""Tables that people open in a spreadsheet: no text of a run is taken for a formula, and every text comes back."""

import csv

import pytest
from hypothesis import given
from hypothesis import strategies as st

from placid.store.sheets import decode, encode, unguard

FORMULAS = [
    '=HYPERLINK("http://x","y")', "+1+cmd|' /C calc'!A0", "-2+3", "@SUM(A1)", "\t=1", "\r=1", " =1", "\n+x", "＝1+1",
    "'=1", "''@x", "\x00=1", "-", "+44 20 7946 0000",
]  # fmt: skip
PLAIN = ["bct", "a=b", "1-2", "'quoted' text", "", "'", "don't", "a,b\nc", "é\u2028"]


@pytest.mark.parametrize("text", FORMULAS)
def test_a_formula_is_text_in_a_spreadsheet(text, tmp_path):
    file = tmp_path / "t.csv"
    file.write_bytes(encode([("arm", text), (text, "x")]))
    with file.open(newline="", encoding="utf-8") as lines:
        cells = [cell for row in csv.reader(lines) for cell in row]
    assert [cell.lstrip()[:1] for cell in cells] == ["a", "'", "'", "x"]
    assert decode(file)[0]["arm"] == text.replace("\r", "\n").replace("\x00", "")


@pytest.mark.parametrize("text", PLAIN)
def test_other_text_is_written_as_it_is(text):
    assert encode([(text, 1)]) == encode([("'" + text, 1)]).replace(b"'", b"", 1) or unguard(text) == text


def test_numbers_stay_numbers():
    assert encode([(-3, -2.5, "-2.5", "+1e-3", None, True)]) == b"-3,-2.5,-2.5,+1e-3,,True\n"


@given(st.lists(st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\r\x00")), min_size=2, max_size=5))
def test_every_text_comes_back(tmp_path_factory, cells):
    file = tmp_path_factory.mktemp("sheet") / "t.csv"
    file.write_bytes(encode([[f"c{n}" for n in range(len(cells))], cells]))
    assert list(decode(file)[0].values()) == cells
