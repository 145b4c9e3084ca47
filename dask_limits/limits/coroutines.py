from __future__ import annotations

import asyncio
import contextlib
import selectors
from collections.abc import Coroutine
from types import TracebackType
from typing import Any, Final, Self

_WAKE_EVERY_S: Final = 0.01
_LAST_STEPS_S: Final = 0.5
"""How long an interrupted coroutine, and tasks that it has started, may take to clean up."""


class CoroutineRunner:
    """Runs a coroutine to its end in this thread, also where an event loop runs already.

    Such a loop, as in a cell of a notebook, waits for this call and cannot run another, and asyncio
    refuses a second one. But no other thread may run the coroutine: guards interrupt this one, and
    measure its CPU time.

    This is a context. If guards may interrupt it by an exception of the type `interrupt`, enter it
    before them, as they do so anywhere: its end restores this thread. Its loop then looks up from
    its waiting every 10 ms, for no interrupt arrives while a thread waits. A loop that is made
    `at_once` cannot be interrupted while it is made.
    """

    def __init__(
        self, *, interrupt: type[BaseException] | None = None, at_once: bool = False
    ) -> None:
        self._interrupt = interrupt
        self._in_callback: BaseException | None = None  # the interrupt, if it came in one
        self._outer = asyncio._get_running_loop()
        self._task = None if self._outer is None else asyncio.current_task(self._outer)
        self._coroutine: Coroutine[Any, Any, Any] | None = None
        self._loop = self._new_loop() if at_once else None

    def __enter__(self) -> Self:
        return self

    def run(self, coroutine: Coroutine[Any, Any, Any]) -> Any:
        """Run a coroutine, the only one."""
        self._coroutine = coroutine
        loop = self._loop = self._loop or self._new_loop()
        runner = asyncio.Runner(loop_factory=lambda: loop)
        if self._outer is not None:
            if self._task is not None:
                asyncio.tasks._leave_task(self._outer, self._task)
            asyncio._set_running_loop(None)
        try:
            result = runner.run(coroutine)
        except BaseException as raised:
            error = self._in_callback or raised
            traceback = _users_traceback(error.__traceback__, coroutine)
            if self._interrupt is not None and isinstance(error, self._interrupt):
                self._end_tasks(loop, self._interrupt)
            else:
                runner.close()
            error.__traceback__ = traceback
            if error is not raised:
                raise error from None
            raise
        runner.close()
        return result

    def _end_tasks(self, loop: asyncio.AbstractEventLoop, interrupt: type[BaseException]) -> None:
        """Cancel all tasks, and let them clean up.

        The interrupt may have come when the loop was about to take a step of a task, which then
        never ends.
        """
        loop.set_exception_handler(_say_nothing)  # that a task is destroyed, for example
        with contextlib.suppress(interrupt):
            tasks = asyncio.all_tasks(loop)
            for task in tasks:
                task.cancel()
            if tasks:
                loop.run_until_complete(asyncio.wait(tasks, timeout=_LAST_STEPS_S))

    def _on_error(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        """End the loop if it has caught an interrupt as the error of a callback."""
        error = context.get("exception")
        if self._interrupt is not None and isinstance(error, self._interrupt):
            self._in_callback = error
            loop.stop()
        else:
            loop.default_exception_handler(context)

    def _new_loop(self) -> asyncio.AbstractEventLoop:
        loop = asyncio.new_event_loop()
        if self._interrupt is None:
            return loop
        if type(loop) is asyncio.SelectorEventLoop:  # otherwise it is of a user's policy
            loop.close()
            loop = asyncio.SelectorEventLoop(_WakingSelector())
        loop.set_exception_handler(self._on_error)
        return loop

    def __exit__(self, *_: object) -> None:
        if self._loop is not None and not self._loop.is_closed():  # it was not used, or interrupted
            self._loop.set_exception_handler(_say_nothing)
            with contextlib.suppress(RuntimeError):
                self._loop.close()
        if self._coroutine is not None:
            with contextlib.suppress(BaseException):
                self._coroutine.close()
        asyncio._set_running_loop(self._outer)
        if self._outer is not None and asyncio.current_task(self._outer) is not self._task:
            asyncio.tasks._enter_task(self._outer, self._task)  # type: ignore[arg-type]


class _WakingSelector(selectors.DefaultSelector):
    """A selector that never waits for long."""

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        return super().select(_WAKE_EVERY_S if timeout is None else min(timeout, _WAKE_EVERY_S))


def _say_nothing(*_: object) -> None:
    pass


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
