from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable
from concurrent.futures import CancelledError, Executor
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, ParamSpec

from dask_limits.display.live import REDRAW_EVERY_S
from dask_limits.events import Emitter, Event
from dask_limits.executors import Call, ExecutorFactory, Future
from dask_limits.executors.cluster import (
    ClusterEvent,
    ClusterState,
    Rerun,
    WaitingForWorkers,
    WatchedExecutor,
    WorkerAdded,
    WorkerRemoved,
)
from dask_limits.executors.future import DeferredFuture
from dask_limits.executors.traced import submit
from dask_limits.limits import name_of
from dask_limits.plugins import Plugin
from dask_limits.printable import repr_of
from dask_limits.report import Recorder
from dask_limits.scheduler.events import SchedulerEvents, TaskEvents, events_of_end
from dask_limits.scheduler.exit_state import Action, ExitState, RunOptions
from dask_limits.scheduler.feed import Feed, Feeds
from dask_limits.scheduler.progress import Progress
from dask_limits.scheduler.requests import TimeIsUpError
from dask_limits.scheduler.run_log import RunLog
from dask_limits.scheduler.run_loop import RunLoop, Steps, Timer

P = ParamSpec("P")


@dataclass(eq=False)
class CallHooks:
    """What a run needs of the task that a call belongs to."""

    emitter: Emitter
    plugins: list[Plugin]
    forget: Callable[[Future[Any]], None]
    start_held: Callable[[], None]


