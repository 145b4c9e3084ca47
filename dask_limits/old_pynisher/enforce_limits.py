"""The interface of pynisher before its version 1, for scripts that were written for it."""

from __future__ import annotations

import functools
import logging
import resource
import sys
import time
import traceback
import types
from collections.abc import Callable
from errno import EAGAIN
from multiprocessing.context import BaseContext
from signal import SIGQUIT
from typing import Any, Final, Generic, ParamSpec, TypeVar

from dask_limits.exceptions import (
    CallError,
    CpuTimeoutException,
    CrashError,
    ExitError,
    GuardianLostError,
    MemoryLimitException,
    ProcessLimitException,
    PynisherException,
    RemoteTraceback,
    TimeoutException,
)
from dask_limits.limits import LimitedCall, Limits, Usage, name_of
from dask_limits.limits.owner.guardian import default_guardian
from dask_limits.units import parse_bytes, parse_seconds

P = ParamSpec("P")
R = TypeVar("R")

_MOST_BYTES: Final = 2**62  # limits have 64 bits; old scripts use more to say that there is none


class MemorylimitException(MemoryLimitException):  # type: ignore[misc]
    """An exit status: the function went over its memory, or raised a MemoryError."""


class SubprocessException(PynisherException):  # type: ignore[misc]
    """An exit status: the function raised an OSError, or had too many processes."""


class PynisherError(PynisherException):  # type: ignore[misc]
    """An exit status: what watches over the function was itself killed."""


class SignalException(PynisherException):  # type: ignore[misc]
    """An exit status: the function's process got a SIGQUIT."""


class AnythingException(PynisherException):  # type: ignore[misc]
    """An exit status: the function raised an exception, crashed, or ended its process."""


_STATUSES: Final[tuple[tuple[Any, type[Exception]], ...]] = (
    (CpuTimeoutException, CpuTimeoutException),
    (TimeoutException, TimeoutException),
    ((MemoryError, MemoryLimitException), MemorylimitException),
    ((OSError, ProcessLimitException), SubprocessException),
    (GuardianLostError, PynisherError),
)
"""The exit status of a call by the exception that it ended with; the first match counts."""


class enforce_limits:  # noqa: N801  # the name that scripts use
    """Wraps a function to run under limits, and to return None when it fails.

    It is for scripts that use pynisher before its version 1: change the import to
    `import dask_limits as pynisher`. In new code, [limit][dask_limits.limit] says and raises more.

    Use it as a decorator, or on any function: `obj = enforce_limits(wall_time_in_s=2)(fn)`. After
    a call, `obj` says how it ended; see `EnforcedFunction`.

    What differs from pynisher: memory is what the function and its processes use, not address
    space, and the interpreter's share is small; everything that the function has started is
    ended with it; a limit on processes counts those of the function and no others of the user.

    Args:
        mem_in_mb: Memory, in units of 1024 * 1024 bytes. None is no limit, here and below.
        cpu_time_in_s: CPU time, seconds; fractions count.
        wall_time_in_s: Time from the start of a call to its end, seconds; fractions count.
        num_processes: Processes at one time, the function's own included: with 1 (and with 0)
            it can start none.
        grace_period_in_s: Seconds between the end of the time and the end of the function. The
            function gets a SIGXCPU (CPU time) or a SIGALRM (wall time) first, which raises an
            exception in it, and is killed if it has not ended by then.
        logger: Logs limits, calls and how they end, on the level DEBUG.
        capture_output: Whether to capture what is printed, as `stdout` and `stderr`.
        context: A context of `multiprocessing`, or the name of one: each call gets a new process,
            started in this way (from one of ours, so all of them are safe beside threads). With
            None, calls run in a process that is there already, which costs less.

    Raises:
        ValueError: for a limit of zero, a negative one, NaN or infinity.
        TypeError: for a limit of the wrong type.

    Example:
        >>> import time
        >>> @enforce_limits(wall_time_in_s=2)
        ... def nap(seconds):
        ...     time.sleep(seconds)
        ...     return seconds
        >>> nap(0.01), nap.exit_status
        (0.01, 0)
        >>> nap(60), nap.exit_status is TimeoutException
        (None, True)
    """

    def __init__(
        self,
        mem_in_mb: float | None = None,
        cpu_time_in_s: float | None = None,
        wall_time_in_s: float | None = None,
        num_processes: int | None = None,
        grace_period_in_s: float | None = None,
        logger: logging.Logger | None = None,
        capture_output: bool = False,
        context: str | BaseContext | None = None,
    ) -> None:
        memory = None if mem_in_mb is None else parse_bytes((mem_in_mb, "MB"), "mem_in_mb")
        self.limits = Limits(
            memory=memory and min(memory, _MOST_BYTES),
            cpu_time=_seconds(cpu_time_in_s, "cpu_time_in_s"),
            wall_time=_seconds(wall_time_in_s, "wall_time_in_s"),
            num_processes=1 if num_processes == 0 else num_processes,
            reserve=False,  # in pynisher, a call waits for nothing
            grace_period=_seconds(grace_period_in_s or None, "grace_period_in_s") or 0,
            capture_output=capture_output,
            isolation="clean" if context is None else "fresh",
            context=context,
        )
        self.logger = logging.getLogger("dask_limits") if logger is None else logger
        self.logger.debug("Enforcing %r", self.limits)

    def __call__(self, func: Callable[P, R]) -> EnforcedFunction[P, R]:
        """Put the limits on a function."""
        return EnforcedFunction(func, self.limits, self.logger)


