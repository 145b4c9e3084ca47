from __future__ import annotations

import math

from dask_limits.dask.reservations import job_resources, refusal_error
from dask_limits.exceptions import LimitRefusedError
from dask_limits.executors.jobqueue.spec import JobSpec
from dask_limits.limits import Limits


def refusal_of(spec: JobSpec, limits: Limits, name: str) -> LimitRefusedError | None:
    """The error of a call that no worker of these jobs could ever run; None if one could.

    Args:
        spec: The jobs.
        limits: The limits of the call.
        name: The name of its function, for the error.
    """
    worker = job_resources(spec.memory, spec.cores, spec.walltime_s or math.inf)
    return refusal_error(name, limits, [worker])