class Run:
    """One run of a scheduler, from the start of its executor to its shutdown.

    Its events, in order:

    - The first workers of a cluster. Other events of the cluster come at any time from here on.
    - STARTED. Then, for each call that ends, the events of the scheduler and those of its task;
      its plugins are told; then its exception may end the run.
    - EMPTY, each time that no call and no timer is left.
    - STOP or TIMEOUT, if it has ended the run; FINISHING; the events of the calls that are waited
      for or cancelled; FINISHED.

    Attributes:
        queue: The calls that are not done. Each leaves it before its events are emitted.
        cluster: What the executor has reported about its cluster.
        progress: What calls have reported of their progress.
        error: What `Scheduler.run` raises in the end.
    """

    def __init__(
        self,
        emitter: Emitter,
        factory: ExecutorFactory,
        options: RunOptions,
        view: AbstractContextManager[Callable[[], None] | None],
        recorder: Recorder,
    ) -> None:
        self.loop = RunLoop()
        self.queue: dict[Future[Any], Call] = {}
        self.error: BaseException | None = None
        self.cluster = ClusterState(recorder)
        self.progress = Progress(self.loop, emitter, self.guard)
        self._log = RunLog()
        self._emitter = emitter
        self._options = options
        self._view = view
        self._recorder = recorder
        self._factory = factory
        self._hooks: dict[Future[Any], CallHooks] = {}
        self._put = self.loop.put  # one object for all calls
        self._feeds = Feeds()
        self._empty_told = False
        self._stop: tuple[str, BaseException | None] | None = None
        self._exit: ExitState | None = None
        self._finishing = False
        self._closed = False
        self._pid = os.getpid()
        self._redraw: Callable[[], None] | None = None
        self._executor: Executor | None = None

    def open(self) -> Executor:
        """Make the executor."""
        self._executor = self._factory.make()
        return self._executor

    @property
    def executor(self) -> Executor:
        """Where calls run."""
        assert self._executor is not None  # before the run is open, it is not running
        return self._executor

    def is_over(self) -> bool:
        """Whether it has ended; in a fork of its process, in which nothing of it goes on."""
        return self._closed or self._is_forked()

    def _is_forked(self) -> bool:
        return os.getpid() != self._pid

    def running(self) -> bool:
        """Whether calls can be submitted."""
        ends = self._finishing or self._exit is not None or self._stop is not None
        return self._executor is not None and not ends

    def empty(self) -> bool:
        """Whether no call, no timer and no item to map is left."""
        return not (self.queue or self.loop.has_timers() or self._feeds)

    def places(self) -> int:
        """How many calls can run at a time, as far as that is known."""
        return self.cluster.cores or getattr(self._executor, "max_workers", 1)

    def submit(self, call: Call) -> Future[Any]:
        """Submit a call to the executor, and add it to the queue."""
        self.add(future := self.start(call), call)
        return future

    def start(self, call: Call, of_task: Emitter | None = None) -> Future[Any]:
        """Submit a call to the executor."""
        fn, args, kwargs = self.progress.as_asked_for(call, of_task)
        future = submit(self.executor.submit, fn, args, kwargs)
        assert isinstance(future, Future)  # the contract of our executors
        if fn is not call[0]:
            self.progress.listen(future, of_task)
        return future

    def add(self, future: Future[Any], call: Call, hooks: CallHooks | None = None) -> None:
        """Add a call, started or held, to the queue."""
        self.queue[future] = call
        if hooks is not None:
            self._hooks[future] = hooks
        self._empty_told = False
        self._log.submitted(call)
        future.when_settled(self._put)
        self._emit(SchedulerEvents.FUTURE_SUBMITTED, future)

    def feed(self, feed: Feed) -> None:
        """Submit calls of its items from the next step on."""
        self._feeds.add(feed)
        self._empty_told = False
        self.loop.put(None)

    def call_later(self, delay_s: float, call: Callable[[], object]) -> Timer:
        """Call something after so many seconds, unless the run ends first."""
        self._empty_told = False
        return self.loop.call_later(delay_s, call)

    def stop(self, message: str, exception: BaseException | None) -> None:
        """End the run after the present step. This can be called from any thread."""
        if self.running():
            self._stop = (message, exception)
            self.loop.put(None)

    def steps(self) -> Steps[ExitState]:
        """Run from the start to the end."""
        with self._view as self._redraw:
            if self._options.timeout_s is not None:
                self.loop.deadline = time.monotonic() + self._options.timeout_s
            state = yield from self._wait_for_workers()
            if state is None:
                self._log.started(self.executor, self.cluster)
                self._emit(SchedulerEvents.STARTED)
            while state is None and (state := self._end()) is None:
                yield from self._step()
            self._begin_finishing(state)
            while self.queue:
                yield from self._step()
            self._close(wait=self._options.wait)
            self._finished()
        return state

    def finish_at_once(self, error: BaseException) -> None:
        """End now, whatever runs: after Ctrl-C, or if the coroutine is cancelled."""
        if self._closed or self._executor is None or self._is_forked():
            return
        try:
            if not self._finishing:
                self._finishing = True
                why = self._stop or (f"{repr_of(error)} was raised", error)
                self._emit(SchedulerEvents.STOP, *why)
                self._emit(SchedulerEvents.FINISHING)
            self._feeds.stop(self.guard)
            self._cancel(list(self.queue))
        finally:  # a callback may call sys.exit(), or a second Ctrl-C may interrupt it
            for future in self.queue:
                future.cancel()
            try:
                self._close(wait=False)
            finally:
                self._finished()

    # -- one step after another ------------------------------------------------------------

    def _wait_for_workers(self) -> Steps[ExitState | None]:
        """Wait until the executor can take calls. Return why the run ends before, if it does."""
        if not isinstance(executor := self.executor, WatchedExecutor):
            return None
        executor.watch(self.loop.put)
        while self.loop.has_more() or not executor.ready():
            if (error := executor.start_error()) is not None:
                raise error
            if (state := self._reason_to_end()) is not None:
                return state
            yield from self._step()
        return self._reason_to_end()

    def _step(self) -> Steps[None]:
        """Wait for one thing and handle it, then make the calls of timers that are due."""
        wait_s = 0.0 if self._feeds.have_room() else self.loop.wait_s()
        if self._redraw is not None:
            self._redraw()
            wait_s = REDRAW_EVERY_S if wait_s is None else min(wait_s, REDRAW_EVERY_S)
        thing = yield wait_s
        if self._is_forked():
            raise RuntimeError(
                "This process is a fork of the one that runs the scheduler: it was forked in a"
                " callback, which has returned. End it there, by os._exit()."
            )
        if isinstance(thing, Future):
            self._ended(thing)
        elif isinstance(thing, ClusterEvent):
            self._changed(thing)
        elif callable(thing):
            self.guard(thing)
        for call in self.loop.due():
            self.guard(call)
        self._feeds.refill(self.guard, lambda: self._reason_to_end() is None)

    def _end(self) -> ExitState | None:
        """Why the run ends now; None if it goes on."""
        if not self._empty_told and self.empty():
            self._empty_told = True
            self._emit(SchedulerEvents.EMPTY)
        reason = self._reason_to_end()
        over = self._options.end_on_empty and self.empty()
        if over and (reason is None or reason.code == ExitState.Code.TIMEOUT):
            return ExitState(ExitState.Code.EXHAUSTED)
        return reason

    def _reason_to_end(self) -> ExitState | None:
        """Why the run ends now, whatever is left to do; None if it goes on."""
        if self._exit is not None:
            return self._exit
        if self._stop is not None:
            return ExitState(ExitState.Code.STOPPED, self._stop[1])
        if self.loop.deadline is not None and time.monotonic() >= self.loop.deadline:
            return ExitState(ExitState.Code.TIMEOUT)
        return None

    def _begin_finishing(self, state: ExitState) -> None:
        self._exit = state
        self._finishing = True
        self.loop.deadline = None
        self.loop.cancel_timers()
        self._feeds.stop(self.guard)
        if self._stop is not None:
            self._emit(SchedulerEvents.STOP, *self._stop)
        if state.code == ExitState.Code.TIMEOUT:
            self._emit(SchedulerEvents.TIMEOUT)
        self._emit(SchedulerEvents.FINISHING)
        if not self._options.wait:
            self._cancel(list(self.queue))
        elif self.error is not None and self.queue:  # it may take long until this is raised
            self._log.waits_for_calls(self.error, len(self.queue))
        self._cancel([f for f in self.queue if isinstance(f, DeferredFuture) and f.waits()])

    def _close(self, *, wait: bool) -> None:
        """Release what the run has. If Ctrl-C interrupts this, it is called again."""
        self.loop.close()  # first: threads of the executor may wait in loop.ask()
        self.loop.cancel_timers()
        if isinstance(self.executor, WatchedExecutor):
            self.executor.watch(None)
        if self._factory.owned:
            self.executor.shutdown(wait or self._factory.ends_calls, cancel_futures=True)

    def _finished(self) -> None:
        try:
            self._emit(SchedulerEvents.FINISHED)
        finally:
            self._closed = True
            self._log.finished(self._exit)

    def _changed(self, event: ClusterEvent) -> None:
        self.cluster.update(event)
        match event:
            case WorkerAdded(worker):
                self._emit(SchedulerEvents.WORKER_ADDED, worker)
            case WorkerRemoved(worker, reason):
                self._emit(SchedulerEvents.WORKER_REMOVED, worker, reason)
            case WaitingForWorkers(jobs) if jobs:
                self._emit(SchedulerEvents.WAITING_FOR_WORKERS, jobs)
            case Rerun(future, error, attempt) if future in self.queue:
                self._emit(SchedulerEvents.FUTURE_RERUN, future, error, attempt)
                if (hooks := self._hooks.get(future)) is not None:
                    self.guard(hooks.emitter.emit, TaskEvents.RERUN, future, error, attempt)

    # -- calls -----------------------------------------------------------------------------

    def _ended(self, future: Future[Any]) -> None:
        """Emit the events of a call that has ended. Further calls of this do nothing."""
        self.progress.end(future)
        call = self.queue.pop(future, None)
        if call is None:
            return
        self._recorder.add(call[0], future)
        error = None if future.cancelled() else future.exception()
        self._log.ended(future, error)
        hooks = self._hooks.pop(future, None)
        if hooks is not None:
            hooks.forget(future)
            if error is None and not future.cancelled():
                self.guard(hooks.start_held)  # before callbacks, which may take long
        events = events_of_end(future)
        for event, _, args in events:
            self._emit(event, *args)
        if hooks is not None:
            for _, event, args in events:
                self.guard(hooks.emitter.emit, event, *args)
            for plugin in hooks.plugins:
                self.guard(plugin.post_done, future)
        if future.cancelled():
            self._apply_on_cancelled(call)
        elif error is not None:
            self._failed(error, of_callback=False)
        if hooks is not None:
            self.guard(hooks.start_held)
        self._feeds.note_end(future)

    def _cancel(self, futures: Iterable[Future[Any]]) -> None:
        """Cancel calls, and end those that run. Those that are done by now stay as they are."""
        for future in futures:
            future.cancel()
            self._ended(future)

    def _apply_on_cancelled(self, call: Call) -> None:
        """Apply `on_cancelled` to a call, unless it was this run that cancelled it."""
        action = self._options.on_cancelled
        if self._finishing or action == "continue":
            return
        message = f"{name_of(call[0])}() was cancelled"
        error = CancelledError(
            f"{message}. Use run(on_cancelled='continue') to go on when a call is cancelled."
        )
        self._end_because(ExitState.Code.CANCELLED, message, error, action)

    def _emit(self, event: Event[P], /, *args: P.args, **kwargs: P.kwargs) -> None:
        self.guard(self._emitter.emit, event, *args, **kwargs)

    def guard(self, fn: Callable[P, object], /, *args: P.args, **kwargs: P.kwargs) -> None:
        """Call something that may call the user's code, and handle its errors."""
        try:
            fn(*args, **kwargs)
        except TimeIsUpError as error:
            if self.loop.wait_s() != 0:  # it is up for another run of this thread
                self._failed(error, of_callback=True)
        except Exception as error:
            self._failed(error, of_callback=True)

    def _failed(self, error: BaseException, *, of_callback: bool) -> None:
        action = self._options.action_for(error)
        what = "callback" if of_callback else "call"
        kept = action != "continue" and self._end_because(
            ExitState.Code.EXCEPTION, f"A {what} raised {repr_of(error)}", error, action
        )
        if of_callback and not kept:  # it would be lost otherwise
            self._log.not_raised(error)

    def _end_because(
        self, code: ExitState.Code, message: str, error: BaseException, action: Action
    ) -> bool:
        """End the run as `stop()` does, if nothing else does. Return whether the error is kept."""
        ends = self._exit is None
        if ends:
            self._exit = ExitState(code, error)
            self._stop = self._stop or (message, error)
        raises = action == "raise" and self.error is None
        if raises:
            self.error = self._options.with_advice(error)
        return ends or raises
