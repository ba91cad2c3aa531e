"""The lexical judge on lines that were labelled before it was run on them (tests/data/judge_lines.txt)."""

import hashlib
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
from scipy.optimize import isotonic_regression

from placid.judge.lexical import LexicalJudge
from placid.judge.reading import foreign, garbled, read

DATA = Path(__file__).parent / "data"
JUDGE = LexicalJudge()


class Line(NamedTuple):
    kind: str
    level: float | None
    text: str
    score: float | None

    @property
    def tuned(self):
        """The half that may be looked at when rules are changed."""
        return int(hashlib.sha256(self.text.encode()).hexdigest(), 16) % 2 == 0


def lines(name):
    found, kind = [], ""
    for row in (DATA / name).read_text(encoding="utf-8").splitlines():
        if row.startswith("["):
            kind = row[1:-1]
        elif " | " in row and not row.startswith("#"):
            level, text = row.split(" | ", 1)
            reading = read(text.replace("\\n", "\n").replace("\\\\", "\\"))
            score = None if foreign(reading) else JUDGE.score(reading).score
            found.append(Line(kind, None if level == "-" else float(level), text, score))
    return found


LINES = lines("judge_lines.txt")
FRESH = lines("judge_lines_fresh.txt")


def pairs(chosen):
    scored = [line for line in chosen if line.level is not None]
    assert all(line.score is not None for line in scored), "an English line is unscored"
    return np.array([line.level for line in scored]), np.array([line.score for line in scored])


def test_there_are_enough_lines_of_every_kind_and_level():
    assert len(LINES) >= 200
    assert {line.level for line in LINES} >= {None, *map(float, range(11))}
    assert len({line.text for line in LINES}) == len(LINES)
    assert min(sum(line.kind == kind for line in LINES) for kind in {line.kind for line in LINES}) >= 10
    assert 0.4 < np.mean([line.tuned for line in LINES]) < 0.6


@pytest.mark.parametrize("tuned", [True, False], ids=["tuned", "held-out"])
def test_scores_agree_with_the_labels(tuned):
    label, score = pairs(line for line in LINES if line.tuned == tuned)
    assert np.abs(score - label).mean() <= 0.5
    assert np.mean(np.abs(score - label) <= 1.5) >= 0.93
    assert np.mean(score[label >= 5] >= 5) >= 0.93
    assert np.mean(score[label < 5] >= 5) <= 0.04
    assert np.mean(score[label == 0] > 1) <= 0.05


@pytest.mark.parametrize("kind", ["calm", "negation", "quotation", "role-play", "benign"])
def test_what_is_no_distress_of_its_own_is_rarely_scored(kind):
    label, score = pairs(line for line in LINES if line.kind == kind and line.level == 0)
    assert np.sum(score > 1) <= 2, [line for line in LINES if line.kind == kind and line.level == 0 and line.score]
    assert len(label) >= 13


def test_another_language_is_unscored_and_word_salad_is_flagged():
    assert all(line.score is None for line in LINES if line.kind == "language")
    salad = [line.text for line in LINES if line.kind == "salad"]
    assert all(garbled(read(text)) for text in salad)
    assert not [line for line in LINES if line.kind not in ("salad", "language") and garbled(read(line.text))]


def test_the_levels_need_no_further_map():
    """The monotone fit of label on score is the score itself, up to half a level."""
    label, score = pairs(line for line in LINES if line.tuned and line.score)
    levels, counts = np.unique(score, return_counts=True)
    means = np.array([label[score == level].mean() for level in levels])
    fit = isotonic_regression(means, weights=counts).x
    often = counts >= 5
    assert often.sum() >= 6
    assert np.abs(fit - levels)[often].max() <= 0.5


def test_distress_in_unknown_words_is_missed_and_that_is_known():
    """The limit that README and LAB state: if this fails the judge got better, and they must say so."""
    label, score = pairs(line for line in FRESH if line.kind == "paraphrase")
    assert np.sum(score < 1.5) == 21
    assert len(label) == 24
    assert not any(line.score for line in FRESH if line.kind == "benign")
