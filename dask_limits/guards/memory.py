"""`mem_guard`: a limit on the memory of the process."""

from __future__ import annotations

import os
from io import FileIO
from time import monotonic
from typing import Final

from dask_limits.guards.entry import Entry
from dask_limits.guards.errors import MemoryLimitExceeded
from dask_limits.guards.escalation import MIN_PAUSE_S, InterruptType
from dask_limits.guards.guard import Guard, number

_PAGE_KIB: Final = os.sysconf("SC_PAGE_SIZE") / 1024


class MemGuard(Guard):
    """Interrupts a block or a function while the process has too much memory.

    Use it as `mem_guard(...)`, in a with statement or as a decorator, several times and in any
    threads. The memory of the whole process counts (resident, shared pages included), whichever
    thread took it. Once the block has ended, it interrupts nothing.

    Args:
        max_memory: KiB, more than 0.
        absolute: Whether all memory of the process counts; otherwise what the process has when the
            block is entered does not count.
        grace_period: Seconds for which memory may stay above the limit; 0 or more. They start anew
            each time it has fallen below.
        secondary_grace_period: Seconds until the next interrupt if memory is still above the limit
            by then; 1 or more.
        interrupt_type: Exceptions, signals (main thread only), or an exception first and signals
            later.
        send_kill: Whether the last signal is SIGKILL, which ends the process at once.
        check_interval: Milliseconds between two looks at the memory, more than 0. A look takes
            about 10 microseconds.

    Raises:
        ValueError: for a number out of its range, or `send_kill` with exceptions only.
        TypeError: for an argument of the wrong type.
        RuntimeError: on entry, on systems other than Linux, which have no `/proc/self/statm`.

    Example:
        >>> hoard = []
        >>> with mem_guard(max_memory=50 * 1024, absolute=False, check_interval=10):
        ...     try:
        ...         while True:
        ...             hoard.append(bytes(100_000))
        ...     except MemoryLimitExceeded as error:
        ...         hoard.clear()
        ...         print(error.memory > error.max_memory == 51200)
        True
    """

    def __init__(
        self,
        max_memory: float,
        absolute: bool = True,
        grace_period: float = 0,
        secondary_grace_period: float = 5,
        interrupt_type: InterruptType = InterruptType.exception_then_signal,
        send_kill: bool = False,
        check_interval: float = 500,
    ) -> None:
        if callable(max_memory):
            raise TypeError("mem_guard needs a limit: write @mem_guard(max_memory=1024 * 50).")
        super().__init__(interrupt_type, send_kill, check_interval)
        self.max_memory_kib = number(max_memory, "max_memory", "KiB")
        self.absolute = bool(absolute)
        self.grace_period_s = number(grace_period, "grace_period", "seconds", least=0)
        self.secondary_grace_period_s = self.pause_s = number(
            secondary_grace_period, "secondary_grace_period", "seconds", least=MIN_PAUSE_S
        )
        self.poll_s = self.check_interval_s

    def __repr__(self) -> str:
        return f"mem_guard(max_memory={self.max_memory_kib:g}, absolute={self.absolute})"

    def _entry(self, what: str) -> Entry:
        try:
            memory = resident_kib()
        except FileNotFoundError:
            raise RuntimeError(
                "mem_guard cannot measure the memory of this process: it reads /proc/self/statm,"
                " which only Linux has."
            ) from None
        entry = _MemoryEntry(self, what, due=monotonic())
        entry.before_kib = 0.0 if self.absolute else memory
        entry.above = False
        return entry


mem_guard = MemGuard


class _MemoryEntry(Entry):
    __slots__ = {
        "above": "Whether it was above the limit at the last look.",
        "before_kib": "Memory that does not count.",
    }
    before_kib: float
    above: bool

    def look(self, now: float) -> MemoryLimitExceeded | None:
        guard: MemGuard = self.guard
        self.due = now + guard.poll_s
        try:
            memory = resident_kib() - self.before_kib
        except OSError:  # too many open files, for instance
            return None
        if memory <= guard.max_memory_kib:
            self.above = False
            return None
        if not self.above:
            self.above = True
            self.level = 0
            self.next_at = now + guard.grace_period_s
        if now < self.next_at:
            self.due = min(self.due, self.next_at)
            return None
        before = self.before_kib
        since = "" if guard.absolute else f" more than the {before:.0f} KiB it had on entry"
        return MemoryLimitExceeded(
            f"{self.what} went over its memory limit of {guard.max_memory_kib:g} KiB: the process"
            f" has {memory:.0f} KiB{since} ({self.step}).",
            max_memory=guard.max_memory_kib,
            memory=memory,
        )


def resident_kib() -> float:
    """Resident memory of this process in KiB, shared pages included; see proc_pid_statm(5)."""
    # A FileIO, because an outer guard may interrupt here: nothing is left open then.
    with FileIO("/proc/self/statm") as file:
        return int(file.read(100).split()[1]) * _PAGE_KIB
