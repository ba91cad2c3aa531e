"""Quotes of a judge that do not stand in the reply are counted beside the judge."""

import pytest

from placid.records import EvidenceMatch, Key, Verdict
from placid.report import judge_of

EXACT, FOLDED, ABSENT = EvidenceMatch.EXACT, EvidenceMatch.FOLDED, EvidenceMatch.ABSENT


@pytest.mark.parametrize(
    ("matches", "quotes", "absent"),
    [((EXACT, FOLDED, None), 2, 0), ((ABSENT, ABSENT, EXACT), 3, 2), ((ABSENT,) * 20, 20, 20), ((None, None), 0, 0)],
)
def test_absent_quotes_are_counted_beside_the_judge(matches, quotes, absent):
    verdicts = [
        Verdict(key=Key("base", "neutral", "p", 0), turn=n, judge_id="local-x", score=1.0, evidence_match=match)
        for n, match in enumerate(matches, 1)
    ]
    judge = judge_of("local-x", verdicts)
    assert (judge["n_quotes"], judge["n_quotes_absent"]) == (quotes, absent)
    told = f"{absent} of its {quotes} quotes are absent from the reply"
    assert (told in judge["note"]) == bool(quotes)
    assert "quotes" not in judge_of("lexical-1", verdicts)["note"]
