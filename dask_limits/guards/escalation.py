"""In which order a guard interrupts: gently first, then less so."""

from __future__ import annotations

import enum
from signal import SIGINT, SIGKILL, SIGTERM
from typing import Final

Steps = tuple[int | None, ...]
"""The interrupts of a guard in their order: None is an exception, a number a signal."""

MIN_PAUSE_S: Final = 1.0
"""Shortest time between two interrupts of a guard: what the first one set going needs some."""


class InterruptType(enum.Enum):
    """How a guard interrupts. Each has three steps, and after the third does no more.

    Attributes:
        exception: An exception, three times.
        signal: SIGINT, then SIGTERM twice. In the main thread only.
        exception_then_signal: An exception, then SIGINT, then SIGTERM. Outside the main thread,
            which is the only one that signals reach, an exception three times.
    """

    exception = "exception"
    signal = "signal"
    exception_then_signal = "exception_then_signal"


def steps(interrupt_type: InterruptType, send_kill: bool, main_thread: bool) -> Steps:
    """The interrupts for a thread that is inside a guard.

    Args:
        interrupt_type: What the guard was given.
        send_kill: Whether the last signal is SIGKILL.
        main_thread: Whether the thread is the main one. A SIGINT or SIGTERM for any other thread
            would strike the main thread, which is not inside. SIGKILL means the whole process
            anyway, and has been asked for.

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
            "A guard with InterruptType.signal was entered outside the main thread, which is the"
            " only thread that signals reach. Use InterruptType.exception here."
        )
    return (None, None, SIGKILL if send_kill else None)
