from __future__ import annotations

import os
import time
from collections.abc import Callable, Collection, Iterable
from concurrent.futures import Executor
from typing import TYPE_CHECKING, Any, ParamSpec

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
from dask_limits.executors.running import RunningCall, TellsRunning
from dask_limits.executors.traced import submit
from dask_limits.future import DeferredFuture
from dask_limits.limits import name_of
from dask_limits.printable import repr_of
from dask_limits.report import Recorder
from dask_limits.scheduler.call_hooks import CallHooks
from dask_limits.scheduler.events import SchedulerEvents, TaskEvents, events_of_end
from dask_limits.scheduler.exit_state import ExitState, RunOptions
from dask_limits.scheduler.feed import Feed, Feeds
from dask_limits.scheduler.progress import Progress
from dask_limits.scheduler.requests import TimeIsUpError
from dask_limits.scheduler.run_end import RunEnd
from dask_limits.scheduler.run_log import RunLog
from dask_limits.scheduler.run_loop import RunLoop, Steps, Timer
from dask_limits.scheduler.telling import Telling

if TYPE_CHECKING:
    from dask_limits.journal.run_journal import Known, RunJournal
    from dask_limits.scheduler.run_watch import RunWatch

P = ParamSpec("P")


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
        feeds: Where further calls come from.
        end: Why it ends, and what `Scheduler.run` raises then.
        watch: What has the run displayed; None if nothing does.
        journal: What remembers its calls; None if nothing does.
    """

    def __init__(
        self,
        emitter: Emitter,
        factory: ExecutorFactory,
        options: RunOptions,
        recorder: Recorder,
    ) -> None:
        self.loop = RunLoop()
        self.queue: dict[Future[Any], Call] = {}
        self.end = RunEnd(options)
        self.watch: RunWatch | None = None
        self.journal: RunJournal | None = None
        self.cluster = ClusterState(recorder)
        self.progress = Progress(self.loop, emitter, self.guard)
        self.feeds = Feeds()
        self._log = RunLog()
        self._emitter = emitter
        self._options = options
        self._recorder = recorder
        self._factory = factory
        self._hooks: dict[Future[Any], CallHooks] = {}
        self._put = self.loop.put  # one object for all calls
        self._telling = Telling()
        self._empty_told = False
        self._finishing = False
        self._closed = False
        self._pid = os.getpid()
        self._executor: Executor | None = None

    def open(self) -> Executor:
        """Open the journal, and make the executor."""
        if (journal := self._options.journal) is not None:
            from dask_limits.journal.run_journal import RunJournal  # with sqlite3, for few runs

            self.journal = RunJournal(journal, self.queue, self._put)
        try:
            self._executor = self._factory.make_within(self._options.timeout_s)
        except BaseException:
            if self.journal is not None:
                self.journal.close()
            raise
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
        return self._executor is not None and not (self._finishing or self.end.is_decided())

    def empty(self) -> bool:
        """Whether no call, no timer and no item to map is left."""
        return not (self.queue or self.loop.has_timers() or self.feeds)

    def places(self) -> int:
        """How many calls can run at a time, as far as that is known."""
        return self.cluster.cores or getattr(self._executor, "max_workers", 1)

    def state(self) -> str:
        """How far it is, in a word."""
        if self._closed:
            return "interrupted" if self.end.exit is None else self.end.exit.code
        if self._finishing:
            return "ending"
        return "starting" if self._executor is None else "running"

    def running_calls(self) -> Iterable[RunningCall]:
        """What calls use that run, if the executor can tell."""
        return self._executor.running_calls() if isinstance(self._executor, TellsRunning) else ()

    def submit(self, call: Call) -> Future[Any]:
        """Submit a call to the executor, and add it to the queue."""
        known = None if self.journal is None else self.journal.submitted(name_of(call[0]), call)
        future = self.start(call) if known is None or known.past is None else known.past
        self.add(future, call, known=known)
        return future

    def start(self, call: Call, of_task: Emitter | None = None) -> Future[Any]:
        """Submit a call to the executor."""
        fn, args, kwargs = self.progress.as_asked_for(call, of_task)
        future = submit(self.executor.submit, fn, args, kwargs)
        assert isinstance(future, Future)  # the contract of our executors
        if fn is not call[0]:
            self.progress.listen(future, of_task)
        return future

    def add(
        self,
        future: Future[Any],
        call: Call,
        hooks: CallHooks | None = None,
        known: Known | None = None,
    ) -> None:
        """Add a call, started or held, to the queue."""
        self.queue[future] = call
        if hooks is not None:
            self._hooks[future] = hooks
        self._empty_told = False
        self._log.submitted(call)
        if self.journal is None or known is None:
            future.when_settled(self._put)
        elif future.from_journal:
            self._telling.put_past(known.number or 0, future)
        else:
            self.journal.follow(future, known)
        self._emit(SchedulerEvents.FUTURE_SUBMITTED, future)

    def feed(self, feed: Feed) -> None:
        """Submit calls of its items from the next step on."""
        self.feeds.add(feed)
        self._empty_told = False
        self.loop.put(None)

    def call_later(self, delay_s: float, call: Callable[[], object]) -> Timer:
        """Call something after so many seconds, unless the run ends first."""
        self._empty_told = False
        return self.loop.call_later(delay_s, call)

    def stop(self, message: str, exception: BaseException | None) -> None:
        """End the run after the present step. This can be called from any thread."""
        if self.running():
            self.end.stop = (message, exception)
            self.loop.put(None)

    def steps(self) -> Steps[ExitState]:
        """Run from the start to the end."""
        if self._options.timeout_s is not None:
            self.loop.deadline = time.monotonic() + self._options.timeout_s
        state = yield from self._wait_for_workers()
        if state is None:
            self._log.started(self._factory.name, self.cluster)
            self._emit(SchedulerEvents.STARTED)
        while state is None and (state := self._end()) is None:
            yield from self._step()
        self._begin_finishing(state)
        while self.queue:
            yield from self._step()
        self._close(wait=bool(self._options.wait))
        self._finished()
        return state

    def finish_at_once(self, error: BaseException) -> None:
        """End now, whatever runs: after Ctrl-C, or if the coroutine is cancelled."""
        if self._closed or self._executor is None or self._is_forked():
            return
        try:
            if not self._finishing:
                self._finishing = True
                why = self.end.stop or (f"{repr_of(error)} was raised", error)
                self._emit(SchedulerEvents.STOP, *why)
                self._emit(SchedulerEvents.FINISHING)
            self.feeds.stop(self.guard)
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
        if self.journal is not None and self.journal.error is not None:
            raise self.journal.error
        wait_s = 0.0 if self.feeds.may_go_on() or self._telling else self.loop.wait_s()
        thing = yield wait_s if self.watch is None else self.watch.step(wait_s)
        if self._is_forked():
            raise RuntimeError(
                "This process is a fork of the one that runs the scheduler: it was forked in a"
                " callback, which has returned. End it there, by os._exit()."
            )
        if isinstance(thing, Future):
            self._telling.put(thing)
        elif isinstance(thing, ClusterEvent):
            self._changed(thing)
        elif callable(thing):
            self.guard(thing)
        if (future := self._telling.next()) is not None:
            self._ended(future)
        for call in self.loop.due():
            self.guard(call)
        self.feeds.refill(self.guard, lambda: self._reason_to_end() is None)

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
        return self.end.reason(self.loop.deadline)

    def _begin_finishing(self, state: ExitState) -> None:
        self.end.exit = state
        self._finishing = True
        self.loop.deadline = None
        self.loop.cancel_timers()
        self.feeds.stop(self.guard)
        if self.end.stop is not None:
            self._emit(SchedulerEvents.STOP, *self.end.stop)
        if state.code == ExitState.Code.TIMEOUT:
            self._emit(SchedulerEvents.TIMEOUT)
        self._emit(SchedulerEvents.FINISHING)
        self._cancel([future for future in self.queue if not self._options.waits_for(future)])
        if self.end.error is not None and self.queue:  # it may take long until this is raised
            self._log.waits_for_calls(self.end.error, len(self.queue))
        self._cancel([f for f in self.queue if isinstance(f, DeferredFuture) and f.waits()])

    def _close(self, *, wait: bool) -> None:
        """Release what the run has. If Ctrl-C interrupts this, it is called again."""
        self.loop.close()  # first: threads of the executor may wait in loop.ask()
        self.loop.cancel_timers()
        if isinstance(self.executor, WatchedExecutor):
            self.executor.watch(None)
        if self._factory.owned:
            self.executor.shutdown(wait or self._factory.ends_calls, cancel_futures=True)
        if self.journal is not None:
            self.journal.close()

    def _finished(self) -> None:
        try:
            self._emit(SchedulerEvents.FINISHED)
        finally:
            self._closed = True
            self._log.finished(self.end.exit)

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
        end = self._recorder.add_call(call, future)
        if self.watch is not None:
            self.watch.ended(future, call, end)
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
        if not self._finishing and future.cancelled():  # not by this run
            self.end.cancelled(name_of(call[0]))
        elif error is not None:
            self.end.failed(error, of_callback=False)
        if hooks is not None:
            self.guard(hooks.start_held)
        self.feeds.note_end(future)

    def _cancel(self, futures: Collection[Future[Any]]) -> None:
        """Cancel calls, and end those that run. Those that are done by now stay as they are."""
        for future in futures:
            future.cancel()
        is_remembered = self.journal is None or self.journal.flush()
        for future in futures:
            if is_remembered or future.cancelled():
                self._ended(future)

    def _emit(self, event: Event[P], /, *args: P.args, **kwargs: P.kwargs) -> None:
        self.guard(self._emitter.emit, event, *args, **kwargs)

    def guard(self, fn: Callable[P, object], /, *args: P.args, **kwargs: P.kwargs) -> None:
        """Call something that may call the user's code, and handle its errors."""
        try:
            fn(*args, **kwargs)
        except Exception as error:
            # The time may also be up for another run of this thread.
            is_over = isinstance(error, TimeIsUpError) and self.loop.wait_s() == 0
            if not is_over and not self.end.failed(error, of_callback=True):
                self._log.not_raised(error)  # it would be lost otherwise
