from __future__ import annotations

import sys
from collections.abc import Callable
from multiprocessing.context import BaseContext
from typing import Any, ClassVar, Final, Never

from dask_limits import exceptions
from dask_limits.events import Event
from dask_limits.executors import Call, Future
from dask_limits.instead import refuse
from dask_limits.limits import Isolation, LimitedCall, Limits, LimitsArguments
from dask_limits.limits.limits import NOT_LIMITS, parse_memory_limit
from dask_limits.plugins.base import Plugin
from dask_limits.units import (
    Amount,
    Duration,
    format_bytes,
    format_seconds,
    parse_seconds,
)

_KINDS: Final = ("wall_time", "cpu_time", "memory", "num_processes")


class PynisherPlugin(Plugin):
    """Limits each call of a task, and adds an event for each kind of breach.

    A call that goes over a limit is ended with everything it started. Its future has the
    exception, and its worker lives on. The events are emitted after the task's `on-exception`,
    with the exception. Their names are those that pynisher's users know; this package's own task
    processes enforce the limits.

    Its arguments have the names that [limit][dask_limits.limit] has for them, and those of other
    plugins of this kind.

    Args:
        memory: The limits, as of [Limits][dask_limits.Limits].
        cpu_time: See there.
        wall_time: See there.
        num_processes: See there.
        memory_limit: The resident memory of a call with all its processes: bytes, `(2, "GB")`
            (1024-based, in any case), or a string that Dask can parse, `"2 GiB"`.
        cputime_limit: The CPU time of a call with all its processes: seconds (or fractions of
            one), `(5, "m")`, or `"1h 30m"`.
        walltime_limit: The time from the start of a call to its end, in the same forms.
        process_limit: The number of processes of a call at one time, its own included.
        cores: The number of cores that a call reserves.
        reserve: Whether a call reserves its memory and cores. For this and the one above, see
            there.
        context: How pynisher starts the process of a call with `isolation="fresh"`. It has no
            effect on other calls.
        wall_time_limit: The older name of `walltime_limit`.
        cpu_time_limit: The older name of `cputime_limit`.
        grace_period: The time between the warning and the end, at a limit on time.
        capture_output: Whether the usage of a call has what the call prints.
        isolation: `"clean"`, `"warm"`, `"fresh"` or `"thread"`. For this and the two arguments
            above, see [Limits][dask_limits.Limits].

    Raises:
        ValueError: for a limit that is zero, negative or NaN, or has an unknown unit.
        TypeError: for a limit of the wrong type, one that is given by both of its names, or one by
            another name.

    Example:
        >>> import time
        >>> from dask_limits import Scheduler
        >>> scheduler = Scheduler.with_processes(1)
        >>> nap = scheduler.task(time.sleep, plugins=PynisherPlugin(walltime_limit=(0.2, "s")))
        >>> _ = nap.on("pynisher-timeout")(lambda exception: print(type(exception).__name__))
        >>> _ = scheduler.on_start(lambda: nap.submit(60))
        >>> _ = scheduler.run(on_exception="continue")
        WallTimeBreach
    """

    name: ClassVar[str] = "pynisher-plugin"

    PynisherException = exceptions.PynisherException
    TimeoutException = exceptions.TimeoutException
    MemoryLimitException = exceptions.MemoryLimitException
    CpuTimeoutException = exceptions.CpuTimeoutException
    WallTimeoutException = exceptions.WallTimeoutException
    ProcessLimitException = exceptions.ProcessLimitException

    TIMEOUT: Event[[exceptions.TimeoutException]] = Event("pynisher-timeout", "exception")
    """A call went over its wall time or its CPU time. Called with the exception."""

    MEMORY_LIMIT_REACHED: Event[[exceptions.MemoryLimitException]] = Event(
        "pynisher-memory-limit", "exception"
    )
    """A call went over its memory. Called with the exception."""

    CPU_TIME_LIMIT_REACHED: Event[[exceptions.CpuTimeoutException]] = Event(
        "pynisher-cputime-limit", "exception"
    )
    """A call went over its CPU time. Called with the exception, after `TIMEOUT`."""

    WALL_TIME_LIMIT_REACHED: Event[[exceptions.WallTimeoutException]] = Event(
        "pynisher-walltime-limit", "exception"
    )
    """A call went over its wall time. Called with the exception, after `TIMEOUT`."""

    PROCESS_LIMIT_REACHED: Event[[exceptions.ProcessLimitException]] = Event(
        "pynisher-process-limit", "exception"
    )
    """A call had more processes than its limit. Called with the exception."""

    def __init__(
        self,
        *,
        memory: Amount | None = None,
        cpu_time: Duration | None = None,
        wall_time: Duration | None = None,
        num_processes: int | None = None,
        memory_limit: Amount | None = None,
        cputime_limit: Duration | None = None,
        walltime_limit: Duration | None = None,
        process_limit: int | None = None,
        cores: int | None = None,
        reserve: bool = True,
        context: str | BaseContext | None = None,
        wall_time_limit: Duration | None = None,
        cpu_time_limit: Duration | None = None,
        grace_period: Duration = 0,
        capture_output: bool | Amount = False,
        isolation: Isolation = "clean",
        **unknown: Never,
    ) -> None:
        refuse("PynisherPlugin", unknown, LimitsArguments.__annotations__, NOT_LIMITS)
        self.memory_limit = _one_of(memory=memory, memory_limit=memory_limit)
        self.cputime_limit: Duration | None = _one_of(
            cpu_time=cpu_time, cputime_limit=cputime_limit, cpu_time_limit=cpu_time_limit
        )
        self.walltime_limit: Duration | None = _one_of(
            wall_time=wall_time, walltime_limit=walltime_limit, wall_time_limit=wall_time_limit
        )
        self.process_limit = _one_of(num_processes=num_processes, process_limit=process_limit)
        self.context = context
        self.limits = Limits(
            memory=_parsed(parse_memory_limit, memory=memory, memory_limit=memory_limit),
            cpu_time=_parsed(
                parse_seconds,
                cpu_time=cpu_time,
                cputime_limit=cputime_limit,
                cpu_time_limit=cpu_time_limit,
            ),
            wall_time=_parsed(
                parse_seconds,
                wall_time=wall_time,
                walltime_limit=walltime_limit,
                wall_time_limit=wall_time_limit,
            ),
            num_processes=self.process_limit,
            cores=cores,
            reserve=reserve,
            grace_period=grace_period,
            capture_output=capture_output,
            isolation=isolation,
            context=context if isolation == "fresh" else None,
        )
        # The last function, its limits, and both together: waiting calls share one object.
        self._last: tuple[Any, Limits | None, Any] = (None, None, None)

    @property
    def cpu_time_limit(self) -> Duration | None:
        """The older name of `cputime_limit`."""
        return self.cputime_limit

    @property
    def wall_time_limit(self) -> Duration | None:
        """The older name of `walltime_limit`."""
        return self.walltime_limit

    def pre_submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Call | None:
        """Add the limits to a call. If it has limits already, the stricter of each counts."""
        if not self.limits:
            return fn, args, kwargs
        its, limits, limited = self._last
        if fn is not its or self.limits is not limits:
            limited = self._limit(fn)
            self._last = fn, self.limits, limited
        return limited, args, kwargs

    def _limit(self, fn: Callable[..., Any]) -> LimitedCall[..., Any]:
        if isinstance(fn, LimitedCall):
            return LimitedCall(fn.fn, self.limits.within(fn.limits))
        return LimitedCall(fn, self.limits)

    def post_done(self, future: Future[Any]) -> None:
        """Emit the events of a breach, if the call ended by one."""
        exception = None if future.cancelled() else future.exception()
        if not isinstance(exception, exceptions.PynisherException):
            return
        for kind, event in (
            (exceptions.TimeoutException, self.TIMEOUT),
            (exceptions.CpuTimeoutException, self.CPU_TIME_LIMIT_REACHED),
            (exceptions.WallTimeoutException, self.WALL_TIME_LIMIT_REACHED),
            (exceptions.MemoryLimitException, self.MEMORY_LIMIT_REACHED),
            (exceptions.ProcessLimitException, self.PROCESS_LIMIT_REACHED),
        ):
            if isinstance(exception, kind):
                self.task.emit(event, exception)

    @classmethod
    def supports(cls, kind: str) -> bool:
        """Whether this system can enforce a kind of limit.

        Raises:
            ValueError: for a kind other than "wall_time", "cpu_time", "memory", "num_processes".
        """
        if kind not in _KINDS:
            raise ValueError(f"kind={kind!r} must be one of {', '.join(map(repr, _KINDS))}")
        return sys.platform == "linux"

    def _rows(self) -> list[str]:
        limits = self.limits
        shown: list[tuple[str, Any, Callable[[Any], str]]] = [
            ("Memory", limits.memory, format_bytes),
            ("CPU time", limits.cpu_time, format_seconds),
            ("Wall time", limits.wall_time, format_seconds),
            ("Processes", limits.num_processes, str),
            ("Cores", limits.cores, str),
            ("Isolation", limits.isolation if limits.isolation != "clean" else None, str),
        ]
        return [f"{name} {form(value)}" for name, value, form in shown if value is not None]


def _one_of(**spellings: Any) -> Any:
    given = [name for name, value in spellings.items() if value is not None]
    if len(given) > 1:
        raise TypeError(f"{' and '.join(given)} are names of one limit: specify only one of them")
    return spellings[given[0]] if given else None


def _parsed(parse: Callable[[Any, str], float], **spellings: Any) -> Any:
    """Parse an amount here, so that an error has the argument's name in it."""
    for name, value in spellings.items():
        if value is not None:
            return parse(value, name)
    return None
