"""Runs a coroutine to its end in the current thread, also where an event loop runs already."""

from __future__ import annotations

import asyncio
import contextlib
import selectors
from collections.abc import Callable, Coroutine, Iterator
from types import TracebackType
from typing import Any, Final

_WAKE_EVERY_S: Final = 0.01


def run(coroutine: Coroutine[Any, Any, Any], *, wakes: bool = False) -> Any:
    """Run a coroutine in a new event loop.

    A loop that runs in this thread, as in a cell of a notebook, waits for this call and cannot run
    another, and asyncio refuses a second one. But no other thread may run the coroutine: guards
    interrupt this one, and measure its CPU time.

    A loop that `wakes` looks up from its waiting every 10 ms, so that guards can interrupt it.
    """
    make: Callable[[], asyncio.AbstractEventLoop]
    make = _loop_that_wakes if wakes else asyncio.new_event_loop
    with running_loop_restored(), asyncio.Runner(loop_factory=make) as runner:
        if (loop := asyncio._get_running_loop()) is not None:
            if (task := asyncio.current_task(loop)) is not None:
                asyncio.tasks._leave_task(loop, task)
            asyncio._set_running_loop(None)
        try:
            return runner.run(coroutine)
        except BaseException as error:
            error.__traceback__ = _users_traceback(error.__traceback__, coroutine)
            raise


def _users_traceback(tb: TracebackType | None, coroutine: Any) -> TracebackType | None:
    """A traceback from the coroutine on, without the frames of asyncio before it.

    If the loop was interrupted while the coroutine waited, it says where that was.
    """
    at = tb
    while at is not None:
        if at.tb_frame.f_code is coroutine.cr_code:
            return at
        at = at.tb_next
    frames = []
    while (frame := getattr(coroutine, "cr_frame", None)) is not None:
        frames.append(frame)
        coroutine = coroutine.cr_await
    for frame in reversed(frames):
        at = TracebackType(at, frame, frame.f_lasti, frame.f_lineno)
    return at or tb


@contextlib.contextmanager
def running_loop_restored() -> Iterator[None]:
    """A context after which the same event loop and task run in this thread as before."""
    loop = asyncio._get_running_loop()
    task = None if loop is None else asyncio.current_task(loop)
    try:
        yield
    finally:
        asyncio._set_running_loop(loop)
        if loop is not None and task is not None and asyncio.current_task(loop) is not task:
            asyncio.tasks._enter_task(loop, task)


def _loop_that_wakes() -> asyncio.AbstractEventLoop:
    loop = asyncio.new_event_loop()
    if type(loop) is not asyncio.SelectorEventLoop:  # of the user's own policy
        return loop
    loop.close()
    return asyncio.SelectorEventLoop(_WakingSelector())


class _WakingSelector(selectors.DefaultSelector):
    """A selector that never waits for long: the thread cannot be interrupted until it returns."""

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        return super().select(_WAKE_EVERY_S if timeout is None else min(timeout, _WAKE_EVERY_S))
