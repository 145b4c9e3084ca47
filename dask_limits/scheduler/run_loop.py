"""The run loop: what is to be done, in order, and how to wait for more.

It is a loop of its own and not asyncio's, so that `run()` works where an event loop runs already
(a notebook cell), and so that Ctrl-C ends a wait at once. What is done with each thing is a
generator, `Steps`: it yields how many seconds it can wait, and is sent the next thing. `drive`
waits in a thread, `drive_async` in a coroutine; all else is the same for both.
"""

from __future__ import annotations

import concurrent.futures
import heapq
import itertools
import threading
import time
from collections.abc import Callable, Generator, Iterator
from queue import Empty, SimpleQueue
from typing import Final, ParamSpec, TypeVar

from dask_limits.exceptions import SchedulerNotRunningError

P = ParamSpec("P")
R = TypeVar("R")

Steps = Generator[float | None, object, R]
"""Yields seconds to wait (None: until something comes), is sent the next thing or None."""

_LONGEST_WAIT_S: Final = 3600.0  # locks take no more than some 292 years, and floats may be more


class Timer:
    """Something that is to be called later."""

    def __init__(self, loop: RunLoop, call: Callable[[], object]) -> None:
        self._loop = loop
        self.call = call

    def cancel(self) -> bool:
        """Do not call it after all. From any thread.

        Returns:
            False if it was called or cancelled before.
        """
        return self._loop.cancel(self)


class RunLoop:
    """What is to be done in one run. It belongs to the thread that makes it."""

    def __init__(self) -> None:
        self._thread = threading.get_ident()
        self._todo: SimpleQueue[object] = SimpleQueue()
        self._wake: Callable[[], object] | None = None
        self._lock = threading.Lock()
        self._closed = False
        self._timers: list[tuple[float, int, Timer]] = []  # a heap; cancelled ones stay in it
        self._numbers = itertools.count()  # timers of the same moment are called in their order
        self._pending: set[Timer] = set()

    def put(self, thing: object) -> None:
        """Have something done. From any thread."""
        self._todo.put(thing)
        if (wake := self._wake) is not None:
            wake()

    def has_more(self) -> bool:
        """Whether something is to be done now."""
        return not self._todo.empty()

    def ask(self, fn: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
        """Call a function in the thread of the loop, whichever thread asks, and wait for it.

        Raises:
            SchedulerNotRunningError: if the loop has ended.
        """
        if threading.get_ident() == self._thread:
            return fn(*args, **kwargs)
        answer = concurrent.futures.Future[R]()

        def call() -> None:
            try:
                answer.set_result(fn(*args, **kwargs))
            except BaseException as error:
                answer.set_exception(error)

        with self._lock:  # nothing may come in behind the last that close() takes out
            if self._closed:
                raise SchedulerNotRunningError("The run of the scheduler has ended.")
            self.put(call)
        return answer.result()

    def call_later(self, delay_s: float, call: Callable[[], object]) -> Timer:
        """Have something called after so many seconds. In the thread of the loop."""
        timer = Timer(self, call)
        self._pending.add(timer)
        heapq.heappush(self._timers, (time.monotonic() + delay_s, next(self._numbers), timer))
        self.put(None)  # a coroutine may call this while the loop waits for something later
        return timer

    def cancel(self, timer: Timer) -> bool:
        """Do not call what was to be called later; False if that is too late."""
        if not self._take(timer):
            return False
        self.put(None)  # the loop may have waited for nothing else
        return True

    def cancel_timers(self) -> None:
        """Call nothing later any more."""
        self._pending.clear()
        self._timers.clear()

    def has_timers(self) -> bool:
        """Whether anything is to be called later."""
        return bool(self._pending)

    def due(self) -> Iterator[Callable[[], object]]:
        """What is to be called by now, in order."""
        now = time.monotonic()  # once: a timer that sets itself again must not hold up the rest
        while self._timers and self._timers[0][0] <= now:
            timer = heapq.heappop(self._timers)[2]
            if self._take(timer):
                yield timer.call

    def _take(self, timer: Timer) -> bool:
        try:
            self._pending.remove(timer)  # atomic: either it is called or it is cancelled
        except KeyError:
            return False
        return True

    def wait_s(self, deadline: float | None) -> float | None:
        """How many seconds there are until the next timer, or the deadline if that is sooner."""
        times = [] if deadline is None else [deadline]
        if self._timers:
            times.append(self._timers[0][0])
        return max(0.0, min(times) - time.monotonic()) if times else None

    def close(self) -> None:
        """End: whoever still asks for something gets an answer, from a scheduler that has ended."""
        with self._lock:
            self._closed = True
        while True:
            try:
                thing = self._todo.get_nowait()
            except Empty:
                return
            if callable(thing):
                thing()

    def drive(self, steps: Steps[R]) -> R:
        """Take all steps, and wait in this thread in between."""
        try:
            wait_s = next(steps)
            while True:
                wait_s = steps.send(self._get(wait_s))
        except StopIteration as end:
            return end.value  # type: ignore[no-any-return]
        finally:
            steps.close()

    def _get(self, wait_s: float | None) -> object:
        try:
            return self._todo.get(timeout=None if wait_s is None else min(wait_s, _LONGEST_WAIT_S))
        except Empty:
            return None

    async def drive_async(self, steps: Steps[R]) -> R:
        """Take all steps, and let others have the event loop in between."""
        import asyncio

        event = asyncio.Event()
        loop = asyncio.get_running_loop()
        self._wake = lambda: loop.call_soon_threadsafe(event.set)
        try:
            wait_s = next(steps)
            while True:
                if self._todo.empty() and wait_s != 0:
                    try:
                        async with asyncio.timeout(wait_s):  # wait_for may swallow a cancellation
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
