"""The tasks that we place, as Dask's scheduler knows them: which, in what order, and where."""

from __future__ import annotations

from typing import Any, NamedTuple

from dask_limits.placement.resources import Request


def is_ours(ts: Any) -> bool:
    """Whether we place a task, and keep account of where it runs."""
    # This includes the facade's calls without limits, which run in Dask's threads: their limits are
    # empty. Actors run in the worker itself, and Dask does not let them wait.
    return bool(ts.annotations) and "limits" in ts.annotations and not ts.actor


def order_of(ts: Any, request: Request) -> tuple[float, ...]:
    """Dask's order, except that of tasks submitted at about the same time the largest goes first.

    "First-fit decreasing" packs better: a large call that comes last runs alone, and one that comes
    between small ones has a worker cleared for it each time. Dask begins a new generation of tasks
    every 0.1 s, so that later tasks overtake nothing.
    """
    user_priority, generation, *rest = ts.priority
    return (user_priority, generation, -request.memory, -request.cores, *rest)


class Where(NamedTuple):
    """Which workers tasks may run on, with what Dask's `valid_workers` reads of a task."""

    worker_restrictions: frozenset[str]
    host_restrictions: frozenset[str]
    resources: frozenset[tuple[str, float]]
    is_loose: bool

    @property
    def resource_restrictions(self) -> dict[str, float]:
        """How much of each of Dask's abstract resources a task needs."""
        return dict(self.resources)


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
