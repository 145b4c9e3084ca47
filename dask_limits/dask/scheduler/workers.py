"""The workers that calls are placed on, as the scheduler tracks them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import distributed

from dask_limits.batch_systems.current_job import BatchJob
from dask_limits.dask.compat.scheduler import events
from dask_limits.placement.resources import WorkerResources


@dataclass(eq=False)
class TrackedWorker:
    """A worker that has reported what it has.

    Attributes:
        state: What Dask's scheduler knows of it: a `WorkerState`.
        leaves_because: Why it is being drained; empty if it is not.
        time_is_up: Whether calls still ran there when its job was about to end.
        idle_since: Since when it is idle because it has too little time left for what waits.
    """

    state: Any
    resources: WorkerResources
    job: BatchJob
    leaves_because: str = ""
    time_is_up: bool = False
    idle_since: float | None = None

    @property
    def name(self) -> str:
        """Its name in Dask, which may be a number there."""
        return str(self.state.name)

    @property
    def address(self) -> str:
        """Where it listens."""
        return str(self.state.address)


def removal_of(scheduler: distributed.Scheduler, address: str) -> dict[str, Any]:
    """The event that Dask logged when it last removed a worker; empty if there is none.

    Its "expected" says whether Dask knew that the worker would leave.
    """
    for _, event in reversed(events(scheduler, "all")):
        if event.get("action") == "remove-worker" and event.get("worker") == address:
            return dict(event)
    return {}
