"""How many workers the work on a Dask scheduler could use."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import distributed

from dask_limits.placement.resources import WorkerResources


class Work(NamedTuple):
    """A task that runs, or could run now.

    Attributes:
        memory: Bytes that it reserves.
        cores: Cores that it reserves.
        seconds: How long it is expected to run; infinity if nothing is known.
    """

    memory: float = 0
    cores: int = 1
    seconds: float = math.inf


def workers_for(work: Iterable[Work], worker: WorkerResources, target_duration_s: float) -> int:
    """How many workers would finish the work within the target duration.

    A task that is shorter than the target duration counts in proportion: a thousand short tasks
    are no reason to ask for a thousand workers.

    Args:
        work: The tasks.
        worker: What each worker has.
        target_duration_s: In seconds.

    Example:
        >>> workers_for([Work(seconds=1)] * 20, WorkerResources(cores=2), target_duration_s=5)
        2
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
    for task in _tasks(scheduler):
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


def _tasks(scheduler: distributed.Scheduler) -> Iterator[Any]:
    yield from list(scheduler.unrunnable)
    yield from scheduler.queued
    for worker in scheduler.workers.values():
        yield from worker.processing
