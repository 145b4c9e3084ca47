from __future__ import annotations

import pytest

from dask_limits import Scheduler


@pytest.fixture
def scheduler():
    return Scheduler.with_threads(4)
