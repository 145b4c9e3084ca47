"""Functions in which nothing is raised at the first instruction."""

from __future__ import annotations

from collections.abc import Callable
from opcode import opmap
from types import FunctionType
from typing import Final, ParamSpec, TypeVar

P = ParamSpec("P")
R = TypeVar("R")

_START: Final = bytes((opmap.get("RESUME", 0), 0))
_START_WITHOUT_CHECK: Final = bytes((opmap.get("RESUME", 0), 2))


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
