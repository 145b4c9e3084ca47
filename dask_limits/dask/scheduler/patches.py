"""The places in Dask's scheduler where our tasks are placed, all of them.

Dask offers plugins no say in which worker a task goes to. What is done here:

- `is_rootish(ts)` is False for our tasks. Otherwise Dask would queue them, and take from that
  queue by itself.
- `decide_worker_non_rootish(ts)` is then asked for a worker. None puts the task into the state
  "no-worker", in which it waits, is counted by adaptive scaling, can be cancelled, and is asked for
  again when it is to go to "processing": all that a waiting line needs. Dask asks by attribute of
  the scheduler, so one of the instance takes the method's place.
- `steal_time_ratio(ts)` of work stealing says (None, None), which is Dask's own way to say that a
  task is not to be moved: its reservation would stay behind.

tests/dask/scheduler/test_patches.py fails when a version of Dask goes another way.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import distributed

logger = logging.getLogger(__name__)


def install(
    scheduler: distributed.Scheduler,
    is_ours: Callable[[Any], bool],
    decide: Callable[[Any], Any],
) -> Callable[[], None] | None:
    """Ask `decide` which worker a task of ours goes to.

    Args:
        scheduler: Dask's.
        is_ours: Whether a task, Dask's `TaskState`, is.
        decide: Gives the worker, Dask's `WorkerState`, or None to let the task wait.

    Returns:
        What undoes it; None if this Dask has no such places, and nothing was done.
    """
    stealing = scheduler.extensions.get("stealing")
    places = [(scheduler, "is_rootish"), (scheduler, "decide_worker_non_rootish")]
    if stealing is not None:
        places.append((stealing, "steal_time_ratio"))
    if not all(hasattr(owner, name) for owner, name in places):
        return None
    is_rootish, decide_worker = scheduler.is_rootish, scheduler.decide_worker_non_rootish
    steal_time_ratio = getattr(stealing, "steal_time_ratio", None)

    def decide_safely(ts: Any) -> Any:
        if is_ours(ts):
            try:
                return decide(ts)
            except Exception:
                # Raised here it would leave Dask's scheduler half way in a transition. The worker
                # keeps limits all the same.
                logger.exception("dask_limits could not choose a worker for %r; Dask does", ts)
        return decide_worker(ts)

    scheduler.is_rootish = lambda ts: not is_ours(ts) and is_rootish(ts)
    scheduler.decide_worker_non_rootish = decide_safely
    if stealing is not None and steal_time_ratio is not None:
        stealing.steal_time_ratio = lambda ts: (None, None) if is_ours(ts) else steal_time_ratio(ts)

    def undo() -> None:
        for owner, name in places:
            vars(owner).pop(name, None)

    return undo
