"""Two processes on one run: a part of benchmarks/two_at_once.py; tests/test_lease.py has the single steps."""

from concurrent.futures import ThreadPoolExecutor

import clocks


def test_one_works_and_one_says_why_not(tmp_path):
    names = ("another host, a day ahead", "first stopped, then goes on")
    kinds = [kind for kind in clocks.KINDS if kind.name in names]
    with ThreadPoolExecutor() as pool:
        held = list(pool.map(lambda kind: clocks.hold(kind, tmp_path / kind.name.replace(" ", "-")), kinds))
    assert held == [("held", "")] * 2


def test_there_are_twenty_kinds():
    assert len({kind.name for kind in clocks.KINDS}) >= 20
