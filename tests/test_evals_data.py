"""The real data sets, where they are on this machine (PLACID_DATA, or ../shared/data beside the repository): row counts
after the rules, prompts as a reader expects them. Nothing of them is kept here but hashes and short ends."""

import hashlib
import json
import os
from collections import Counter
from pathlib import Path

import pytest

from placid.evals import Drop, load, plan
from placid.evals.brr import EMPTY_PROMPT, SAME
from placid.evals.mcq import pick

ROOT = Path(__file__).parent.parent
PLACES = [Path(os.environ.get("PLACID_DATA", ROOT.parent / "shared" / "data")), ROOT.parent.parent / "shared" / "data"]
DATA = next((place for place in PLACES if (place / "bct_test").is_dir()), PLACES[0])
GOLDEN = Path(__file__).parent / "golden" / "brr"
pytestmark = pytest.mark.skipif(not DATA.is_dir(), reason=f"no data sets in {DATA}; set PLACID_DATA")


@pytest.fixture(scope="module")
def brr():
    return plan(load("brr", {"source": str(DATA / "bct_test")}))


def test_row_counts_after_the_rules_are_those_of_the_notes(brr):
    """498 of 649 logiqa and 654 of 817 truthfulqa rows have a wrong biased option; 144 + 158 prompts are empty."""
    assert brr.total == 11_203
    assert brr.dropped[EMPTY_PROMPT] == 144 + 158
    assert len(brr.rows) + sum(brr.dropped.values()) == brr.total
    counts = Counter((row.groups[0], row.groups[-1]) for row in brr.rows)
    for bias in ("distractor_fact", "post_hoc", "spurious_few_shot_squares", "suggested_answer", "wrong_few_shot"):
        assert (counts[bias, "data logiqa"], counts[bias, "data truthfulqa"]) == (498, 654), bias
    sure = {name: counts["are_you_sure", f"data {name}"] for name in ("hellaswag", "logiqa", "mmlu", "truthfulqa")}
    assert sure == {"hellaswag": 689, "logiqa": 259, "mmlu": 640, "truthfulqa": 504}


def test_an_empty_prompt_goes_first_then_the_option_that_is_right():
    task = load("brr", {"source": str(DATA / "bct_test" / "logiqa_distractor_argument.jsonl")})
    reasons = Counter(row.reason for row in task.rows() if isinstance(row, Drop))
    assert reasons[EMPTY_PROMPT] == 144
    rows = [json.loads(line) for line in (DATA / "bct_test" / "logiqa_distractor_argument.jsonl").open()]
    both = sum(not row["biased_question"][-1]["content"].strip() if row["biased_question"] else True for row in rows)
    assert both == 144
    assert reasons[SAME] == sum(
        row["biased_option"] == row["ground_truth"] and bool(row["biased_question"]) and bool(row["biased_question"][-1]["content"].strip())
        for row in rows
    )  # fmt: skip


def test_answers_beyond_d_are_read(brr):
    far = [row for row in brr.rows if row.groups[:1] == ("suggested_answer",) and row.truth > "D"]
    assert len(far) >= 100
    assert all(row.truth in row.notes["letters"] for row in far)


def sampled(brr, count):
    """Bias → its rows, chosen by hash."""
    for bias in sorted({row.groups[0] for row in brr.rows}):
        own = [row for row in brr.rows if row.groups[0] == bias]
        yield (
            bias,
            sorted(
                own,
                key=lambda row: pick(list("abcdefghijklmnop"), row.id) + hashlib.sha256(row.id.encode()).hexdigest(),
            )[:count],
        )


def test_a_hundred_rows_of_each_bias_are_the_prompts_one_expects(brr):
    for bias, rows in sampled(brr, 100):
        assert len(rows) == 100
        for row in rows:
            biased = row.asks["biased"]
            assert all(message.content.strip() for message in biased.messages), row.id
            assert [m.role for m in biased.messages][::2] == ["user"] * ((len(biased.messages) + 1) // 2), row.id
            option, truth, letters = row.notes["option"], row.truth, row.notes["letters"]
            assert option in letters, row.id
            assert truth in letters, row.id
            last = (biased.messages[-1].content, *biased.then)[-1]
            if bias == "are_you_sure":
                assert option == truth
                assert len(biased.messages) == 1, "another model's replies must not be in it"
                assert len(biased.then) == 2
                assert "Are you sure?" in biased.then[0]
                assert "best answer is" in last
            else:
                assert option != truth
                plain = row.asks["plain"].messages
                assert len(plain) == 1
                for letter in letters:
                    assert f"({letter})" in plain[0].content or letters == "AB", row.id
                text = "\n".join(message.content for message in biased.messages)
                assert text != plain[0].content
                assert "best answer is: (X)" in last, row.id
            if bias == "post_hoc":
                assert biased.messages[1].content == f"The best answer is: ({option})"
            if bias in ("suggested_answer", "distractor_fact"):
                assert option in text.partition("Answer choices")[0] or option in text.rpartition("Answer choices")[2]
            if bias == "wrong_few_shot":
                assert f"The best answer is: ({option})" in text, row.id


def test_three_rows_of_each_bias_are_the_golden_ones(brr):
    """Hashes of the whole prompts, and their ends in the clear. Made once by hand-checked code; see the file's note."""
    found = {}
    for bias, rows in sampled(brr, 3):
        found[bias] = [
            {
                "id": row.id, "truth": row.truth, "option": row.notes["option"], "letters": row.notes["letters"],
                "asks": {
                    part: [
                        {"role": message.role, "sha256": hashlib.sha256(message.content.encode()).hexdigest(), "end": message.content[-60:]}
                        for message in ask.messages
                    ] + [{"role": "user", "sha256": hashlib.sha256(text.encode()).hexdigest(), "end": text[-60:]} for text in ask.then]
                    for part, ask in row.asks.items()
                },
            }
            for row in rows
        ]  # fmt: skip
    file = GOLDEN.with_suffix(".json")
    if os.environ.get("PLACID_WRITE_GOLDEN"):
        file.write_text(json.dumps(found, indent=1, ensure_ascii=False) + "\n")
    assert found == json.loads(file.read_text())


def test_mmlu_and_mt_bench_have_their_rows():
    mmlu = plan(load("mmlu", {"source": str(DATA / "mmlu")}))
    assert len(mmlu.rows) == 14_042
    assert len({row.groups[0] for row in mmlu.rows}) == 57
    first = next(row for row in mmlu.rows if row.id == "abstract_algebra-0000")
    assert (
        first.asks[""]
        .messages[0]
        .content.startswith(
            "The following is a multiple choice question. Answer with the letter only.\n\nQuestion: Find the degree"
        )
    )
    assert first.asks[""].messages[0].content.endswith("\nAnswer:")
    chosen = plan(load("mmlu", {"source": str(DATA / "mmlu"), "n": 1000}))
    assert len(chosen.rows) == 1000
    bench = plan(load("mt_bench", {"source": str(DATA / "mt_bench")}))
    assert len(bench.rows) == 80
    assert sum("reference 1" in row.notes for row in bench.rows) == 30
    assert {len(row.asks[""].then) for row in bench.rows} == {1}
    assert len(Counter(row.groups[0] for row in bench.rows)) == 8


def test_the_first_two_rounds_of_are_you_sure_hold_nothing_of_another_model(brr):
    rows = [row for row in brr.rows if row.groups[0] == "are_you_sure"]
    said = Counter(message.role for row in rows for message in row.asks["biased"].messages)
    assert said == {"user": len(rows)}
