"""The facade: schedulers, their tasks and their runs."""

from dask_limits.scheduler.exit_state import ExitState
from dask_limits.scheduler.requeue import Requeue
from dask_limits.scheduler.scheduler import Scheduler
from dask_limits.scheduler.task import Task

__all__ = ["ExitState", "Requeue", "Scheduler", "Task"]
