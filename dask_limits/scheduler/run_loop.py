"""The run loop: a queue of things to do, timers, and the wait for more.

This is not asyncio's event loop, for two reasons: `run()` works where an event loop is running
already (a notebook cell), and Ctrl-C ends a wait at once. The code that handles each thing is a
generator, `Steps`. It yields the number of seconds that it can wait, and is sent the next thing.
`drive` waits in a thread, `drive_async` in a coroutine; everything else is the same for both.
"""

from __future__ import annotations

import heapq
import itertools
import threading
import time
from collections.abc import Callable, Generator, Iterator
from functools import partial
from queue import Empty, SimpleQueue
from typing import ParamSpec, TypeVar

from dask_limits.limits.trace_context import carrying
from dask_limits.scheduler.requests import LONGEST_WAIT_S, inbox_of_this_thread
from dask_limits.scheduler.sigterm import raise_again

P = ParamSpec("P")
R = TypeVar("R")

Steps = Generator[float | None, object, R]
"""Yields the seconds to wait (None: until something comes); is sent the next thing, or None."""


class Timer:
    """A call that is to be made later."""

    def __init__(self, loop: RunLoop) -> None:
        self._loop = loop

    def cancel(self) -> bool:
        """Cancel the call, from any thread. Return False if it was made or cancelled before."""
        return self._loop.cancel(self)


class RunLoop:
    """The things to do in one run. It belongs to the thread that creates it.

    Attributes:
        deadline: When the run is to end, by `time.monotonic()`; None if it has no timeout.
    """

    def __init__(self) -> None:
        self.deadline: float | None = None
        self._thread = threading.get_ident()
        self._inbox = inbox_of_this_thread()
        self._todo: SimpleQueue[object] = SimpleQueue()
        self._wake: Callable[[], object] | None = None
        self._closed = False
        self._timers: list[tuple[float, int, Timer]] = []  # a heap; cancelled ones stay in it
        self._numbers = itertools.count()  # timers of the same moment are called in their order
        # pop() is atomic: the call of a timer is either made or cancelled.
        self._pending: dict[Timer, Callable[[], object]] = {}

    def put(self, thing: object) -> None:
        """Add something to do. This can be called from any thread."""
        self._todo.put(thing)
        if (wake := self._wake) is not None:
            wake()

    def has_more(self) -> bool:
        """Whether there is something to do now."""
        return not self._todo.empty()

    def ask(self, fn: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
        """Call a function in the thread of the loop, and wait for it. From any thread."""
        if threading.get_ident() == self._thread:
            return fn(*args, **kwargs)
        return self._inbox.ask(self, carrying(partial(fn, *args, **kwargs)), lambda: self._closed)

    def call_later(self, delay_s: float, call: Callable[[], object]) -> Timer:
        """Call something after so many seconds, in the thread of the loop."""
        timer = Timer(self)
        self._pending[timer] = call
        heapq.heappush(self._timers, (time.monotonic() + delay_s, next(self._numbers), timer))
        self.put(None)  # wakes the loop, if a coroutine calls this while the loop waits longer
        return timer

    def cancel(self, timer: Timer) -> bool:
        """Cancel a timer; False if it is too late."""
        if self._pending.pop(timer, None) is None:
            return False
        self.put(None)  # wakes the loop: this may have been all that it waited for
        return True

    def cancel_timers(self) -> None:
        """Cancel all timers."""
        self._pending.clear()
        self._timers.clear()

    def has_timers(self) -> bool:
        """Whether there is a pending timer."""
        return bool(self._pending)

    def due(self) -> Iterator[Callable[[], object]]:
        """Yield the calls whose time has come, in order."""
        now = time.monotonic()  # once: a timer that sets itself again must not delay the rest
        while self._timers and self._timers[0][0] <= now:
            timer = heapq.heappop(self._timers)[2]
            if (call := self._pending.pop(timer, None)) is not None:
                yield call

    def wait_s(self) -> float | None:
        """The seconds until the next timer or the deadline, whichever comes first."""
        times = [] if self.deadline is None else [self.deadline]
        if self._timers:
            times.append(self._timers[0][0])
        return max(0.0, min(times) - time.monotonic()) if times else None

    def close(self) -> None:
        """End the loop. Threads that wait in `ask` are told that the run has ended."""
        self._closed = True
        self._inbox.refuse(self)

    def drive(self, steps: Steps[R]) -> R:
        """Take all steps, and wait between them in this thread."""
        try:
            with self._inbox.answered_in(self):
                wait_s = next(steps)
                while True:
                    raise_again()
                    wait_s = steps.send(self._get(wait_s))
        except StopIteration as end:
            return end.value  # type: ignore[no-any-return]
        finally:
            steps.close()

    def _get(self, wait_s: float | None) -> object:
        try:
            return self._todo.get(timeout=_not_long(wait_s))
        except Empty:
            return None

    async def drive_async(self, steps: Steps[R]) -> R:
        """Take all steps, and give control to the event loop between them."""
        import asyncio

        event = asyncio.Event()
        loop = asyncio.get_running_loop()
        self._wake = lambda: loop.call_soon_threadsafe(event.set)
        try:
            with self._inbox.answered_in(self):
                wait_s = next(steps)
                while True:
                    if not self.has_more() and wait_s != 0:
                        try:
                            # asyncio.wait_for() may lose a cancellation. A kernel of a notebook
                            # notes an interrupt in its handler of the signal, which does not wake
                            # the event loop: so this never waits long.
                            async with asyncio.timeout(_not_long(wait_s)):
                                await event.wait()
                        except TimeoutError:
                            pass
                    else:
                        await asyncio.sleep(0)
                    event.clear()
                    wait_s = steps.send(self._get(0))
        except StopIteration as end:
            return end.value  # type: ignore[no-any-return]
        finally:
            self._wake = None
            steps.close()


def _not_long(wait_s: float | None) -> float:
    return LONGEST_WAIT_S if wait_s is None else min(wait_s, LONGEST_WAIT_S)
