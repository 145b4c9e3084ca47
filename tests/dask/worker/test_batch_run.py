from __future__ import annotations

from dask_limits.dask.worker.batch_run import BatchRun


def test_calls_that_never_came_cannot_be_cancelled() -> None:
    run = BatchRun([0, 2])
    run.cancel([1, 2])
    assert [run.token(number).cancelled for number in (0, 2)] == [False, True]
