from __future__ import annotations

from dask_limits.dask.reservations import refused, request_of
from dask_limits.dask.scheduler.workers import Capacity
from dask_limits.exceptions import LimitRefusedError
from dask_limits.executors.jobqueue.spec import JobSpec
from dask_limits.limits import Limits
from dask_limits.placement.resources import refusal


def refusal_of(spec: JobSpec, limits: Limits, name: str) -> LimitRefusedError | None:
    """The error of a call that no worker of these jobs could ever run; None if one could.

    Args:
        spec: The jobs.
        limits: The limits of the call.
        name: The name of its function, for the error.
    """
    asked = limits.as_dict()
    room = Capacity(spec.memory, spec.cores, spec.walltime_s).room()
    why = refusal(request_of(asked), [room])
    return None if why is None else refused(name, asked, why)
