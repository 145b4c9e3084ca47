"""Sends an exception or a signal to the thread that is inside a guard."""

from __future__ import annotations

import ctypes
import sys
import threading
from collections.abc import Collection, Iterable
from typing import Final

from dask_limits.guards.async_exception import Interrupt, set_async_exc
from dask_limits.guards.entry import Entry
from dask_limits.guards.errors import GuardException

_pthread_kill: Final = ctypes.PyDLL(None).pthread_kill  # keeps the GIL
_pthread_kill.argtypes = (ctypes.c_ulong, ctypes.c_int)
_pthread_kill.restype = ctypes.c_int

_OLD: Final = sys.version_info < (3, 12)

_UNSEEN_S: Final = 1.0
"""How long an exception that has not arrived delays those of other guards.

C code may have swallowed it. With a smaller value, one guard's exception may replace another's in a
thread that is slow to run Python again; a larger value delays the other's after one that was
swallowed.
"""

_starting: Final[Collection[object]] = getattr(threading, "_limbo", ()) if _OLD else ()
"""Threads that are being started. In Python 3.11 such a thread has the number of the thread that
starts it until it first runs, and receives exceptions for that thread.
"""
_STARTING_S: Final = 0.1
"""How long to wait for them. One that failed to start may stay there for ever."""


def send(entry: Entry, error: GuardException, now: float, others: Iterable[Entry]) -> bool:
    """Send an entry's next interrupt, unless its thread has left.

    Args:
        entry: The entry.
        error: The exception, if the next interrupt is one.
        now: Seconds of time.monotonic().
        others: All entries; a thread can have one pending exception only.

    Returns:
        False if it cannot be sent yet: try again soon.
    """
    signal = entry.steps[entry.level]
    if signal is None:
        return _send_exception(entry, error, now, others)
    entry.signalled = True
    # First write, then read; close() does the reverse. So if `left` is not set here yet, close()
    # has still to empty what was written.
    entry.signal.value = signal
    if not entry.left:
        _pthread_kill(entry.ident, entry.signal)
    return True


def _send_exception(
    entry: Entry, error: GuardException, now: float, others: Iterable[Entry]
) -> bool:
    for other in others:
        pending = other.interrupt
        if pending is None or pending.settled or other.ident != entry.ident or other is entry:
            continue
        if not other.left and now - pending.sent_at < _UNSEEN_S:
            return False
        pending.settled = True
    interrupt = Interrupt(error, now)
    entry.interrupt = interrupt  # before it is sent, so that close() knows of it
    if _starting and now - entry.next_at < _STARTING_S:
        interrupt.settled = True
        return False
    if set_async_exc(entry.address, interrupt.kind) == 0:
        interrupt.settled = True
    return True
