from __future__ import annotations

from collections.abc import Callable, Iterator

import distributed

from dask_limits.dask.compat.worker import add_to_metrics
from dask_limits.dask.metrics_page import Gauge, publish, withdraw
from dask_limits.dask.worker.admission import AdmissionControl
from dask_limits.dask.worker.own_processes import OwnProcesses
from dask_limits.limits.owner.guardian import Guardian


class Shown:
    """Has Dask show of a worker what limited calls use there: on the dashboard, and in `/metrics`.

    This begins when it is made, and ends with `stop()`.
    """

    def __init__(
        self,
        worker: distributed.Worker,
        guardian: Guardian,
        admission: Callable[[], AdmissionControl],
    ) -> None:
        self._guardian = guardian
        self._admission = admission
        self._processes = OwnProcesses(guardian)
        self._undo = add_to_metrics(worker, self._processes.measure)
        publish(self, self._gauges)

    def stop(self) -> None:
        """Show it no more. It does no harm to repeat this."""
        self._undo()
        withdraw(self)

    def _gauges(self) -> Iterator[Gauge]:
        admission, of = self._admission(), "of a worker, for limited calls."
        for name, description, value in (
            ("reserved_memory_bytes", f"Reserved memory {of}", admission.reserved_memory),
            ("free_memory_bytes", f"Memory that is not reserved {of}", admission.free_memory),
            ("task_processes", f"Task processes {of}", self._guardian.n_task_processes),
            ("processes_memory_bytes", f"Memory of all processes {of}", self._processes.memory),
        ):
            yield Gauge(f"dask_limits_worker_{name}", description, value)
