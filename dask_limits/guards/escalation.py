"""The order of a guard's interrupts: an exception first, then signals."""

from __future__ import annotations

import enum
from signal import SIGINT, SIGKILL, SIGTERM
from typing import Final

MIN_PAUSE_S: Final = 1.0
"""Shortest time between two interrupts of a guard: reacting to the first one takes time."""


class InterruptType(enum.Enum):
    """How a guard interrupts: three times at most.

    Attributes:
        exception: An exception, three times.
        signal: SIGINT, then SIGTERM twice. In the main thread only.
        exception_then_signal: An exception, then SIGINT, then SIGTERM. Outside the main thread,
            which alone receives signals, an exception three times.
    """

    exception = "exception"
    signal = "signal"
    exception_then_signal = "exception_then_signal"


def steps(
    interrupt_type: InterruptType, send_kill: bool, main_thread: bool
) -> tuple[int | None, ...]:
    """The interrupts for a thread that is inside a guard: None is an exception, a number a signal.

    SIGINT and SIGTERM interrupt only the main thread; SIGKILL ends the process from any thread.

    Raises:
        RuntimeError: for signals alone, outside the main thread.
    """
    if interrupt_type is InterruptType.exception:
        return (None, None, None)
    if main_thread:
        last = SIGKILL if send_kill else SIGTERM
        if interrupt_type is InterruptType.signal:
            return (SIGINT, SIGTERM, last)
        return (None, SIGINT, last)
    if interrupt_type is InterruptType.signal:
        raise RuntimeError(
            "A guard with InterruptType.signal was entered outside the main thread, but only the"
            " main thread receives signals. Use InterruptType.exception here."
        )
    return (None, None, SIGKILL if send_kill else None)
