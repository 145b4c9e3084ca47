"""The base class of guards: a context manager and a decorator."""

from __future__ import annotations

import copy
import functools
import inspect
import math
import sys
from abc import ABC, abstractmethod
from collections.abc import Callable
from numbers import Real
from types import FrameType
from typing import Any, ParamSpec, Self, TypeVar

from dask_limits.guards.async_exception import starts_uninterrupted
from dask_limits.guards.entry import Entry, here, inside
from dask_limits.guards.escalation import InterruptType
from dask_limits.guards.watcher import watcher
from dask_limits.printable import printable

P = ParamSpec("P")
R = TypeVar("R")


class Guard(ABC):
    """Limits the code inside it, by interrupting its thread.

    It has no state but its settings: it can be entered several times, inside itself, and by several
    threads at once, and it can be pickled.
    """

    pause_s: float  # between two interrupts
    poll_s: float  # between two looks, once it has interrupted

    def __init__(
        self, interrupt_type: InterruptType, send_kill: bool, check_interval: float
    ) -> None:
        if not isinstance(interrupt_type, InterruptType):
            names = ", ".join(map(str, InterruptType))  # type: ignore[unreachable]
            raise TypeError(f"interrupt_type={interrupt_type!r} is not one of {names}.")
        self.interrupt_type = interrupt_type
        if send_kill and interrupt_type is InterruptType.exception:
            raise ValueError(
                "send_kill=True has no effect with InterruptType.exception, which sends no"
                " signals. Use InterruptType.exception_then_signal, or leave send_kill out."
            )
        self.send_kill = bool(send_kill)
        self.check_interval_s = number(check_interval, "check_interval", "milliseconds") / 1000
        self._function = ""  # the name of the one that it decorates
        self.copy_of: Guard | None = None

    @abstractmethod
    def _entry(self, what: str) -> Entry:
        """The entry of the calling thread, which is about to enter. Its code is named `what`."""

    def __enter__(self) -> Self:
        entry = self._entry(self._function or _place(sys._getframe(1)))
        outer = here.innermost
        while outer is not None and outer.left:  # out of order, see _find_entry()
            outer = outer.outer
        entry.outer = outer
        try:
            here.innermost = entry
            inside[entry] = None
            watcher.attend(entry.due)
        except BaseException:  # perhaps its own interrupt, which can come once it is in `inside`
            entry.close()
            if not inside:
                watcher.all_have_left()
            raise
        return self

    @starts_uninterrupted
    def __exit__(self, *_: object) -> None:
        # As in close(): nothing may be raised before it is called.
        try:
            entry = here.innermost
            if entry is None or entry.guard is not self or entry.left:
                entry = self._find_entry()
            if entry is not None:
                entry.close()
        finally:  # the signal that close() waits for may raise KeyboardInterrupt
            if not inside:
                watcher.all_have_left()

    def _find_entry(self) -> Entry | None:
        """The entry to close if guards are not left in the order in which they were entered.

        This happens with a generator that is suspended inside a guard. Another thread may even
        close it, after the first one has ended and its entry is forgotten.
        """
        entry = here.innermost
        while entry is not None and (entry.left or entry.guard is not self):
            entry = entry.outer
        return entry or next((entry for entry in list(inside) if entry.guard is self), None)

    def _innermost(self) -> Entry | None:
        """The calling thread's innermost entry of this guard, or of a function it decorates."""
        entry = here.innermost
        while entry is not None and (entry.left or not self._is_entered_by(entry)):
            entry = entry.outer
        return entry

    def _is_entered_by(self, entry: Entry) -> bool:
        return entry.guard is self or entry.guard.copy_of is self

    def __call__(self, function: Callable[P, R]) -> Callable[P, R]:
        """The function, inside a guard of its own at each call."""
        return self._decorate(function)[1]

    def _decorate(self, function: Callable[P, R]) -> tuple[Guard, Callable[P, R]]:
        """The function inside a guard of its own, and that guard."""
        _refuse_what_cannot_be_guarded(function)
        guard = copy.copy(self)
        guard.copy_of = self
        guard._function = f"{_name(function)}()"

        @functools.wraps(function)
        def guarded(*args: P.args, **kwargs: P.kwargs) -> R:
            with guard:
                return function(*args, **kwargs)

        return guard, guarded


def number(value: object, name: str, unit: str, least: float | None = None) -> float:
    """A valid number for a guard's setting: above 0, or `least` or more."""
    if isinstance(value, bool) or not isinstance(value, Real):
        raise TypeError(f"{name}={value!r} ({type(value).__name__}) is not a number of {unit}.")
    try:
        amount = float(value)
    except OverflowError:  # a whole number can be larger than any float
        amount = math.inf
    too_small = amount <= 0 if least is None else amount < least
    if too_small or not math.isfinite(amount):
        bound = "more than 0" if least is None else f"{least:g} or more"
        raise ValueError(f"{name}={value!r} must be {bound} and finite, in {unit}.")
    return amount


def _refuse_what_cannot_be_guarded(function: object) -> None:
    if isinstance(function, staticmethod | classmethod | property):
        kind = type(function).__name__
        raise TypeError(f"A guard must be next to the function: put @{kind} above it.")
    if isinstance(function, type):
        raise TypeError(
            f"A guard decorates functions, but {function.__name__} is a class: decorate its"
            " methods, or use the guard in a with statement."
        )
    if not callable(function):
        raise TypeError(f"A guard decorates functions, but {function!r} cannot be called.")
    while isinstance(function, functools.partial):
        function = function.func
    inner: Any = function if inspect.isroutine(function) else type(function).__call__
    if inspect.iscoroutinefunction(inner):
        raise TypeError(
            f"{_name(function)}() is a coroutine function: while it awaits, other code runs in its"
            " thread, which a guard would interrupt. Use asyncio.timeout()."
        )
    if inspect.isgeneratorfunction(inner) or inspect.isasyncgenfunction(inner):
        raise TypeError(
            f"{_name(function)}() is a generator function: calling it does not run its body."
            " Use the guard in a with statement between two yields, or around the loop."
        )


def _name(function: object) -> str:
    return printable(str(getattr(function, "__qualname__", None) or type(function).__qualname__))


def _place(frame: FrameType) -> str:
    """The name of a with statement's block, for messages."""
    return f"The block in {frame.f_code.co_filename}, line {frame.f_lineno},"
