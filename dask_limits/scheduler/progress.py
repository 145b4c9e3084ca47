"""What calls report of their progress, told by events."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from typing import Any, Final, ParamSpec

from dask_limits.events import Emitter
from dask_limits.executors import Call, Future
from dask_limits.limits import LimitedCall
from dask_limits.scheduler.events import SchedulerEvents, TaskEvents
from dask_limits.scheduler.run_loop import RunLoop, Timer

P = ParamSpec("P")

_LEAST_S: Final = 0.05
"""Between two values of a call that are told. A call in a thread of this process may report far
more often, and each callback takes the interpreter from it; from elsewhere values come less often
anyway."""


class Progress:
    """Tells what calls report: the latest value of each, when callbacks of the one before are done.

    `guard` calls what may call the user's code, and handles its errors.
    """

    def __init__(self, loop: RunLoop, of_scheduler: Emitter, guard: Callable[..., object]) -> None:
        self._loop = loop
        self._on_any = of_scheduler.on(SchedulerEvents.FUTURE_PROGRESS)
        self._guard = guard
        self._raised: set[tuple[Callable[..., object], type[Exception]]] = set()
        self._of_task: dict[Future[Any], Emitter | None] = {}  # of each call that is listened to
        self._told_at: dict[Future[Any], float] = {}  # seconds of time.monotonic()
        self._timers: dict[Future[Any], Timer] = {}

    def as_asked_for(self, call: Call, of_task: Emitter | None) -> Call:
        """A call that is about to start, as one that tells if there are callbacks for that."""
        is_asked_for = self._on_any.has_callbacks or (
            of_task is not None and of_task.on(TaskEvents.PROGRESS).has_callbacks
        )
        return (LimitedCall.telling(call[0]), *call[1:]) if is_asked_for else call

    def listen(self, future: Future[Any], of_task: Emitter | None) -> None:
        """Have the values of a call told from now on."""
        self._of_task[future] = of_task
        future.when_progress(lambda future: self._loop.put(partial(self._look, future)))

    def _look(self, future: Future[Any]) -> None:
        wait_s = self._told_at.get(future, 0) + _LEAST_S - time.monotonic()
        if wait_s <= 0:
            self.tell(future)
        elif future not in self._timers:
            self._timers[future] = self._loop.call_later(wait_s, partial(self.tell, future))

    def tell(self, future: Future[Any]) -> None:
        """Tell the latest value of a call now, if there is a new one. Nobody asks for a cancelled
        call any more.
        """
        if (timer := self._timers.pop(future, None)) is not None:
            timer.cancel()
        load = future.take_progress()
        if load is not None and future in self._of_task and not future.cancelled():
            self._told_at[future] = time.monotonic()
            self._guard(self._once, self._emit, future, load)

    def _emit(self, future: Future[Any], load: Callable[[], Any]) -> None:
        value = load()
        self._guard(self._once, self._on_any.emit, future, value)
        if (of_task := self._of_task[future]) is not None:
            self._guard(self._once, of_task.emit, TaskEvents.PROGRESS, future, value)

    def _once(self, fn: Callable[P, object], /, *args: P.args, **kwargs: P.kwargs) -> None:
        """Call this, and raise its exceptions of each type once: they may come with each value.

        What an exception does to a run depends on its type, so the first one has done it.
        """
        try:
            fn(*args, **kwargs)
        except Exception as error:
            if (what := (fn, type(error))) not in self._raised:
                self._raised.add(what)
                raise

    def end(self, future: Future[Any]) -> None:
        """Tell the last value of a call whose end is told next."""
        if future in self._of_task:
            self.tell(future)
            del self._of_task[future]
            self._told_at.pop(future, None)
