"""An event-driven scheduler for Dask and local executors; every task runs under its own limits."""

import importlib
from typing import TYPE_CHECKING, Any

from dask_limits import exceptions, units
from dask_limits.batch_systems.job_state import JobState
from dask_limits.events import Event
from dask_limits.executors import SequentialExecutor
from dask_limits.executors.cluster import WorkerInfo
from dask_limits.limits import ChildProcess, Limits, Outcome, Usage, limit, preload, progress
from dask_limits.plugins import Limiter, Plugin, PynisherPlugin, Retry
from dask_limits.scheduler import ExitState, Requeue, Scheduler, Task

if TYPE_CHECKING:
    from dask_limits.dask.compat.all_names import dask_names
    from dask_limits.dask.graphs.annotations import annotate
    from dask_limits.dask.usage_log import usages
    from dask_limits.dask.worker.plugin import LimitsWorkerPlugin
    from dask_limits.executors.dask.probe import probe_scheduler
    from dask_limits.old_pynisher.enforce_limits import enforce_limits

__all__ = [
    "ChildProcess",
    "Event",
    "ExitState",
    "JobState",
    "Limiter",
    "Limits",
    "LimitsWorkerPlugin",
    "Outcome",
    "Plugin",
    "PynisherPlugin",
    "Requeue",
    "Retry",
    "Scheduler",
    "SequentialExecutor",
    "Task",
    "Usage",
    "WorkerInfo",
    "annotate",
    "dask_names",
    "enforce_limits",
    "exceptions",
    "limit",
    "preload",
    "probe_scheduler",
    "progress",
    "units",
    "usages",
]

_LAZY = {  # by the module each is in: these import Dask, or are for old scripts alone
    "LimitsWorkerPlugin": "dask_limits.dask.worker.plugin",
    "annotate": "dask_limits.dask.graphs.annotations",
    "dask_names": "dask_limits.dask.compat.all_names",
    "probe_scheduler": "dask_limits.executors.dask.probe",
    "usages": "dask_limits.dask.usage_log",
} | dict.fromkeys(
    (
        "AnythingException",
        "CpuTimeoutException",
        "MemorylimitException",
        "PynisherError",
        "SignalException",
        "SubprocessException",
        "TimeoutException",
        "enforce_limits",
    ),
    "dask_limits.old_pynisher.enforce_limits",
)


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        return getattr(importlib.import_module(_LAZY[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
