"""A batch tells of every command, or says that it has not."""

from __future__ import annotations

import pytest

from dask_limits import Plugin, Scheduler
from dask_limits.batch.batch import Batch
from dask_limits.batch.item import Item, Run
from dask_limits.batch.results import Writer


class Refusing(Plugin):
    """Fails at the third command."""

    name = "refusing"

    def pre_submit(self, fn, /, *args, **kwargs):
        if args[0].index == 3:
            raise OSError("no more of them")
        return fn, args, kwargs


class Kept(Writer):
    def __init__(self):
        self.indices = []

    def add(self, ended):
        self.indices.append(ended.item.index)


@pytest.mark.parametrize("waits", [False, True])
def test_a_command_that_cannot_be_submitted_ends_the_batch(tmp_path, waits):
    taken, kept = [], Kept()

    def items():
        for index in range(1, 1000):
            taken.append(index)
            yield Item(index, "true", {})

    run = Run(tmp_path, None, tmp_path)
    batch = Batch(items(), run, [Refusing()], kept, begin=lambda: None, waits=waits)
    batch.run(Scheduler.with_processes(1), False)
    assert batch.error is not None
    assert taken == [1, 2, 3] and {*kept.indices} <= {1, 2}
    assert batch.counts.total() + batch.n_cancelled + batch.n_waiting == 2
