"""`time_guard`: a limit on the time of a block or a function."""

from __future__ import annotations

from collections.abc import Callable
from time import monotonic
from typing import Concatenate, ParamSpec, Protocol, Self, TypeVar, cast, overload

from dask_limits.guards.entry import Entry, here, inside
from dask_limits.guards.errors import ExecutionTimeout
from dask_limits.guards.escalation import MIN_PAUSE_S, InterruptType
from dask_limits.guards.guard import Guard, number

P = ParamSpec("P")
Q = ParamSpec("Q")
S = TypeVar("S", contravariant=True)
R = TypeVar("R")
R_co = TypeVar("R_co", covariant=True)


class TimedFunction(Protocol[P, R_co]):
    """A function that runs inside a time guard of its own."""

    __name__: str
    __qualname__: str

    @property
    def progress(self) -> Callable[[], bool]:
        """Restart the clock of the call of this function that is running."""

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R_co:
        """Call it, inside its guard."""

    @overload
    def __get__(self, instance: None, owner: type) -> Self: ...
    @overload
    def __get__(
        self: TimedFunction[Concatenate[S, Q], R_co], instance: S, owner: type | None = None
    ) -> Callable[Q, R_co]: ...


def progress() -> bool:
    """Restart the clock of the calling thread's innermost time guard.

    It is cheap enough for tight loops. It also resets a guard that has begun to interrupt.

    Returns:
        Whether there is such a guard. If not, nothing happens.

    Example:
        >>> with time_guard(timeout=10):
        ...     progress()
        True
        >>> progress()
        False
    """
    entry = here.innermost
    while entry is not None:
        if isinstance(entry, _TimeEntry) and not entry.left:
            entry.began = monotonic()
            return True
        entry = entry.outer
    return False


class TimeGuard(Guard):
    """Interrupts a block or a function that runs for too long.

    Use it as `time_guard(...)`, in a with statement or as a decorator, several times and in any
    threads. Once the block has ended, it interrupts nothing: a timeout that comes too late is
    dropped.

    Args:
        timeout: Seconds from the start, or from the last `progress()`; more than 0. Fractions
            count.
        grace_period: Seconds until the next interrupt if the block has not ended by then; 0 or
            more. It is never less than one second.
        interrupt_type: Exceptions, signals (main thread only), or an exception first and signals
            later.
        send_kill: Whether the last signal is SIGKILL, which ends the process at once.
        check_interval: Milliseconds after which, at the latest, a guard that has begun to interrupt
            notices `progress()`. It does not affect the accuracy of the timeout, which is a few
            milliseconds.

    Raises:
        ValueError: for a number out of its range, or `send_kill` with exceptions only.
        TypeError: for an argument of the wrong type.

    Example:
        >>> with time_guard(timeout=0.5) as guard:
        ...     try:
        ...         while True:
        ...             pass
        ...     except ExecutionTimeout as error:
        ...         print(error.timeout)
        0.5
        >>> @time_guard(timeout=10)
        ... def work():
        ...     for _ in range(3):
        ...         work.progress()  # ten seconds more
        ...     return "done"
        >>> work()
        'done'
    """

    def __init__(
        self,
        timeout: float,
        grace_period: float = 15,
        interrupt_type: InterruptType = InterruptType.exception_then_signal,
        send_kill: bool = False,
        check_interval: float = 500,
    ) -> None:
        if callable(timeout):
            raise TypeError("time_guard needs a timeout: write @time_guard(timeout=10).")
        super().__init__(interrupt_type, send_kill, check_interval)
        self.timeout_s = number(timeout, "timeout", "seconds")
        self.grace_period_s = number(grace_period, "grace_period", "seconds", least=0)
        self.pause_s = max(self.grace_period_s, MIN_PAUSE_S)
        self.poll_s = max(self.timeout_s, self.check_interval_s)

    def __repr__(self) -> str:
        return f"time_guard(timeout={self.timeout_s:g})"

    def __call__(self, function: Callable[P, R]) -> TimedFunction[P, R]:
        """The function, inside a guard at each call, with a `progress` of its own."""
        guard, guarded = self._decorate(function)
        guarded.progress = cast(TimeGuard, guard).progress  # type: ignore[attr-defined]
        return cast(TimedFunction[P, R], guarded)

    def progress(self) -> bool:
        """Restart the clock of the innermost block of this guard that the calling thread is in.

        A thread that is in none restarts the clocks of all threads that are, so that threads which
        a block has started can report progress too.

        Returns:
            Whether there is such a block. If not, nothing happens.
        """
        entry = self._innermost()
        if entry is not None:
            cast(_TimeEntry, entry).began = monotonic()
            return True
        found = [entry for entry in list(inside) if self._is_entered_by(entry)]
        for entry in found:
            cast(_TimeEntry, entry).began = monotonic()
        return bool(found)

    @property
    def elapsed(self) -> float:
        """Seconds since the calling thread entered its innermost block of this guard, or since the
        last progress there; 0 outside.
        """
        entry = self._innermost()
        return 0.0 if entry is None else monotonic() - cast(_TimeEntry, entry).began

    def _entry(self, what: str) -> Entry:
        began = monotonic()
        entry = _TimeEntry(self, what, due=began + self.timeout_s)
        entry.began = entry.seen = began
        return entry


time_guard = TimeGuard


class _TimeEntry(Entry):
    __slots__ = {
        "began": "When its clock was last started. progress() changes nothing else.",
        "seen": "`began` at the last look.",
    }
    began: float
    seen: float

    def look(self, now: float) -> ExecutionTimeout | None:
        timeout_s, began = self.guard.timeout_s, self.began
        if began != self.seen:  # progress
            self.seen = began
            self.level = 0
            self.next_at = self.due = began + timeout_s
        if now < self.next_at:
            # Progress does not wake the watcher. Before the first interrupt it can only delay that;
            # afterwards it may make the next one due earlier.
            self.due = min(self.next_at, now + self.guard.poll_s) if self.level else self.next_at
            return None
        return ExecutionTimeout(
            f"{self.what} went over its timeout of {timeout_s:g} s: it started, or last"
            f" called progress(), {now - began:.3g} s ago ({self.step}).",
            timeout=timeout_s,
            elapsed=now - began,
        )
