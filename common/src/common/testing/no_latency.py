"""A fixture for a package's ``conftest.py``: latencies are not measured, which takes two seconds per network and is tested in ``common``."""

from collections.abc import Iterator

import pytest

from common.testing.fixed_latency import fixed_latency


@pytest.fixture(scope="session", autouse=True)
def no_latency() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        for module in ("common.pipeline", "common.trained_model"):
            patch.setattr(f"{module}.measure_latency", fixed_latency)
        yield
