"""The tasks that we place, as Dask's scheduler knows them: which, in what order, and where."""

from __future__ import annotations

from collections.abc import Container, Hashable
from types import SimpleNamespace
from typing import Any, NamedTuple

import distributed

from dask_limits.placement.queue import Request


def is_ours(ts: Any) -> bool:
    """Whether we place a task, and keep account of where it runs."""
    # Also calls of the facade without limits, which run in Dask's threads: theirs are empty.
    # Actors run in the worker itself, and Dask does not let them wait.
    return bool(ts.annotations) and "limits" in ts.annotations and not ts.actor


def order_of(ts: Any, request: Request) -> tuple[float, ...]:
    """Dask's order; but of what was submitted at about the same time, the largest goes first.

    "First-fit decreasing" packs better: a large call that comes last runs alone, and one that comes
    between small ones has a worker cleared for it each time. Dask begins a new generation of tasks
    every 0.1 s, so what comes later passes nothing.
    """
    user_priority, generation, *rest = ts.priority
    return (user_priority, generation, -request.memory, -request.cores, *rest)


class Where(NamedTuple):
    """On which workers calls may run, as Dask has it."""

    workers: frozenset[str]
    hosts: frozenset[str]
    resources: frozenset[tuple[str, float]]
    is_loose: bool


def where_of(ts: Any) -> Where | None:
    """On which workers a task may run, as the user has asked; None for all."""
    if not (ts.worker_restrictions or ts.host_restrictions or ts.resource_restrictions):
        return None
    return Where(
        frozenset(ts.worker_restrictions or ()),
        frozenset(ts.host_restrictions or ()),
        frozenset((ts.resource_restrictions or {}).items()),
        bool(ts.loose_restrictions),
    )


def addresses(scheduler: distributed.Scheduler, where: Hashable) -> Container[str] | None:
    """The workers on which Dask lets tasks run that ask for certain ones; None for all."""
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
