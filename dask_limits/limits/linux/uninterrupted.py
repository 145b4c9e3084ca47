"""Steps that no signal comes between.

A signal's handler runs in the main thread between two instructions of Python code, and may raise,
as that of Ctrl-C does. What a call has returned is then lost before it is assigned, be it a file or
a process. But a call of C code, with all C code that it calls itself, is one instruction. So these
functions have C code call C code, and leave the results in a list, which its owner empties whatever
happens.
"""

from __future__ import annotations

import collections
import contextlib
from collections.abc import Callable
from itertools import repeat, starmap
from operator import call
from typing import Any, TypeVar

R = TypeVar("R")


def put(results: list[R] | collections.deque[R], fn: Callable[..., R], *args: Any) -> None:
    """Call a function of C code, and append what it returns, in one step.

    To move something from a list to another: `put(others, some.pop)`.
    """
    results.extend(starmap(fn, (args,)))


def together(*calls: tuple[Any, ...]) -> None:
    """Make several calls, each a function of C code and its arguments, in one step."""
    collections.deque(starmap(call, calls), maxlen=0)


def use_up(things: list[R], fn: Callable[..., object], *more: Any) -> None:
    """Call a function of C code with each thing in a list; each leaves the list with its call.

    Several threads may use up the same list.
    """
    popped = starmap(things.pop, repeat((), len(things)))
    with contextlib.suppress(IndexError):  # another thread has taken the last one
        collections.deque(map(fn, popped, *map(repeat, more)), maxlen=0)
