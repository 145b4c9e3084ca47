"""An event-driven scheduler for Dask and local executors; every task runs under its own limits."""

from typing import TYPE_CHECKING, Any

from dask_limits import exceptions
from dask_limits.events import Event
from dask_limits.executors import SequentialExecutor
from dask_limits.exit_state import ExitState
from dask_limits.limits import Limits, Outcome, Usage, limit
from dask_limits.plugins import Limiter, Plugin, PynisherPlugin
from dask_limits.requeue import Requeue
from dask_limits.scheduler import Scheduler
from dask_limits.task import Task

if TYPE_CHECKING:
    from dask_limits.worker import LimitsWorkerPlugin, annotate

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
    "Scheduler",
    "SequentialExecutor",
    "Task",
    "Usage",
    "annotate",
    "exceptions",
    "limit",
]


def __getattr__(name: str) -> Any:
    if name in ("LimitsWorkerPlugin", "annotate"):  # these import Dask
        from dask_limits import worker

        return getattr(worker, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
