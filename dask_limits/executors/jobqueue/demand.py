"""How many workers the work on a Dask scheduler could use."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from typing import NamedTuple

import distributed

from dask_limits.placement.resources import WorkerResources


class Work(NamedTuple):
    """A task that runs, or could run now."""

    memory: float = 0  # bytes that it reserves
    cores: int = 1  # that it reserves
    seconds: float = math.inf  # how long it is expected to run; infinity if nothing is known


def workers_for(work: Iterable[Work], worker: WorkerResources, target_duration_s: float) -> int:
    """How many such workers would finish the work within the target duration.

    A task that is shorter than the target duration counts in proportion: a thousand short tasks
    are no reason to ask for a thousand workers.
    """
    total = 0.0
    for task in work:
        share = max(task.cores / worker.cores, task.memory / max(worker.memory, 1))
        if share > 0.5:  # two such tasks never share a worker
            share = 1.0
        total += share * min(1.0, task.seconds / target_duration_s)
    return math.ceil(total - 1e-9)


def work_of(scheduler: distributed.Scheduler) -> Iterator[Work]:
    """The tasks of a scheduler that run, or could run now.

    A task is expected to run as long as others of its name did, else up to its wall-time limit.
    """
    running = [task for worker in scheduler.workers.values() for task in worker.processing]
    for task in [*scheduler.unrunnable, *scheduler.queued, *running]:
        limits = (task.annotations or {}).get("limits") or {}
        seconds = task.prefix.duration_average
        if seconds < 0:  # no task of this name is done yet
            seconds = limits.get("wall_time") or math.inf
        yield Work(limits.get("memory") or 0, limits.get("cores") or 1, seconds)


def has_waiting(scheduler: distributed.Scheduler) -> bool:
    """Whether tasks wait that more workers could run."""
    if scheduler.unrunnable or scheduler.queued:
        return True
    return any(len(worker.processing) > worker.nthreads for worker in scheduler.workers.values())
