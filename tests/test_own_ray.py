"""placid.cluster.own_ray: a Ray that does not start in its 30 s is tried again, and anything else is not."""

import sys
from types import SimpleNamespace

import pytest

from placid.cluster import own_ray

SLOW = "The current node timed out during startup. This could happen because some of the raylet failed to startup"


@pytest.mark.parametrize(
    ("faults", "starts", "raises"),
    [([], 1, None), ([SLOW, SLOW], 3, None), ([SLOW] * 3, 3, "timed out"), (["no port is free"], 1, "no port")],
)
def test_only_a_slow_start_is_tried_again(monkeypatch, tmp_path, faults, starts, raises):
    tried, left = [], list(faults)

    def init(**words):
        tried.append(words)
        if left:
            raise Exception(left.pop(0))

    # not the real module: it reads its token mode when it is imported, once for all tests of this process
    monkeypatch.setitem(sys.modules, "ray", SimpleNamespace(init=init, shutdown=lambda: None))
    if raises:
        with pytest.raises(Exception, match=raises):
            own_ray.connect(None, tmp_path, 3)
    else:
        own_ray.connect(None, tmp_path, 3)
    assert len(tried) == starts
    assert tried[0]["num_cpus"] >= 3
    assert not tried[0]["include_dashboard"]
