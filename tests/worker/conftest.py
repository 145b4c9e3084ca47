from __future__ import annotations

from collections.abc import Iterator

import pytest
from processes import children, until

from dask_limits.limits.guardian import default_guardian


@pytest.fixture(scope="module", autouse=True)
def nothing_is_left_behind() -> Iterator[None]:
    # Of the whole module, not of each test: clusters live on from one test to the next.
    before = children()
    yield
    default_guardian().close()
    until(lambda: children() <= before)
