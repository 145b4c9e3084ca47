"""Everything that dask_limits raises, in one place.

The tree (names in *italics* of pynisher are pynisher's own classes)::

    Exception
    ├── RuntimeError
    │   ├── SchedulerNotRunningError        submit() while the scheduler does not run
    │   ├── WorkersNotStartedError          no worker of a cluster has started
    │   └── JournalError                    a journal cannot be used
    ├── LookupError
    │   └── EventNotKnownError              no event of that name
    └── PynisherException                   (pynisher) a call neither returned nor raised
        ├── TimeoutException                (pynisher)
        │   ├── CpuTimeoutException         (pynisher)
        │   └── WallTimeoutException        (pynisher)
        ├── MemoryLimitException            (pynisher) also a MemoryError
        ├── ProcessLimitException           pynisher has no such limit
        └── CallError                       carries call, limits, usage, stacks
            ├── Breach                      the call went over one of its limits
            │   ├── WallTimeBreach          is a WallTimeoutException
            │   ├── CpuTimeBreach           is a CpuTimeoutException
            │   ├── MemoryBreach            is a MemoryLimitException
            │   └── ProcessBreach           is a ProcessLimitException
            ├── CrashError                  the call's process was ended by a signal
            │   └── SystemMemoryError       ... by the kernel: no memory was left
            ├── ExitError                   the call ended its process: sys.exit, os._exit
            ├── CommandError                a command failed: the two below
            │   ├── CommandExitError        is an ExitError: its exit code was not 0
            │   └── CommandCrashError       is a CrashError: a signal ended it
            ├── GuardianLostError           the process that watched the call was killed
            ├── PreloadError                what was to be done before the first call has failed
            ├── LimitRefusedError           no worker, present or future, can grant a limit
            ├── WorkerLostError             the workers that ran the call were lost
            ├── ClusterLostError            the cluster was lost; also a BrokenExecutor
            ├── CallCancelledError          the call was cancelled while it ran
            └── CallPicklingError           arguments, result or exception cannot be pickled

What guards raise inside a process is in `dask_limits.guards`, and is told apart from the above::

    Exception
    └── GuardException                      a guard interrupted what ran inside it
        ├── ExecutionTimeout                a time guard
        └── MemoryLimitExceeded             a memory guard

An exception that the user's own function raised keeps its type and arguments; the traceback it
had in its process is the text of a `RemoteTraceback`, its `__cause__`.

All of them can be pickled, and keep their attributes when they are.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import BrokenExecutor
from typing import TYPE_CHECKING, Any

from pynisher.exceptions import (
    CpuTimeoutException,
    MemoryLimitException,
    PynisherException,
    TimeoutException,
    WallTimeoutException,
)

if TYPE_CHECKING:
    from dask_limits.batch_systems.job_state import JobState

__all__ = [
    "Breach",
    "CallCancelledError",
    "CallError",
    "CallPicklingError",
    "ClusterLostError",
    "CommandCrashError",
    "CommandError",
    "CommandExitError",
    "CpuTimeBreach",
    "CpuTimeoutException",
    "CrashError",
    "EventNotKnownError",
    "ExitError",
    "GuardianLostError",
    "JournalError",
    "LimitRefusedError",
    "MemoryBreach",
    "MemoryLimitException",
    "PreloadError",
    "ProcessBreach",
    "ProcessLimitException",
    "PynisherException",
    "RemoteTraceback",
    "SchedulerNotRunningError",
    "SystemMemoryError",
    "TimeoutException",
    "WallTimeBreach",
    "WallTimeoutException",
    "WorkerLostError",
    "WorkersNotStartedError",
]


class SchedulerNotRunningError(RuntimeError):
    """Something was submitted to a scheduler that is not running."""


class WorkersNotStartedError(RuntimeError):
    """No worker of a cluster has come in time, or none will come.

    Attributes:
        jobs: The states of the batch jobs that brought no worker.
        script: The job script that was submitted; "" if none was.
        log: The end of the log of one of these jobs; "" if there is none.
    """

    def __init__(
        self, message: str = "", jobs: list[JobState] | None = None, script: str = "", log: str = ""
    ) -> None:
        super().__init__(message)
        self.jobs = jobs or []
        self.script = script
        self.log = log


class JournalError(RuntimeError):
    """A journal cannot be read or written, or does not belong to this program."""


class EventNotKnownError(LookupError):
    """An event was named that its emitter does not know."""


class ProcessLimitException(PynisherException):  # type: ignore[misc]
    """A call had more processes than its limit."""


class CallError(PynisherException):  # type: ignore[misc]
    """A call ended neither by returning nor by raising an exception of its own.

    The attributes of this class and of those below are keyword arguments too.

    Attributes:
        call: The name of the function.
        limits: Its [Limits][dask_limits.Limits].
        usage: Its [Usage][dask_limits.Usage] up to its end; None if nothing ran.
        stacks: The Python stacks of its threads when it was ended, as text; empty if they are
            not known.
    """

    call: str = ""
    limits: Any = None
    usage: Any = None
    stacks: str = ""

    def __init__(self, message: str = "", **attributes: Any) -> None:
        super().__init__(message)
        for name, value in attributes.items():
            if not hasattr(type(self), name):
                raise TypeError(f"{type(self).__name__} has no attribute {name!r}")
            setattr(self, name, value)

    def __reduce__(self) -> tuple[Any, ...]:
        # Not the inherited one: tblib, which distributed installs, would rebuild an exception with
        # that by __new__, and "MemoryError.__new__(...) is not safe" for classes with another base.
        return _rebuild, (type(self), self.args, self.__dict__)

    def _repr_html_(self) -> str:
        from dask_limits.html.calls import error_view  # for notebooks alone

        return error_view(self)


def _rebuild(cls: type[CallError], args: tuple[Any, ...], state: dict[str, Any]) -> CallError:
    error = cls(*args)
    error.__dict__.update(state)
    return error


class Breach(CallError):
    """A call went over one of its limits, and was ended with everything it had started.

    `child` is the [ChildProcess][dask_limits.ChildProcess] that had the largest share of what the
    call went over; None if that was the process that ran the function.
    """

    child: Any = None


class WallTimeBreach(Breach, WallTimeoutException):  # type: ignore[misc]
    """A call took longer than its `wall_time`."""


class CpuTimeBreach(Breach, CpuTimeoutException):  # type: ignore[misc]
    """A call and its processes used more CPU time than its `cpu_time`."""


class MemoryBreach(Breach, MemoryLimitException):  # type: ignore[misc]
    """A call and its processes had more resident memory than its `memory`."""


class ProcessBreach(Breach, ProcessLimitException):
    """A call had more processes than its `num_processes`."""


class CrashError(CallError):
    """A signal that was not ours ended the process of a call. `signal` is its number."""

    signal: int = 0


class SystemMemoryError(CrashError):
    """The kernel killed the process of a call because memory had run out."""


class ExitError(CallError):
    """A call ended its process (`sys.exit`, `os._exit`) with the status `exit_code`, 0 to 255."""

    exit_code: int = 0

    @classmethod
    def of(cls, call: str, exit_code: int) -> ExitError:
        """The error of a call of this name that ended with this exit status."""
        return cls(
            f"{call}() ended its process with exit code {exit_code} instead of returning"
            " (sys.exit or os._exit)",
            call=call,
            exit_code=exit_code,
        )


class CommandError(CallError):
    """A command of [command][dask_limits.command] has failed.

    Attributes:
        command: The command line.
        stdout: The end of its standard output, up to 64 KiB.
        stderr: The end of its standard error, as `stdout`.
    """

    command: str = ""
    stdout: str = ""
    stderr: str = ""


class CommandExitError(CommandError, ExitError):
    """A command ended with an exit code other than 0: `exit_code`."""


class CommandCrashError(CommandError, CrashError):
    """A signal ended a command. `signal` is its number.

    So it is if the shell that ran it says so by an exit code of 128 plus that number.
    """


class GuardianLostError(CallError):
    """The process that watched a call was killed, and the call with it."""


class PreloadError(CallError):
    """A call was not started, because a module to preload or the initializer has failed.

    Its `__cause__` is a `RemoteTraceback` with the traceback of what was raised, if anything was.
    """


class LimitRefusedError(CallError):
    """No worker, present or future, or not this machine, can grant one of a call's limits.

    Attributes:
        limit: Which: "memory" (bytes), "cores" or "wall_time" (seconds).
        asked: How much the call asks for.
        most: The most that there is for one call.
    """

    limit: str = ""
    asked: float = 0
    most: float = 0


class WorkerLostError(CallError):
    """A call has lost more workers than Dask's `allowed-failures`.

    Attributes:
        worker: The name of the last one, or its address.
        job: The batch job that the last one was in; empty where it was in none.
        cause: Why it was lost: what the batch system says, or what else is known.
        tries: How many workers were lost while they ran the call.
    """

    worker: str = ""
    job: str = ""
    cause: str = ""
    tries: int = 0


class ClusterLostError(CallError, BrokenExecutor):
    """The connection to the Dask scheduler at `address` was lost.

    `running` has the names of all calls that were not done.
    """

    address: str = ""
    running: Sequence[str] = ()


class CallCancelledError(CallError):
    """A call was cancelled, and ended if it was running."""


class CallPicklingError(CallError):
    """The `part` of a call cannot be pickled or unpickled.

    Parts are "arguments", "result", "exception", and "progress": a value that the call reports.
    """

    part: str = ""


class RemoteTraceback(Exception):
    """The traceback of an exception in the process in which it was raised, as text."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.text = text

    def __str__(self) -> str:
        return f'\n"""\n{self.text}"""'
