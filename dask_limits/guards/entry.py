"""One time that a thread is inside a guard.

The promise: a guard interrupts nothing after its block has ended. A watcher in another thread
interrupts, so there is a race between it and the end of the block. It is won without a lock,
which an interrupt could leave locked:

- An interrupt is sent by one C call, during which no other thread runs Python. That call reads its
  destination from memory, `address` or `signal`. `close()` empties both, so that an interrupt that
  is sent later goes nowhere.
- An exception that was sent earlier, but has not been raised yet, is taken back by `close()`.
- A signal that was sent earlier is handled before `close()` returns.
- `close()` has done all that before the first place in it at which anything can be raised.

This relies on the GIL.
"""

from __future__ import annotations

import ctypes
import math
import os
import sys
import threading
from abc import ABC, abstractmethod
from collections.abc import Collection
from typing import Any, Final

from dask_limits.guards.async_exception import (
    NOTHING,
    Interrupt,
    set_async_exc,
    starts_uninterrupted,
)
from dask_limits.guards.errors import GuardException
from dask_limits.guards.escalation import steps

_pthread_kill: Final = ctypes.PyDLL(None).pthread_kill  # keeps the GIL
_pthread_kill.argtypes = (ctypes.c_ulong, ctypes.c_int)
_pthread_kill.restype = ctypes.c_int

_UNSEEN_S: Final = 1.0
"""How long an exception that has not arrived delays those of other guards; C code may have
swallowed it. With less, one may replace another in a thread that is slow to run Python again."""
_SLOT_TAKEN_S: Final = 0.01
"""When to try again if a thread has another guard's exception pending."""
_OLD: Final = sys.version_info < (3, 12)
_starting: Final[Collection[object]] = getattr(threading, "_limbo", ()) if _OLD else ()
"""Threads that are being started. In Python 3.11 such a thread has the number of the thread that
starts it until it first runs, and receives exceptions for that thread.
"""
_STARTING_S: Final = 0.1
"""How long to wait for them. One that failed to start may stay there for ever."""


class _Here(threading.local):
    """The innermost entry of the calling thread. Reading it calls no Python function."""

    innermost: Entry | None = None


here: Final = _Here()
inside: Final[dict[Entry, None]] = {}
"""All entries whose thread has not left, in the order in which they were made."""


class Entry(ABC):
    """One time that a thread is inside a guard."""

    __slots__ = {
        "address": "`ident` while inside; then 0, which is not a thread.",
        "due": "When the watcher has to look again, in seconds of time.monotonic().",
        "guard": "The guard, of the class that this class of entries belongs to.",
        "ident": "The `threading.get_ident()` of the thread.",
        "interrupt": "The exception that was sent last.",
        "left": "Whether the thread has left.",
        "level": "How many of `steps` have been sent.",
        "next_at": "When the next of them is due, in seconds of time.monotonic().",
        "outer": "The entry of the same thread around this one.",
        "signal": "The signal that is being sent; once outside 0, which is not a signal.",
        "signalled": "Whether a signal was ever sent.",
        "steps": "What interrupts the thread, in order.",
        "thread": "The thread that is inside.",
        "what": "The name of the guarded code, for messages.",
    }

    def __init__(self, guard: Any, what: str, due: float) -> None:
        self.guard = guard
        self.what = what
        self.thread = threading.current_thread()
        in_main_thread = self.thread is threading.main_thread()
        self.steps = steps(guard.interrupt_type, guard.send_kill, in_main_thread)
        self.ident = threading.get_ident()
        self.address = ctypes.c_ulong(self.ident)
        self.signal = ctypes.c_int(0)
        self.left = False
        self.outer: Entry | None = None
        self.level = 0
        self.next_at = self.due = due
        self.interrupt: Interrupt | None = None
        self.signalled = False

    @abstractmethod
    def look(self, now: float) -> GuardException | None:
        """Set `due`, and return the exception if an interrupt is due."""

    def escalate(self, now: float) -> None:
        """Go on to the next interrupt, after one was sent."""
        self.level += 1
        more = self.level < len(self.steps)
        self.next_at = now + self.guard.pause_s if more else math.inf
        self.due = min(self.next_at, now + self.guard.poll_s)

    @property
    def step(self) -> str:
        """Which interrupt is next, for messages."""
        return f"interrupt {self.level + 1} of {len(self.steps)}"

    def send(self, error: GuardException, now: float) -> None:
        """Send the next interrupt, unless the thread has left; or set `due` to try again soon."""
        signal = self.steps[self.level]
        if signal is None:
            if not self._send_exception(error, now):
                self.due = now + _SLOT_TAKEN_S
                return
        else:
            self.signalled = True
            # First write, then read; close() does the reverse. So if `left` is not set here yet,
            # close() has still to empty what was written.
            self.signal.value = signal
            if not self.left:
                _pthread_kill(self.ident, self.signal)
        self.escalate(now)

    def _send_exception(self, error: GuardException, now: float) -> bool:
        for other in list(inside):  # a thread can have one pending exception only
            pending = other.interrupt
            if pending is None or pending.settled or other.ident != self.ident or other is self:
                continue
            if not other.left and now - pending.sent_at < _UNSEEN_S:
                return False
            pending.settled = True
        interrupt = Interrupt(error, now)
        self.interrupt = interrupt  # before it is sent, so that close() knows of it
        if _starting and now - self.next_at < _STARTING_S:
            interrupt.settled = True
            return False
        if set_async_exc(self.address, interrupt.kind) == 0:
            interrupt.settled = True
        return True

    @starts_uninterrupted
    def close(self) -> None:
        """Have the thread leave: from now on the guard interrupts nothing. It can be repeated.

        Nothing is called and no loop goes back before the exception is taken back (see
        `starts_uninterrupted`); keep it so.
        """
        self.left = True
        self.address.value = 0
        self.signal.value = 0
        if here.innermost is self:
            here.innermost = self.outer
        if self in inside:  # a child process that was forked inside has forgotten it
            del inside[self]
        interrupt = self.interrupt
        if interrupt is not None and not interrupt.settled:
            interrupt.settled = True
            set_async_exc(self.ident, NOTHING)
        if self.signalled:
            # The kernel hands a signal over at the end of a system call at the latest. After this
            # one, Python's handler runs, and raises here what it raises.
            os.getppid()
