"""An event-driven scheduler for Dask and local executors; every task runs under its own limits."""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    __version__: str
    from dask_limits import exceptions, optuna, units
    from dask_limits.batch_systems.job_state import JobState
    from dask_limits.commands.command import Command, command
    from dask_limits.commands.result import CommandResult
    from dask_limits.dask.compat.all_names import dask_names
    from dask_limits.dask.graphs.annotations import annotate
    from dask_limits.dask.usage_log import usages
    from dask_limits.dask.worker.plugin import LimitsWorkerPlugin
    from dask_limits.display.live import Display
    from dask_limits.events import Event
    from dask_limits.executors.cluster import WorkerInfo
    from dask_limits.executors.dask.probe import probe_scheduler
    from dask_limits.executors.limited import LimitedExecutor
    from dask_limits.executors.sequential import SequentialExecutor
    from dask_limits.journal.journal import Journal
    from dask_limits.limits.functions import limit
    from dask_limits.limits.limits import Limits
    from dask_limits.limits.outcome import ChildProcess, Outcome, Usage
    from dask_limits.limits.preload import preload
    from dask_limits.limits.progress import progress
    from dask_limits.limits.share import share
    from dask_limits.old_pynisher.enforce_limits import enforce_limits
    from dask_limits.plugins.base import Plugin
    from dask_limits.plugins.limiter import Limiter
    from dask_limits.plugins.pynisher import PynisherPlugin
    from dask_limits.plugins.retry import Retry
    from dask_limits.report.report import Report
    from dask_limits.scheduler.exit_state import ExitState
    from dask_limits.scheduler.requeue import Requeue
    from dask_limits.scheduler.scheduler import Scheduler
    from dask_limits.scheduler.task import Task

__all__ = [
    "ChildProcess",
    "Command",
    "CommandResult",
    "Display",
    "Event",
    "ExitState",
    "JobState",
    "Journal",
    "LimitedExecutor",
    "Limiter",
    "Limits",
    "LimitsWorkerPlugin",
    "Outcome",
    "Plugin",
    "PynisherPlugin",
    "Report",
    "Requeue",
    "Retry",
    "Scheduler",
    "SequentialExecutor",
    "Task",
    "Usage",
    "WorkerInfo",
    "annotate",
    "command",
    "dask_names",
    "enforce_limits",
    "exceptions",
    "limit",
    "optuna",
    "preload",
    "probe_scheduler",
    "progress",
    "share",
    "units",
    "usages",
]

# Each name is imported when it is asked for. A guardian and its task processes, for which this file
# is run too, ask for none.
_MODULES = {
    "ChildProcess": "limits.outcome",
    "Command": "commands.command",
    "CommandResult": "commands.result",
    "Display": "display.live",
    "Event": "events",
    "ExitState": "scheduler.exit_state",
    "JobState": "batch_systems.job_state",
    "Journal": "journal.journal",
    "LimitedExecutor": "executors.limited",
    "Limiter": "plugins.limiter",
    "Limits": "limits.limits",
    "LimitsWorkerPlugin": "dask.worker.plugin",
    "Outcome": "limits.outcome",
    "Plugin": "plugins.base",
    "PynisherPlugin": "plugins.pynisher",
    "Report": "report.report",
    "Requeue": "scheduler.requeue",
    "Retry": "plugins.retry",
    "Scheduler": "scheduler.scheduler",
    "SequentialExecutor": "executors.sequential",
    "Task": "scheduler.task",
    "Usage": "limits.outcome",
    "WorkerInfo": "executors.cluster",
    "annotate": "dask.graphs.annotations",
    "command": "commands.command",
    "dask_names": "dask.compat.all_names",
    "limit": "limits.functions",
    "preload": "limits.preload",
    "probe_scheduler": "executors.dask.probe",
    "progress": "limits.progress",
    "share": "limits.share",
    "usages": "dask.usage_log",
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
    "old_pynisher.enforce_limits",
)


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        value = getattr(importlib.import_module(f"{__name__}.{_MODULES[name]}"), name)
    elif name in __all__:  # a module
        value = importlib.import_module(f"{__name__}.{name}")
    elif name == "__version__":
        value = importlib.import_module("importlib.metadata").version("dask-limits")
    else:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    globals()[name] = value  # and this is not asked again
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
