"""The only import of dask_jobqueue, which would otherwise change the handler of Ctrl-C."""

from __future__ import annotations

from typing import Any, Final

from dask_limits.dask.compat.jobqueue import check_jobqueue, import_jobqueue

check_jobqueue()
dask_jobqueue: Final[Any] = import_jobqueue()
Job: Final[Any] = dask_jobqueue.core.Job
JobQueueCluster: Final[Any] = dask_jobqueue.core.JobQueueCluster

__all__ = ["Job", "JobQueueCluster", "dask_jobqueue"]
