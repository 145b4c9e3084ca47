"""Exceptions that one thread raises in another, and functions that they cannot stop at once."""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Callable
from opcode import opmap
from types import FunctionType
from typing import Any, Final, ParamSpec, TypeVar

from dask_limits.guards.errors import GuardException

P = ParamSpec("P")
R = TypeVar("R")

_START: Final = bytes((opmap.get("RESUME", 0), 0))
_START_WITHOUT_CHECK: Final = bytes((opmap.get("RESUME", 0), 2))

# The functions of a PyDLL keep the GIL. Not ctypes.pythonapi: its argument types are shared.
set_async_exc: Final = ctypes.PyDLL(None).PyThreadState_SetAsyncExc
"""Raise this exception class in that thread as soon as it runs Python again; one at a time.

Source: https://docs.python.org/3/c-api/init.html#c.PyThreadState_SetAsyncExc
"""
set_async_exc.argtypes = (ctypes.c_ulong, ctypes.py_object)
set_async_exc.restype = ctypes.c_int

NOTHING: Final = ctypes.py_object()
"""Passed instead of an exception class, it takes back an exception that is pending."""


def starts_uninterrupted(function: Callable[P, R]) -> Callable[P, R]:
    """Delay pending exceptions and signals until after the first call in the function.

    CPython raises what is pending (exceptions from other threads, signals) at three places: where
    a function starts, after a call, and where a loop goes back. So a function without calls and
    loops cannot be interrupted, except at its start, before any `try` of its own: a context
    manager's `__exit__` may end there before it has begun. Its first instruction, `RESUME 0`,
    checks for what is pending. `RESUME 2`, which resumes after `yield from`, does not check.

    Source: https://docs.python.org/3/library/dis.html#opcode-RESUME. If functions start in another
    way on this Python, the function stays as it is.
    """
    assert isinstance(function, FunctionType)
    code = function.__code__
    if code.co_code.startswith(_START):
        function.__code__ = code.replace(co_code=_START_WITHOUT_CHECK + code.co_code[2:])
    return function


class Interrupt:
    """An exception that is sent to a thread.

    Python accepts only a class, and makes the instance when it raises it. The class made here
    returns the instance that was prepared, and so shows which exception has arrived.
    """

    __slots__ = {
        "error": "The instance, until it arrives.",
        "kind": "The class to raise.",
        "sent_at": "Seconds of time.monotonic().",
        "settled": "Whether it has arrived, or was taken back or replaced.",
    }

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
