"""The tasks that we place, as Dask's scheduler knows them: which, in what order, and where."""

from __future__ import annotations

import time
from collections.abc import Container, Hashable
from types import SimpleNamespace
from typing import Any, NamedTuple

import cloudpickle
import distributed

from dask_limits.placement.resources import Request


def is_ours(ts: Any) -> bool:
    """Whether we place a task, and keep account of where it runs."""
    # This includes the facade's calls without limits, which run in Dask's threads: their limits are
    # empty. Actors run in the worker itself, and Dask does not let them wait.
    return bool(ts.annotations) and "limits" in ts.annotations and not ts.actor


def limits_of(ts: Any) -> dict[str, Any]:
    """The limits in the annotations of a task of ours."""
    limits: dict[str, Any] = ts.annotations["limits"]
    return limits


def is_waiting(scheduler: distributed.Scheduler, key: Hashable) -> bool:
    """Whether Dask could send a task to a worker now, if we let it."""
    ts = scheduler.tasks.get(key)
    return ts is not None and ts.state == "no-worker"


def fail(scheduler: distributed.Scheduler, errors: dict[Hashable, Exception]) -> None:
    """End tasks that wait, for a worker or for other tasks, with an error each."""
    failed = {}
    for key, error in errors.items():
        ts = scheduler.tasks.get(key)
        if ts is None or ts.state not in ("released", "waiting", "no-worker"):
            continue
        ts.exception, ts.exception_text = cloudpickle.dumps(error), repr(error)
        ts.exception_blame = ts
        failed[key] = "erred"
    scheduler.transitions(failed, f"dask-limits-error-{time.time()}")


def order_of(ts: Any, request: Request) -> tuple[float, ...]:
    """Dask's order, except that of tasks submitted at about the same time the largest goes first.

    "First-fit decreasing" packs better: a large call that comes last runs alone, and one that comes
    between small ones has a worker cleared for it each time. Dask begins a new generation of tasks
    every 0.1 s, so that later tasks overtake nothing.
    """
    user_priority, generation, *rest = ts.priority
    return (user_priority, generation, -request.memory, -request.cores, *rest)


class Where(NamedTuple):
    """Which workers tasks may run on, as Dask describes it."""

    workers: frozenset[str]
    hosts: frozenset[str]
    resources: frozenset[tuple[str, float]]
    is_loose: bool


def where_of(ts: Any) -> Where | None:
    """Which workers a task may run on, as the user has asked; None for all."""
    if not (ts.worker_restrictions or ts.host_restrictions or ts.resource_restrictions):
        return None
    return Where(
        frozenset(ts.worker_restrictions or ()),
        frozenset(ts.host_restrictions or ()),
        frozenset((ts.resource_restrictions or {}).items()),
        bool(ts.loose_restrictions),
    )


def addresses(scheduler: distributed.Scheduler, where: Hashable) -> Container[str] | None:
    """The workers on which Dask lets such tasks run; None for all."""
    if where is None:
        return None
    assert isinstance(where, Where)
    asked = SimpleNamespace(
        worker_restrictions=where.workers,
        host_restrictions=where.hosts,
        resource_restrictions=dict(where.resources),
    )
    valid = scheduler.valid_workers(asked)
    if valid is None or (where.is_loose and not valid):
        return None
    return {state.address for state in valid}
