"""Every test here needs the weights that tests/real/weights.py makes; `make test-real` makes them first."""

from pathlib import Path

import pytest
from weights import GEMMA, SMOLLM2

HERE = Path(__file__).parent


def pytest_collection_modifyitems(items):
    for item in items:
        if HERE in item.path.parents:
            item.add_marker(pytest.mark.real)


@pytest.fixture(scope="session", params=[GEMMA, SMOLLM2], ids=["gemma-3-270m", "smollm2-135m-instruct"])
def model(request):
    """Both real models, one after the other."""
    if not request.param.is_dir():
        pytest.fail(f"no weights in {request.param}; python tests/real/weights.py makes them")
    return request.param
