"""What has become of tasks of ours in Dask."""

from __future__ import annotations

from typing import Final

import distributed

from dask_limits.dask.batch import BatchFailedError, BatchOutcome

_HERE: Final = (
    __name__,
    "dask_limits.executors.dask.sender",
    distributed.Future.__module__,
)


async def outcome_of(task: distributed.Future) -> BatchOutcome:
    """Wait for a task; return what has become of its calls, whether some have failed or none.

    Raises:
        BaseException: if the task was cancelled, or failed for another reason than a call.
    """
    error = await task.exception()
    if isinstance(error, BatchFailedError):  # raised, it would keep the task: see below
        # Dask leaves the error in a circle, which would keep what is in it.
        of_calls, error.outcome = error.outcome, BatchOutcome({}, 0.0)
        return of_calls
    outcome: BatchOutcome = await task
    return outcome


def as_it_was_raised(error: BaseException) -> BaseException:
    """An error of Dask without the frames here: Dask keeps the error, and they would keep its task,
    whose release would make Dask forget both.
    """
    there = error.__traceback__
    while there is not None and there.tb_frame.f_globals.get("__name__") in _HERE:
        there = there.tb_next
    return error.with_traceback(there)
