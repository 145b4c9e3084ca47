"""Runs a call in the thread of its caller; guards interrupt it when it goes over a limit."""

from __future__ import annotations

import inspect
import sys
import time
import traceback
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from typing import Any, Final

from dask_limits import guards
from dask_limits.guards.entry import Entry
from dask_limits.guards.guard import Guard
from dask_limits.limits.breaches import breach
from dask_limits.limits.in_place import name_of, run_in_place
from dask_limits.limits.limits import Limits
from dask_limits.limits.outcome import Outcome, Usage
from dask_limits.limits.tracebacks import users_traceback

_CHECK_INTERVAL_MS: Final = 10
_INTERRUPT: Final[dict[str, Any]] = {
    "interrupt_type": guards.InterruptType.exception,
    "check_interval": _CHECK_INTERVAL_MS,
}
_REPEAT_S: Final = 1.0
"""A call that handles its interrupt and goes on is interrupted again after this, twice."""


def run(
    fn: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any], limits: Limits
) -> Outcome[Any]:
    """Run a call in this thread, and interrupt it when it goes over a limit."""
    outcome: Outcome[Any] | None = None
    wall_time, cpu_time = time.perf_counter(), time.thread_time()
    clock, last_step = _wall_guard(limits), 0.0
    try:
        cpu_guard = _CpuGuard(limits.cpu_time) if limits.cpu_time else nullcontext()
        with (
            _coroutine_runner(fn) as runner,
            clock or nullcontext(),
            cpu_guard,
            _memory_guard(limits),
        ):
            outcome = run_in_place(fn, args, kwargs, runner and runner.run)
            last_step = clock.elapsed if clock else 0.0
    except guards.GuardException as error:  # it was raised after the function ended, in our code
        last_step = getattr(error, "elapsed", 0.0)
        wall_time = time.perf_counter() - wall_time
        usage = Usage(wall_time, time.thread_time() - cpu_time, started=time.time() - wall_time)
        outcome = outcome or Outcome(exception=error, usage=usage)
    return _judged(name_of(fn), limits, outcome, last_step)


def _coroutine_runner(fn: Callable[..., Any]) -> AbstractContextManager[Any]:
    """A context that has a runner if the function may return a coroutine."""
    is_one = inspect.iscoroutinefunction(fn)
    if not is_one and "asyncio" not in sys.modules:
        return nullcontext()
    from dask_limits.limits.coroutines import CoroutineRunner

    return CoroutineRunner(interrupt=guards.GuardException, at_once=is_one)


def _wall_guard(limits: Limits) -> guards.TimeGuard | None:
    if limits.wall_time is None:
        return None
    return guards.time_guard(limits.wall_time, grace_period=_REPEAT_S, **_INTERRUPT)


def _memory_guard(limits: Limits) -> AbstractContextManager[object]:
    if limits.memory is None:
        return nullcontext()
    kib = limits.memory / 1024
    return guards.mem_guard(kib, absolute=False, secondary_grace_period=_REPEAT_S, **_INTERRUPT)


def _judged(name: str, limits: Limits, outcome: Outcome[Any], last_step: float) -> Outcome[Any]:
    """The outcome; its exception is a breach if the call went over a limit."""
    error, usage = outcome.exception, outcome.usage
    if isinstance(error, guards.MemoryLimitExceeded) and error.max_memory * 1024 == limits.memory:
        limit, usage = "memory", replace(usage, peak_memory=round(error.memory * 1024))
    elif limits.wall_time is not None and last_step > limits.wall_time:
        limit = "wall_time"
    elif isinstance(error, _CpuTimeExceeded) and error.seconds == limits.cpu_time:
        # The guard was there before the function: by its clock, the function may have used less.
        limit, usage = "cpu_time", replace(usage, cpu_time=max(usage.cpu_time, error.seconds))
    elif limits.cpu_time is not None and usage.cpu_time > limits.cpu_time:
        limit = "cpu_time"
    else:
        return outcome
    late = breach(name, limits, limit, usage, "" if error is None else _stack(error))
    late.__cause__ = error
    return Outcome(exception=late, usage=usage)


def _stack(error: BaseException) -> str:
    """Where an error was raised, as faulthandler would write it."""
    frames = reversed(traceback.extract_tb(users_traceback(error.__traceback__)))
    lines = [f'  File "{f.filename}", line {f.lineno} in {f.name}' for f in frames]
    return "\n".join(["Current thread (most recent call first):", *lines])


class _CpuTimeExceeded(guards.GuardException):
    """A thread has used more CPU time than this."""

    def __init__(self, seconds: float) -> None:
        super().__init__("The call went over its cpu_time limit.")
        self.seconds = seconds


class _CpuGuard(Guard):
    """Interrupts a thread that uses more CPU time than this."""

    def __init__(self, seconds: float) -> None:
        super().__init__(guards.InterruptType.exception, False, _CHECK_INTERVAL_MS)
        self.seconds = seconds
        self.pause_s = self.poll_s = _REPEAT_S

    def _entry(self, what: str) -> Entry:
        return _CpuEntry(self, what, self.seconds)


class _CpuEntry(Entry):
    __slots__ = ("_clock", "_seconds", "_until")

    def __init__(self, guard: Guard, what: str, seconds: float) -> None:
        super().__init__(guard, what, due=time.monotonic() + seconds)
        self._clock = time.pthread_getcpuclockid(self.ident)
        self._seconds = seconds
        self._until = time.clock_gettime(self._clock) + seconds

    def look(self, now: float) -> guards.GuardException | None:
        left = self._until - time.clock_gettime(self._clock)
        if left <= 0 and now >= self.next_at:
            return _CpuTimeExceeded(self._seconds)
        self.due = now + max(left, _CHECK_INTERVAL_MS / 1000)
        return None
