from __future__ import annotations

import concurrent.futures
from collections import OrderedDict
from functools import partial
from typing import Generic, ParamSpec, TypeVar

from dask_limits.events import Emitter, Event
from dask_limits.executors import Call, Future
from dask_limits.executors.cluster import Rerun
from dask_limits.executors.deferred_future import DeferredFuture
from dask_limits.plugins.base import RETRY, Plugin
from dask_limits.scheduler.events import TaskEvents
from dask_limits.scheduler.run import Run

P = ParamSpec("P")
R = TypeVar("R")


class TaskCalls(Generic[R]):
    """The calls of a task that are not done: those that run, and those that its plugins hold.

    Attributes:
        futures: The futures of all, in order of submission.
        held: The futures of the held calls, with the run that each belongs to.
        plugins: The plugins, in the order in which they see a call.
        n_submitted: How many calls were submitted in all.
    """

    def __init__(self, emitter: Emitter) -> None:
        self.futures: dict[Future[R], None] = {}  # as a set that keeps its order
        self.held: OrderedDict[DeferredFuture[R], Run] = OrderedDict()
        self.plugins: list[Plugin] = []
        self.n_submitted = 0
        self._emitter = emitter
        self._retriers: list[Plugin] = []  # those that may want another attempt

    def attach(self, plugin: Plugin) -> None:
        """Add a plugin, after those that are there."""
        self.plugins.append(plugin)
        if may_retry(plugin):
            self._retriers.append(plugin)

    def submit(self, run: Run, call: Call) -> Future[R] | None:
        """Submit a call, or hold it. None if a plugin has refused it."""
        _, args, kwargs = call
        for plugin in self.plugins:
            changed = plugin.pre_submit(call[0], *call[1], **call[2])
            if changed is None:
                return None
            call = changed
        future: Future[R]
        if self.held or not self._has_place():
            future = held = DeferredFuture[R]()
            self.held[held] = run
        elif self._retriers:
            future = deferred = DeferredFuture[R]()
            self._attempt(run, deferred, call)
        else:
            future = run.start(call)
        # All counts are right before the first callback, which may submit again.
        self.futures[future] = None
        self.n_submitted += 1
        run.add(future, call, self)
        self._emit(run, TaskEvents.SUBMITTED, future, *args, **kwargs)
        return future

    def start_held(self) -> None:
        """Start the held calls that may start now."""
        while self.held:
            future, run = next(iter(self.held.items()))
            if not (run.running() and self._has_place()):
                return
            del self.held[future]
            self._start(run, future)

    # -- called by the run -----------------------------------------------------------------

    def forget(self, future: Future[R]) -> None:
        """Remove a call that has ended."""
        self.futures.pop(future, None)
        if isinstance(future, DeferredFuture):
            self.held.pop(future, None)

    def emit_end(self, run: Run, future: Future[R]) -> None:
        """Emit the events of a call that has ended, and call `post_done` of the plugins."""
        if future.cancelled():
            self._emit(run, TaskEvents.CANCELLED, future)
        else:
            self._emit(run, TaskEvents.DONE, future)
            if (error := future.exception()) is None:
                self._emit(run, TaskEvents.RESULT, future, future.result())
            else:
                self._emit(run, TaskEvents.EXCEPTION, future, error)
        for plugin in self.plugins:
            run.guard(plugin.post_done, future)

    def emit_rerun(self, run: Run, rerun: Rerun) -> None:
        """Emit the event of a call that runs again because its worker was lost."""
        self._emit(run, TaskEvents.RERUN, rerun.future, rerun.error, rerun.attempt)

    def _emit(self, run: Run, event: Event[P], /, *args: P.args, **kwargs: P.kwargs) -> None:
        run.guard(self._emitter.emit, event, *args, **kwargs)

    # -- attempts --------------------------------------------------------------------------

    def _start(self, run: Run, future: DeferredFuture[R]) -> None:
        """Start a call that was held, or the next attempt of one."""
        if not future.done():  # it may be cancelled, and the run not know that yet
            self._attempt(run, future, run.queue[future])

    def _attempt(self, run: Run, future: DeferredFuture[R], call: Call) -> None:
        """Submit a call to the executor. Plugins that may retry it are asked when it has failed."""

        def then(attempt: concurrent.futures.Future[R]) -> None:
            run.loop.put(partial(self._attempt_ended, run, future, attempt))

        future.start(run.executor, call, then if self._retriers else future.end_as)

    def _attempt_ended(
        self, run: Run, future: DeferredFuture[R], attempt: concurrent.futures.Future[R]
    ) -> None:
        """End a call as its attempt has ended, or submit it again."""
        if future.done():
            return  # it was cancelled in the meantime
        error = None if attempt.cancelled() else attempt.exception()
        again = False
        try:
            again = error is not None and run.running() and self._again(run, future, error)
        finally:  # the call must end, even if a plugin raises
            if not again:
                future.end_as(attempt)
        if again and error is not None:
            self._emit(run, RETRY, future, error, future.attempts + 1)

    def _again(self, run: Run, future: DeferredFuture[R], error: BaseException) -> bool:
        """Schedule the next attempt if a plugin wants one."""
        for plugin in self._retriers:
            if (again := plugin.next_attempt(future, error, run.queue[future])) is not None:
                call, delay_s = again
                # Even without a delay: callbacks come first, and may cancel it or end the run.
                timer = run.call_later(float(delay_s), partial(self._start, run, future))
                run.queue[future] = call
                future.rest(error, timer.cancel)
                return True
        return False

    def _has_place(self) -> bool:
        return all(plugin.has_place() for plugin in self.plugins)


def may_retry(plugin: Plugin) -> bool:
    """Whether a plugin may want another attempt of a call that has failed."""
    return getattr(type(plugin), "next_attempt", Plugin.next_attempt) is not Plugin.next_attempt
