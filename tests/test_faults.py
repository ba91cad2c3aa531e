"""docs/faults.md is the table of tests/data/faults.toml, and a test names every row."""

from pathlib import Path

import pytest

import faults

TESTS = "\n".join(
    file.read_text(encoding="utf-8")
    for file in sorted(Path(__file__).parent.glob("test_*.py"))
    if file.name != Path(__file__).name
)


def test_the_page_is_written_from_the_rows():
    page = Path(__file__).parent.parent / "docs/faults.md"
    assert page.read_text(encoding="utf-8") == faults.page(), "run tests/faults.py again"


@pytest.mark.parametrize(("part", "row"), [(part, row) for part, rows in faults.ROWS.items() for row in rows],
                         ids=lambda value: value if isinstance(value, str) else value["fault"])  # fmt: skip
def test_a_test_brings_every_row_about(part, row):
    assert part in faults.TITLES
    assert set(row) == {"fault", "state", "sees", "rerun"}
    assert f'"{row["fault"]}"' in TESTS, "no test names this fault; see faults.check()"
