"""Refusing calls that no worker can ever run, neither one that is there nor one that may come."""

from __future__ import annotations

import time
from collections.abc import Hashable
from dataclasses import replace
from typing import Any, Final

from dask_limits.dask.batch import call_name
from dask_limits.dask.reservations import annotation_error
from dask_limits.dask.scheduler.cluster import Cluster
from dask_limits.dask.scheduler.tasks import where_of
from dask_limits.limits import call_log
from dask_limits.placement.resources import WorkerResources

_BACK_S: Final = 30.0
"""For how long a worker that was lost may come back, restarted by its nanny."""


class Refusals:
    """Refuses calls that no worker can ever run."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self._has_seen_new_worker = False
        self._lost: list[tuple[float, WorkerResources]] = []  # with the time until it may come back
        self._refused: dict[Hashable, Exception] = {}

    def refuse_if_too_large(self, ts: Any) -> bool:
        """Refuse a task if it asks for more than any worker has. Returns whether it does."""
        error = annotation_error(call_name(ts.key), ts.annotations["limits"], self._workers_for(ts))
        if error is None:
            return False
        self._refused[ts.key] = error
        self._cluster.place_soon()
        return True

    def review(self) -> None:
        """Refuse what waits, now that workers have come."""
        for key in list(self._cluster.placement.waiting):
            if self.refuse_if_too_large(self._cluster.scheduler.tasks[key]):
                self._cluster.placement.dequeue(key)

    def fail_refused(self) -> None:
        """End the tasks that were refused, once Dask is through with what it is doing."""
        if self._refused:
            refused, self._refused = self._refused, {}
            for key, error in refused.items():
                call_log.count_here(call_name(key), error)
            self._cluster.fail(refused)

    def forget(self, key: Hashable) -> None:
        """A task has ended."""
        self._refused.pop(key, None)

    def new_worker_came(self, resources: WorkerResources) -> None:
        """A worker has come from the batch system, with more or less than was asked for.

        Of several the best counts. Otherwise a call for which all of them are too small would wait,
        and job after job would be submitted for it.
        """
        new = self._cluster.new_worker
        if new is None:
            return
        memory, cores = resources.memory, resources.cores
        if self._has_seen_new_worker:
            memory, cores = max(memory, new.memory), max(cores, new.cores)
        self._has_seen_new_worker = True
        self._cluster.new_worker = replace(new, memory=memory, cores=cores)

    def may_come_back(self, resources: WorkerResources) -> None:
        """A worker was lost, and may be restarted."""
        self._lost.append((time.monotonic() + _BACK_S, resources))

    def _workers_for(self, ts: Any) -> list[WorkerResources]:
        """What workers have that are there, or may come, for such a task; empty if not known."""
        tracked, new_worker = self._cluster.workers, self._cluster.new_worker
        n_workers = len(self._cluster.scheduler.workers)
        if len(tracked) < n_workers or (n_workers == 0 and new_worker is None):
            return []  # others have yet to come, or to report what they have
        if allowed := self._cluster.allowed(where_of(ts)):
            return [one.placed.resources for at, one in tracked.items() if at in allowed]
        now = time.monotonic()
        self._lost = [(until, resources) for until, resources in self._lost if until > now]
        return [
            *self._cluster.kinds,  # of a thousand equal workers, one
            *([] if new_worker is None else [new_worker]),
            *(resources for _, resources in self._lost),
        ]
