"""An exception that one thread raises in another."""

from __future__ import annotations

import ctypes
import functools
from typing import Any, Final

from dask_limits.guards.errors import GuardException
from dask_limits.guards.uninterrupted import starts_uninterrupted

# The functions of a PyDLL keep the GIL. Not ctypes.pythonapi: its argument types are shared.
set_async_exc: Final = ctypes.PyDLL(None).PyThreadState_SetAsyncExc
"""Raise this exception class in that thread as soon as it runs Python again; one at a time.

Source: https://docs.python.org/3/c-api/init.html#c.PyThreadState_SetAsyncExc
"""
set_async_exc.argtypes = (ctypes.c_ulong, ctypes.py_object)
set_async_exc.restype = ctypes.c_int

NOTHING: Final = ctypes.py_object()
"""Passed instead of an exception class, it takes back an exception that is pending."""


class Interrupt:
    """An exception that is sent to a thread.

    Python accepts only a class, and makes the instance when it raises it. The class made here
    returns the instance that was prepared, and so shows which exception has arrived.

    Attributes:
        error: The instance, until it arrives.
        settled: Whether it has arrived, or was taken back or replaced.
        sent_at: Seconds of time.monotonic().
        kind: The class to raise.
    """

    __slots__ = ("error", "kind", "sent_at", "settled")

    def __init__(self, error: GuardException, sent_at: float) -> None:
        self.error: GuardException | None = error
        self.sent_at = sent_at
        self.settled = False
        parent = type(error)
        make = staticmethod(functools.partial(_arrive, self))
        self.kind = type(parent.__name__, (parent,), {"__new__": make})


@starts_uninterrupted
def _arrive(
    interrupt: Interrupt, _: type[Any], error: GuardException | None = None
) -> GuardException | None:
    interrupt.settled = True
    if error is None:  # within an except clause, Python 3.11 asks again, with the first answer
        # Not kept: the class would keep it, and all that its traceback refers to, until the next
        # garbage collection.
        error, interrupt.error = interrupt.error, None
    return error
