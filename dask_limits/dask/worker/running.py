from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping
from typing import Any, Protocol

import distributed

from dask_limits.dask.running import LOOK, RUNNING, RunningCall
from dask_limits.dask.worker.batch_run import BatchRun
from dask_limits.limits.in_place import name_of
from dask_limits.limits.owner.guardian import Guardian


class Execution(Protocol):
    """A task that runs on a worker, or waits to be admitted."""

    batch: BatchRun


class RunningHere:
    """Tells the scheduler, when it asks, what the calls of a worker have used so far.

    `executions` are the tasks that run there, or wait to be admitted, by key.
    """

    def __init__(
        self,
        worker: distributed.Worker,
        guardian: Guardian,
        executions: Mapping[Hashable, Execution],
        send: Callable[[dict[str, Any]], object],
    ) -> None:
        self._worker = str(worker.name)
        self._guardian = guardian
        self._executions = executions
        self._send = send

    @property
    def handlers(self) -> dict[str, Callable[[], None]]:
        """What the scheduler can send."""
        return {LOOK: self._tell}

    def _tell(self) -> None:
        calls = self._guardian.running()
        found = {
            token: (key, number)
            for key, execution in [*self._executions.items()]
            for number, token in execution.batch.tokens.items()
        }
        rows = [
            RunningCall(*found[call.cancel], name_of(call.fn), self._worker, call.limits, usage).row
            for call, usage in calls
            if call.cancel in found
        ]
        self._send({"op": RUNNING, "rows": rows})
