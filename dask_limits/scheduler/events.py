from __future__ import annotations

from collections import Counter
from typing import Any, Concatenate, Generic, ParamSpec, TypeVar

from dask_limits.batch_systems.job_state import JobState
from dask_limits.events import Emitter, Event, HasEvents, SubscriberTo, events_of
from dask_limits.exceptions import WorkerLostError
from dask_limits.executors import Future
from dask_limits.executors.cluster import WorkerInfo

P = ParamSpec("P")
R = TypeVar("R")


class SchedulerEvents(HasEvents):
    """The events of a scheduler, and what subscribes to each."""

    STARTED: Event[[]] = Event("on_start", "")
    """A run has started, and calls can be submitted. Submit the first calls here."""
    on_start = SubscriberTo(STARTED)

    FINISHING: Event[[]] = Event("on_finishing", "")
    """A run is ending: nothing can be submitted any more, but the executor still runs."""
    on_finishing = SubscriberTo(FINISHING)

    FINISHED: Event[[]] = Event("on_finished", "")
    """A run has ended, and the executor is closed if it was made for the run."""
    on_finished = SubscriberTo(FINISHED)

    STOP: Event[[str, BaseException | None]] = Event("on_stop", "message, exception")
    """A run is ending because of `stop()` or an exception. Called with a message, and the
    exception or None."""
    on_stop = SubscriberTo(STOP)

    TIMEOUT: Event[[]] = Event("on_timeout", "")
    """A run is ending because its time is up."""
    on_timeout = SubscriberTo(TIMEOUT)

    EMPTY: Event[[]] = Event("on_empty", "")
    """No call and no timer is left. A call that is submitted now keeps the run going."""
    on_empty = SubscriberTo(EMPTY)

    FUTURE_SUBMITTED: Event[[Future[Any]]] = Event("on_future_submitted", "future")
    """A call was submitted. Called with its future."""
    on_future_submitted = SubscriberTo(FUTURE_SUBMITTED)

    FUTURE_DONE: Event[[Future[Any]]] = Event("on_future_done", "future")
    """A call has returned or raised. Called with its future."""
    on_future_done = SubscriberTo(FUTURE_DONE)

    FUTURE_CANCELLED: Event[[Future[Any]]] = Event("on_future_cancelled", "future")
    """A call was cancelled, by you or by the end of the run. Called with its future."""
    on_future_cancelled = SubscriberTo(FUTURE_CANCELLED)

    FUTURE_EXCEPTION: Event[[Future[Any], BaseException]] = Event(
        "on_future_exception", "future, exception"
    )
    """A call has raised. Called with its future and the exception, after FUTURE_DONE."""
    on_future_exception = SubscriberTo(FUTURE_EXCEPTION)

    FUTURE_RESULT: Event[[Future[Any], Any]] = Event("on_future_result", "future, result")
    """A call has returned. Called with its future and what it returned, after FUTURE_DONE."""
    on_future_result = SubscriberTo(FUTURE_RESULT)

    FUTURE_PROGRESS: Event[[Future[Any], Any]] = Event("on_future_progress", "future, value")
    """A call has reported a value by `progress(value)`. Called with its future and the latest
    value, some ten times a second, and with the last one before FUTURE_DONE. Only calls report that
    were submitted when there was a callback, of this event or of PROGRESS of their task."""
    on_future_progress = SubscriberTo(FUTURE_PROGRESS)

    FUTURE_RERUN: Event[[Future[Any], WorkerLostError, int]] = Event(
        "on_future_rerun", "future, error, attempt"
    )
    """The worker that ran a call was lost, and the call runs again. Called with its future, how
    the worker was lost, and the number of the next attempt: 2 for the first rerun."""
    on_future_rerun = SubscriberTo(FUTURE_RERUN)

    WORKER_ADDED: Event[[WorkerInfo]] = Event("on_worker_added", "worker")
    """A worker of the cluster can take calls. Emitted before STARTED for the workers that are
    there when a run begins. Only on Dask."""
    on_worker_added = SubscriberTo(WORKER_ADDED)

    WORKER_REMOVED: Event[[WorkerInfo, str]] = Event("on_worker_removed", "worker, reason")
    """A worker has left the cluster. Called with it, and the reason if it is known. Only on
    Dask."""
    on_worker_removed = SubscriberTo(WORKER_REMOVED)

    WAITING_FOR_WORKERS: Event[[tuple[JobState, ...]]] = Event("on_waiting_for_workers", "jobs")
    """Some workers have not started yet, and what the batch system says of their jobs has
    changed. Called with these jobs."""
    on_waiting_for_workers = SubscriberTo(WAITING_FOR_WORKERS)

    def __init__(self) -> None:
        self.emitter = Emitter("Scheduler", events_of(type(self)))

    @property
    def event_counts(self) -> Counter[Event[...]]:
        """How often each event was emitted, over all runs. The name of an event is a key too.

        Those that go by the clock or the cluster are left out, so that a program has the same
        counts on every executor: events of workers, and FUTURE_PROGRESS. They are in
        `emitter.counts`.
        """
        counts = super().event_counts
        of_workers = self.WORKER_ADDED, self.WORKER_REMOVED, self.WAITING_FOR_WORKERS
        for event in (*of_workers, self.FUTURE_PROGRESS):
            del counts[event]
        return counts


