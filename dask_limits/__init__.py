"""An event-driven scheduler for Dask and local executors; every task runs under its own limits."""

from typing import TYPE_CHECKING, Any

from dask_limits import exceptions
from dask_limits.events import Event
from dask_limits.executors import SequentialExecutor
from dask_limits.exit_state import ExitState
from dask_limits.limits import Limits, Outcome, Usage, limit, progress
from dask_limits.plugins import Limiter, Plugin, PynisherPlugin, Retry
from dask_limits.requeue import Requeue
from dask_limits.scheduler import Scheduler
from dask_limits.task import Task

if TYPE_CHECKING:
    from dask_limits.enforce import enforce_limits
    from dask_limits.worker import LimitsWorkerPlugin, annotate, usages

__all__ = [
    "Event",
    "ExitState",
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
    "annotate",
    "enforce_limits",
    "exceptions",
    "limit",
    "progress",
    "usages",
]

_FROM_WORKER = ("LimitsWorkerPlugin", "annotate", "usages")  # these import Dask
_FROM_ENFORCE = (
    "AnythingException",
    "CpuTimeoutException",
    "MemorylimitException",
    "PynisherError",
    "SignalException",
    "SubprocessException",
    "TimeoutException",
    "enforce_limits",
)


def __getattr__(name: str) -> Any:
    if name in _FROM_WORKER:
        from dask_limits import worker

        return getattr(worker, name)
    if name in _FROM_ENFORCE:
        from dask_limits import enforce

        return getattr(enforce, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
