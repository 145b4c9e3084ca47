"""Refusing calls that no worker can ever run, neither one that is there nor one that may come."""

from __future__ import annotations

import time
from collections.abc import Callable, Container, Hashable, Mapping
from dataclasses import replace
from typing import Any, Final

import distributed

from dask_limits.dask.compat.graphs import function_name
from dask_limits.dask.reservations import annotation_error
from dask_limits.dask.scheduler.tasks import addresses, fail, limits_of, where_of
from dask_limits.dask.scheduler.workers import TrackedWorker
from dask_limits.placement.policy import Placement
from dask_limits.placement.resources import WorkerResources

_BACK_S: Final = 30.0
"""For how long a worker that was lost may come back, restarted by its nanny."""


class Refusals:
    """Refuses calls that no worker can ever run.

    Args:
        scheduler: Dask's.
        placement: What decides where calls go.
        workers: The tracked workers, by address.
        place_soon: Called when there are calls to be failed, which `fail_refused` does.

    Attributes:
        new_worker: What a worker has that a batch system would start. With None, the default, calls
            are refused that no present worker can run.
    """

    def __init__(
        self,
        scheduler: distributed.Scheduler,
        placement: Placement,
        workers: Mapping[str, TrackedWorker],
        place_soon: Callable[[], None],
    ) -> None:
        self.new_worker: WorkerResources | None = None
        self._has_seen_new_worker = False
        self._scheduler = scheduler
        self._placement = placement
        self._workers = workers
        self._place_soon = place_soon
        self._lost: list[tuple[float, WorkerResources]] = []  # with the time until it may come back
        self._refused: dict[Hashable, Exception] = {}

    def refuse_if_too_large(self, ts: Any) -> bool:
        """Refuse a task if it asks for more than any worker has. Returns whether it does."""
        error = annotation_error(function_name(ts.key), limits_of(ts), self._workers_for(ts))
        if error is None:
            return False
        self._refused[ts.key] = error
        self._place_soon()
        return True

    def review(self) -> None:
        """Refuse what waits, now that workers have come."""
        for key in list(self._placement.waiting):
            if self.refuse_if_too_large(self._scheduler.tasks[key]):
                self._placement.dequeue(key)

    def fail_refused(self) -> None:
        """End the tasks that were refused, once Dask is through with what it is doing."""
        if self._refused:
            refused, self._refused = self._refused, {}
            fail(self._scheduler, refused)

    def forget(self, key: Hashable) -> None:
        """A task has ended."""
        self._refused.pop(key, None)

    def new_worker_came(self, resources: WorkerResources) -> None:
        """A worker has come from the batch system, with more or less than was asked for.

        Of several the best counts. Otherwise a call for which all of them are too small would wait,
        and job after job would be submitted for it.
        """
        if self.new_worker is None:
            return
        memory, cores = resources.memory, resources.cores
        if self._has_seen_new_worker:
            memory = max(memory, self.new_worker.memory)
            cores = max(cores, self.new_worker.cores)
        self._has_seen_new_worker = True
        self.new_worker = replace(self.new_worker, memory=memory, cores=cores)

    def may_come_back(self, resources: WorkerResources) -> None:
        """A worker was lost, and may be restarted."""
        self._lost.append((time.monotonic() + _BACK_S, resources))

    def _workers_for(self, ts: Any) -> list[WorkerResources]:
        """What workers have that are there, or may come, for such a task; empty if not known."""
        if not self._scheduler.workers and self.new_worker is None:
            return []
        if len(self._workers) < len(self._scheduler.workers):
            return []  # some have yet to report what they have
        allowed: Container[str] | None = addresses(self._scheduler, where_of(ts))
        if allowed:
            return [w.resources for address, w in self._workers.items() if address in allowed]
        now = time.monotonic()
        self._lost = [(until, resources) for until, resources in self._lost if until > now]
        return [
            *(worker.resources for worker in self._workers.values()),
            *([] if self.new_worker is None else [self.new_worker]),
            *(resources for _, resources in self._lost),
        ]
