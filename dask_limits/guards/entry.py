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
import os
import threading
from abc import ABC, abstractmethod
from typing import Final, Protocol

from dask_limits.guards.async_exception import NOTHING, Interrupt, set_async_exc
from dask_limits.guards.errors import GuardException
from dask_limits.guards.escalation import Steps
from dask_limits.guards.uninterrupted import starts_uninterrupted


class Entered(Protocol):
    """What an entry knows of its guard."""

    @property
    def copy_of(self) -> object:
        """The guard that this one, which a decorated function has for itself, was copied from."""


class Entry(ABC):
    """One time that a thread is inside a guard.

    Attributes:
        guard: The guard.
        what: The name of the guarded code, for messages.
        thread: The thread that is inside.
        ident: Its `threading.get_ident()`.
        address: The same number while inside; then 0, which is not a thread.
        signal: The number of the signal that is being sent; once outside 0, which is not a signal.
        left: Whether the thread has left.
        outer: The entry of the same thread around this one.
        steps: What interrupts it, in order.
        level: How many of them have been sent.
        next_at: When the next one is due, in seconds of time.monotonic().
        due: When the watcher has to look again, likewise.
        interrupt: The exception that was sent last.
        signalled: Whether a signal was ever sent.
    """

    __slots__ = (
        "address",
        "due",
        "guard",
        "ident",
        "interrupt",
        "left",
        "level",
        "next_at",
        "outer",
        "signal",
        "signalled",
        "steps",
        "thread",
        "what",
    )

    def __init__(
        self, guard: Entered, what: str, thread: threading.Thread, steps: Steps, due: float
    ) -> None:
        assert thread.ident is not None
        self.guard = guard
        self.what = what
        self.thread = thread
        self.ident = thread.ident
        self.address = ctypes.c_ulong(thread.ident)
        self.signal = ctypes.c_int(0)
        self.left = False
        self.outer: Entry | None = None
        self.steps = steps
        self.level = 0
        self.next_at = due
        self.due = due
        self.interrupt: Interrupt | None = None
        self.signalled = False

    @abstractmethod
    def look(self, now: float) -> GuardException | None:
        """Set `due`, and return the exception if an interrupt is due."""

    @abstractmethod
    def escalate(self, now: float) -> None:
        """Go on to the next interrupt, after one was sent."""

    @property
    def step(self) -> str:
        """Which interrupt is next, for messages."""
        return f"interrupt {self.level + 1} of {len(self.steps)}"


class _Here(threading.local):
    """The innermost entry of the calling thread. Reading it calls no Python function."""

    innermost: Entry | None = None


here: Final = _Here()
inside: Final[dict[Entry, None]] = {}
"""All entries whose thread has not left, in the order in which they were made."""


@starts_uninterrupted
def close(entry: Entry) -> None:
    """Have the thread leave: from now on the guard interrupts nothing. It can be repeated.

    Nothing is called and no loop goes back before the exception is taken back (see
    `starts_uninterrupted`); keep it so.
    """
    entry.left = True
    entry.address.value = 0
    entry.signal.value = 0
    if here.innermost is entry:
        here.innermost = entry.outer
    if entry in inside:  # a child process that was forked inside has forgotten it
        del inside[entry]
    interrupt = entry.interrupt
    if interrupt is not None and not interrupt.settled:
        interrupt.settled = True
        set_async_exc(entry.ident, NOTHING)
    if entry.signalled:
        # The kernel hands a signal over at the end of a system call at the latest. After this
        # one, Python's handler runs, and raises here what it raises.
        os.getppid()
