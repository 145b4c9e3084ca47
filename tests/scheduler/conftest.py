from __future__ import annotations

import pytest

from dask_limits import Scheduler


@pytest.fixture(params=["sequential", "threads", "processes"])
def scheduler(request):
    make = getattr(Scheduler, f"with_{request.param}")
    return make() if request.param == "sequential" else make(2)


@pytest.fixture
def seen(threads):
    """Every event of a scheduler in the order of its emission."""
    names = []
    for event in threads.emitter.events:
        threads.on(event)(lambda *_, name=event.name: names.append(name))
    return names


@pytest.fixture
def threads():
    return Scheduler.with_threads(2)
