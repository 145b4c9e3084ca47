"""Draining workers: they take no more calls, finish those that they have, and leave.

This is for workers whose batch job is about to end, and for idle ones that have too little time
left for the calls that wait.
"""

from __future__ import annotations

import asyncio
import math
import time
from typing import Final

from distributed import Status

from dask_limits.dask.compat.scheduler import change_status
from dask_limits.dask.scheduler.cluster import Cluster, TrackedWorker

_LOOK_EVERY_S: Final = 0.1
_IDLE_S: Final = 5.0
"""How long a worker is idle, with too little time left for all that waits, before it is drained."""


def drain_in_time(cluster: Cluster, worker: TrackedWorker) -> None:
    """Drain a worker when its batch job is about to end, if it runs in one."""
    stop_timer(cluster, worker.address)  # it may have been here before
    seconds = worker.placed.resources.time_left(time.monotonic())
    if seconds < math.inf:
        why = "its job is about to end"
        cluster.later(f"end-{worker.address}", seconds, lambda: drain(cluster, worker, why))


def stop_timer(cluster: Cluster, address: str) -> None:
    """Undo `drain_in_time`."""
    cluster.cancel_timer(f"end-{address}")


def drain_idle(cluster: Cluster, now: float) -> None:
    """Drain workers that are idle only because what waits needs more time than they have."""
    if not cluster.placement.waiting:
        return
    for address, worker in cluster.workers.items():
        state = cluster.scheduler.workers.get(address)
        if state is None or state.processing or not cluster.placement.is_too_late(address):
            worker.idle_since = None
        elif worker.idle_since is None:
            worker.idle_since = now
            cluster.later(f"idle-{address}", _IDLE_S, cluster.place_soon)
        elif now >= worker.idle_since + 0.9 * _IDLE_S:
            drain(cluster, worker, "its job has too little time left for the waiting calls")


def drain(cluster: Cluster, worker: TrackedWorker, why: str) -> None:
    """Give a worker no more calls, and let it leave when those that it has are done."""
    if cluster.workers.get(worker.address) is not worker or worker.leaves_because:
        return
    worker.leaves_because = why
    cluster.placement.set_open(worker.address, False)
    cluster.log(worker, "worker-draining", reason=why)
    if worker.placed.prefetched is not None:
        cluster.ask_back(worker.placed.prefetched.key, worker.address)
    cluster.place_soon()
    cluster.run(_let_leave(cluster, worker))


async def _let_leave(cluster: Cluster, worker: TrackedWorker) -> None:
    """Let a worker finish what it runs, then move its results to others and close it.

    Dask's `retire_workers` does not wait for tasks that run: they would run twice. So it comes
    last, in time for the results to be moved. If they cannot be, because there is no other worker,
    it is tried again until the job ends.
    """
    scheduler, address = cluster.scheduler, worker.address
    state = scheduler.workers.get(address)
    if state is None:
        return
    stimulus_id = f"dask-limits-drain-{time.time()}"
    # As retire_workers does it: from now on Dask sends no more tasks there, and the worker starts
    # none of those that it has.
    change_status(scheduler, state, Status.closing_gracefully, stimulus_id)
    change = {"op": "worker-status-change", "status": Status.closing_gracefully.name}
    scheduler.worker_send(address, change | {"stimulus_id": stimulus_id})
    told_at = time.time()
    last_moment = worker.placed.resources.ends_at - worker.placed.resources.margin / 2
    while time.monotonic() < last_moment:
        # With each heartbeat the worker says which of Dask's own tasks run there.
        heard = state.last_seen > told_at
        is_idle = not (state.executing.keys() & set(state.processing))
        if heard and is_idle and not worker.placed.running:
            break
        await asyncio.sleep(_LOOK_EVERY_S)
    else:
        worker.time_is_up = bool(worker.placed.running)
    while scheduler.workers.get(address) is state:
        await scheduler.retire_workers(
            workers=[address], close_workers=True, stimulus_id=stimulus_id
        )
        await asyncio.sleep(_LOOK_EVERY_S)