class TaskEvents(HasEvents, Generic[P, R]):
    """The events of a task, and what subscribes to each."""

    SUBMITTED: Event[...] = Event("on-submitted", "future, *arguments")
    """A call was submitted. Called with its future, and its arguments."""
    on_submitted: SubscriberTo[Concatenate[Future[R], P]] = SubscriberTo(
        SUBMITTED  # type: ignore[arg-type]  # P is known only where there is a task
    )

    DONE: Event[[Future[Any]]] = Event("on-done", "future")
    """A call has returned or raised. Called with its future."""
    on_done: SubscriberTo[[Future[R]]] = SubscriberTo(DONE)

    RESULT: Event[[Future[Any], Any]] = Event("on-result", "future, result")
    """A call has returned. Called with its future and what it returned."""
    on_result: SubscriberTo[[Future[R], R]] = SubscriberTo(RESULT)

    EXCEPTION: Event[[Future[Any], BaseException]] = Event("on-exception", "future, exception")
    """A call has raised. Called with its future and the exception."""
    on_exception: SubscriberTo[[Future[R], BaseException]] = SubscriberTo(EXCEPTION)

    CANCELLED: Event[[Future[Any]]] = Event("on-cancelled", "future")
    """A call was cancelled. Called with its future."""
    on_cancelled: SubscriberTo[[Future[R]]] = SubscriberTo(CANCELLED)

    PROGRESS: Event[[Future[Any], Any]] = Event("on-progress", "future, value")
    """A call has reported a value, as at FUTURE_PROGRESS of a scheduler. Called with its future and
    the value. `future.cancel()` ends the call."""
    on_progress: SubscriberTo[[Future[R], Any]] = SubscriberTo(PROGRESS)

    RERUN: Event[[Future[Any], WorkerLostError, int]] = Event("on-rerun", "future, error, attempt")
    """A call runs again, as at FUTURE_RERUN of a scheduler. Called with the same arguments."""
    on_rerun: SubscriberTo[[Future[R], WorkerLostError, int]] = SubscriberTo(RERUN)

    def __init__(self, name: str) -> None:
        self.emitter = Emitter(f"Task {name}", events_of(TaskEvents))


def events_of_end(future: Future[Any]) -> list[tuple[Event[...], Event[...], tuple[Any, ...]]]:
    """The events of a call that has ended: the scheduler's, the task's, and their arguments."""
    if future.cancelled():
        return [(SchedulerEvents.FUTURE_CANCELLED, TaskEvents.CANCELLED, (future,))]
    done = (SchedulerEvents.FUTURE_DONE, TaskEvents.DONE, (future,))
    if (error := future.exception()) is not None:
        return [done, (SchedulerEvents.FUTURE_EXCEPTION, TaskEvents.EXCEPTION, (future, error))]
    return [done, (SchedulerEvents.FUTURE_RESULT, TaskEvents.RESULT, (future, future.result()))]
