"""Every tenth of 250 grades is faulty in one of 25 ways; benchmarks/judge_faults.py does the same with 20,000."""

import logging

from judge_faulty import WAYS, FaultyServer, judged, way
from placid.store import RunDir
from test_gemini import KEY, grade, talk

COUNT = 250


def test_every_tenth_grade_is_faulty_and_all_others_are_graded(tmp_path, monkeypatch, caplog):
    caplog.set_level(logging.INFO)
    monkeypatch.setenv("GEMINI_API_KEY", KEY)
    run_dir = talk(RunDir(tmp_path), COUNT)
    with FaultyServer() as server:
        verdicts = grade(server, run_dir, monkeypatch, limits={"deadline_s": 0.5})
        wrong, _ = judged(server, verdicts, COUNT)
        assert not wrong
        assert {way(sample)[0] for sample in range(0, COUNT, 10)} == {name for name, *_ in WAYS}
        last = [record for record in caplog.records if record.name.startswith("placid")][-1].getMessage()
        again = [sample for sample in range(0, COUNT, 10) if way(sample)[3] == "outage"]
        assert f"({len(again)} outage: the same command asks again; " in last
        assert "not asked again, counted in the report" in last
        before = dict(server.paid)
        asked = dict(server.asked)
        verdicts = grade(server, run_dir, monkeypatch, limits={"deadline_s": 0.2})
        assert not judged(server, verdicts, COUNT)[0]
        assert {sample for sample, times in server.asked.items() if times > asked[sample]} == set(again)
        assert {body: server.paid[body] for body in before} == before, "nothing is paid for again"
