"""Functions at whose very first instruction nothing is raised."""

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
    """Have pending exceptions and signals wait until after the function's first call.

    CPython raises what is pending (exceptions from other threads, signals) at three places: where
    a function starts, after a call, and where a loop goes back. So a function without calls and
    loops cannot be torn apart, except at its start, before any `try` of its own: a context
    manager's `__exit__` may end there before it has begun. Its first instruction, `RESUME 0`, looks
    for what is pending. `RESUME 2`, which is for going on after `yield from`, is the same but does
    not look.

    Source: https://docs.python.org/3/library/dis.html#opcode-RESUME. On a Python whose functions
    start in another way the function stays as it is.
    """
    assert isinstance(function, FunctionType)
    code = function.__code__
    if code.co_code.startswith(_START):
        function.__code__ = code.replace(co_code=_START_WITHOUT_CHECK + code.co_code[2:])
    return function
