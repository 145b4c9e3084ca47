"""How Dask's scheduler is told which worker a task of ours goes to.

Dask gives plugins no say in this, so three methods of its scheduler are replaced:

- `is_rootish(ts)` is False for our tasks. Otherwise Dask would put them into its own queue.
- `decide_worker_non_rootish(ts)` is then asked for a worker. If it returns None, the task goes into
  the state "no-worker". There it waits, can be cancelled, and counts for adaptive scaling; each
  transition to "processing" asks again. That is all that our queue needs.
- `steal_time_ratio(ts)` of work stealing returns (None, None), as Dask's own does for a task that
  is not to be moved: its reservation would stay behind.

tests/dask/scheduler/test_patches.py fails if a version of Dask does this differently.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import distributed

from dask_limits.dask.compat.scheduler import replace_placement
from dask_limits.dask.scheduler.tasks import is_ours

logger = logging.getLogger(__name__)


def install(
    scheduler: distributed.Scheduler, decide: Callable[[Any], Any]
) -> Callable[[], None] | None:
    """Have Dask ask `decide` for the worker of a task of ours; None lets the task wait.

    Returns:
        What undoes it; None if this version of Dask lacks one of the methods, and nothing was done.
    """

    def rootish(original: Callable[[Any], Any]) -> Callable[[Any], Any]:
        return lambda ts: not is_ours(ts) and original(ts)

    def decide_worker(original: Callable[[Any], Any]) -> Callable[[Any], Any]:
        def decide_safely(ts: Any) -> Any:
            if is_ours(ts):
                try:
                    return decide(ts)
                except Exception:
                    # An exception would leave Dask's scheduler in the middle of a transition. The
                    # worker enforces the limits in any case.
                    logger.exception("Could not choose a worker for %r. Dask chooses one.", ts)
            return original(ts)

        return decide_safely

    def steal_time_ratio(original: Callable[[Any], Any]) -> Callable[[Any], Any]:
        return lambda ts: (None, None) if is_ours(ts) else original(ts)

    return replace_placement(scheduler, rootish, decide_worker, steal_time_ratio)
