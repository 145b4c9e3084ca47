"""Draining workers: they take no more calls, finish those that they have, and leave.

This is for workers whose batch job is about to end, and for idle ones that have too little time
left for the calls that wait.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable, Hashable, Mapping
from typing import Final

import distributed
from distributed import Status

from dask_limits.dask.compat.scheduler import change_status
from dask_limits.dask.scheduler.background import Background
from dask_limits.dask.scheduler.workers import TrackedWorker, log
from dask_limits.placement.policy import Placement

_LOOK_EVERY_S: Final = 0.1
_IDLE_S: Final = 5.0
"""How long a worker is idle, with too little time left for all that waits, before it is drained."""


class Draining:
    """Drains workers of one Dask scheduler.

    Args:
        scheduler: Dask's.
        placement: What decides where calls go.
        workers: The tracked workers, by address.
        background: What runs while they leave.
        ask_back: Has a worker give back a call that has not started there.
        place_soon: Called when calls are to be placed again.
    """

    def __init__(
        self,
        scheduler: distributed.Scheduler,
        placement: Placement,
        workers: Mapping[str, TrackedWorker],
        background: Background,
        ask_back: Callable[[Hashable, str], None],
        place_soon: Callable[[], None],
    ) -> None:
        self._scheduler = scheduler
        self._placement = placement
        self._workers = workers
        self._background = background
        self._ask_back = ask_back
        self._place_soon = place_soon

    def worker_came(self, worker: TrackedWorker) -> None:
        """Drain a worker when its batch job is about to end, if it runs in one."""
        name = _timer_of(worker.address)
        self._background.cancel_timer(name)  # it may have been here before
        seconds = worker.resources.time_left(time.monotonic())
        if seconds < math.inf:
            self._background.later(
                name, seconds, lambda: self.drain(worker, "its job is about to end")
            )

    def worker_left(self, address: str) -> None:
        """A worker has left, or its plugin was removed."""
        self._background.cancel_timer(_timer_of(address))

    def drain(self, worker: TrackedWorker, why: str) -> None:
        """Give a worker no more calls, and let it leave when those that it has are done."""
        if self._workers.get(worker.address) is not worker or worker.leaves_because:
            return
        worker.leaves_because = why
        self._placement.set_open(worker.address, False)
        log(self._scheduler, worker, "worker-draining", reason=why)
        for key in self._placement.calls_at(worker.address):
            if self._placement.is_prefetched(key):
                self._ask_back(key, worker.address)
        self._place_soon()
        self._background.run(self._let_leave(worker))

    def drain_idle(self, now: float) -> None:
        """Drain workers that are idle only because what waits needs more time than they have."""
        if not self._placement.waiting:
            return
        for address, worker in self._workers.items():
            state = self._scheduler.workers.get(address)
            if state is None or state.processing or not self._placement.is_too_late(address, now):
                worker.idle_since = None
            elif worker.idle_since is None:
                worker.idle_since = now
                self._background.later(f"idle-{address}", _IDLE_S, self._place_soon)
            elif now >= worker.idle_since + 0.9 * _IDLE_S:
                self.drain(worker, "its job has too little time left for the waiting calls")

    def _is_busy(self, worker: TrackedWorker) -> bool:
        calls = self._placement.calls_at(worker.address)
        return any(not self._placement.is_prefetched(key) for key in calls)

    async def _let_leave(self, worker: TrackedWorker) -> None:
        """Let a worker finish what it runs, then move its results to others and close it.

        Dask's `retire_workers` does not wait for tasks that run: they would run twice. So it comes
        last, in time for the results to be moved. If they cannot be, because there is no other
        worker, it is tried again until the job ends.
        """
        scheduler, address = self._scheduler, worker.address
        state = scheduler.workers.get(address)
        if state is None:
            return
        stimulus_id = f"dask-limits-drain-{time.time()}"
        # As retire_workers does it: from now on Dask sends no more tasks there, and the worker
        # starts none of those that it has.
        change_status(scheduler, state, Status.closing_gracefully, stimulus_id)
        change = {"op": "worker-status-change", "status": Status.closing_gracefully.name}
        scheduler.worker_send(address, change | {"stimulus_id": stimulus_id})
        told_at = time.time()
        last_moment = worker.resources.ends_at - worker.resources.margin / 2
        while time.monotonic() < last_moment:
            # With each heartbeat the worker says which of Dask's own tasks run there.
            heard = state.last_seen > told_at
            is_idle = not (state.executing.keys() & set(state.processing))
            if not self._is_busy(worker) and heard and is_idle:
                break
            await asyncio.sleep(_LOOK_EVERY_S)
        else:
            worker.time_is_up = self._is_busy(worker)
        while scheduler.workers.get(address) is state:
            await scheduler.retire_workers(
                workers=[address], close_workers=True, stimulus_id=stimulus_id
            )
            await asyncio.sleep(_LOOK_EVERY_S)


def _timer_of(address: str) -> str:
    return f"end-{address}"
