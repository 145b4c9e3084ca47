"""Dask clusters whose workers are jobs of a batch system: SLURM, PBS, SGE, LSF, OAR, ..."""

from dask_limits.executors.jobqueue.executor import JobQueueExecutor
from dask_limits.executors.jobqueue.spec import JobSpec

__all__ = ["JobQueueExecutor", "JobSpec"]