class EnforcedFunction(Generic[P, R]):
    """A function under limits, and how its last call ended. Made by `enforce_limits(...)(fn)`.

    It can be pickled where its function can; how its last call ended stays behind.

    Attributes:
        result: What the last call returned; None if it failed.
        exit_status: 0 if it returned, else one of the classes `CpuTimeoutException`,
            `TimeoutException`, `MemorylimitException`, `SubprocessException`, `PynisherError`,
            `SignalException`, `AnythingException`. This and those below are None before a call.
        wall_clock_time: Seconds that the call took, its start and its end included.
        exitcode: 0 where its process came to its end in order, 1 where the function raised, the
            code that it exited with, or minus the signal that ended it.
        os_errno: The number of the error where the exit status is `SubprocessException`.
        stdout: What it printed, as text; None unless that is captured.
        stderr: What it printed as errors, with the traceback of an exception that it raised;
            None unless that is captured. The traceback goes to your own stderr then.
        resources_function: The CPU seconds (`ru_utime`) and the most memory in KiB (`ru_maxrss`)
            of the function, in the form of `resource.getrusage`, whose other fields are 0.
        resources_pynisher: Those of the calling process, from `resource.getrusage`.
        exception: What the function raised, or was ended with; None if it returned.
    """

    def __init__(self, func: Callable[P, R], limits: Limits, logger: logging.Logger) -> None:
        functools.update_wrapper(self, func)  # first: it also brings the function's attributes
        self.func = func
        self.limits = limits
        self.logger = logger
        self._reset()

    def _reset(self) -> None:
        self.result: R | None = None
        self.exit_status: type[Exception] | int | None = None
        self.wall_clock_time: float | None = None
        self.exitcode: int | None = None
        self.os_errno: int | None = None
        self.stdout: str | None = None
        self.stderr: str | None = None
        self.resources_function: resource.struct_rusage | None = None
        self.resources_pynisher: resource.struct_rusage | None = None
        self.exception: BaseException | None = None

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R | None:
        """Call the function; what it raises is in the attributes, and not raised."""
        self._reset()
        call = LimitedCall(self.func, self.limits)
        self.logger.debug("Calling %s() with %r, %r", call.name, args, kwargs)
        began = time.monotonic()
        # Without limits too: a crash must not be the caller's.
        outcome = default_guardian().run(call.fn, args, kwargs, call.limits)
        self.wall_clock_time = time.monotonic() - began
        error, usage = outcome.exception, outcome.usage
        self.result = outcome.value
        self.exception = error
        self.exit_status = _status(error)
        self.exitcode = _exit_code(error, usage)
        if self.exit_status is SubprocessException:
            self.os_errno = error.errno if isinstance(error, OSError) else EAGAIN
        self.resources_function = resource.struct_rusage(
            (usage.cpu_time, 0.0, usage.peak_memory // 1024, *[0] * 13)
        )
        self.resources_pynisher = resource.getrusage(resource.RUSAGE_SELF)
        uncaught = _traceback(error) if self.exit_status is AnythingException else ""
        if self.limits.capture_output:
            self.stdout = usage.stdout or ""
            self.stderr = (usage.stderr or "") + uncaught
        elif uncaught and sys.stderr is not None:
            sys.stderr.write(uncaught)
        end = f"exit status {self.exit_status}, exit code {self.exitcode}, {self.exception!r}"
        self.logger.debug("%s() ended after %.3f s: %s", call.name, self.wall_clock_time, end)
        return self.result

    def __get__(self, instance: object | None, owner: type) -> Any:
        """As functions do: a method of an instance gets the instance first."""
        return self if instance is None else types.MethodType(self, instance)

    def __reduce__(self) -> str | tuple[Any, ...]:
        name, module = getattr(self, "__qualname__", ""), getattr(self, "__module__", "")
        if module != "__main__" and _find(module, name) is self:
            return str(name)  # decorated: to be found by this name, as functions are
        return EnforcedFunction, (self.func, self.limits, self.logger)

    def __repr__(self) -> str:
        return f"EnforcedFunction({name_of(self.func)}, {self.limits})"


def _status(error: BaseException | None) -> type[Exception] | int:
    """The exit status of a call that ended with this error."""
    if error is None:
        return 0
    if isinstance(error, CrashError) and error.signal == SIGQUIT:
        return SignalException
    found = (status for kinds, status in _STATUSES if isinstance(error, kinds))
    return next(found, AnythingException)


def _exit_code(error: BaseException | None, usage: Usage) -> int:
    if usage.exit_code is not None:
        return usage.exit_code
    if isinstance(error, ExitError):  # the process lives on, but would have ended like this
        return error.exit_code
    return int(_status(error) is AnythingException)


def _traceback(error: BaseException | None) -> str:
    """What to print of an error that a function did not catch."""
    if isinstance(error, CallError):
        return f"{error}\n"
    if error is not None and isinstance(error.__cause__, RemoteTraceback):
        return error.__cause__.text
    return "".join(traceback.format_exception(error))


def _find(module: str, qualname: str) -> object:
    found: object = sys.modules.get(module)
    for name in qualname.split("."):
        found = getattr(found, name, None)
    return found


def _seconds(value: float | None, name: str) -> float | None:
    return None if value is None else parse_seconds(value, name)
