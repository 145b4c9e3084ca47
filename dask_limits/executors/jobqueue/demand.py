"""How many workers the work on a Dask scheduler could use."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import distributed

from dask_limits.placement.resources import Room


def workers_for(scheduler: distributed.Scheduler, room: Room, target_duration_s: float) -> int:
    """How many workers would get all that waits and runs done in a given time.

    How long a task takes is what others of its name took, else its limit on wall time, else very
    long. One that takes less than the given time counts in proportion: a thousand short ones are
    no reason to wait for a thousand workers.

    Args:
        scheduler: Of this process.
        room: Of one worker.
        target_duration_s: That time, in seconds.
    """
    total = 0.0
    for task in _tasks(scheduler):
        limits = (task.annotations or {}).get("limits") or {}
        memory, cores = limits.get("memory") or 0, limits.get("cores") or 1
        share = max(cores / room.cores, memory / max(room.memory, 1))
        if share > 0.5:  # two of these never share a worker
            share = 1.0
        duration = task.prefix.duration_average
        if duration < 0:  # no other one of its name is done yet
            duration = limits.get("wall_time") or math.inf
        total += share * min(1.0, duration / target_duration_s)
    return math.ceil(total - 1e-9)


def has_waiting(scheduler: distributed.Scheduler) -> bool:
    """Whether there are tasks that more workers could take, or have to."""
    if scheduler.unrunnable or scheduler.queued:
        return True
    return any(len(worker.processing) > worker.nthreads for worker in scheduler.workers.values())


def _tasks(scheduler: distributed.Scheduler) -> Iterator[Any]:
    """All that can run now, or does."""
    yield from list(scheduler.unrunnable)
    yield from scheduler.queued
    for worker in scheduler.workers.values():
        yield from worker.processing
