"""Leaving in order: a worker whose batch job is about to end."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Final

import distributed
from distributed import Status

from dask_limits.dask.compat.scheduler import change_status
from dask_limits.placement.resources import Room

_LOOK_EVERY_S: Final = 0.1


async def leave_in_time(
    scheduler: distributed.Scheduler,
    address: str,
    room: Room,
    is_busy: Callable[[], bool],
    time_is_up: Callable[[], None],
) -> None:
    """Let a worker finish what it runs, then move its results to others and close it.

    Dask's `retire_workers` does not wait for tasks that run: they would run twice. So it comes
    last, in time for the results to be moved. Where they cannot be, for want of another worker, it
    is tried again until the job ends.

    Args:
        scheduler: Dask's.
        address: The worker's.
        room: With the end of its job.
        is_busy: Whether limited calls run there.
        time_is_up: Called if they still do at the last sensible moment.
    """
    state = scheduler.workers.get(address)
    if state is None:
        return
    stimulus_id = f"dask-limits-retire-{time.time()}"
    # As retire_workers does it: from now on Dask sends no more tasks there, and the worker begins
    # none of those that it has.
    change_status(scheduler, state, Status.closing_gracefully, stimulus_id)
    change = {"op": "worker-status-change", "status": Status.closing_gracefully.name}
    scheduler.worker_send(address, change | {"stimulus_id": stimulus_id})
    told_at = time.time()
    last_moment = room.ends_at - room.margin / 2
    while time.monotonic() < last_moment:
        # Which of Dask's own tasks run there, its worker says with each heartbeat.
        heard = state.last_seen > told_at
        if not is_busy() and heard and not (state.executing.keys() & set(state.processing)):
            break
        await asyncio.sleep(_LOOK_EVERY_S)
    else:
        if is_busy():
            time_is_up()
    while scheduler.workers.get(address) is state:
        await scheduler.retire_workers(
            workers=[address], close_workers=True, stimulus_id=stimulus_id
        )
        await asyncio.sleep(_LOOK_EVERY_S)
