from __future__ import annotations

from collections import Counter
from typing import Any, ParamSpec, overload

from dask_limits.batch_systems.job_state import JobState
from dask_limits.events import Emitter, Event, Subscriber
from dask_limits.exceptions import WorkerLostError
from dask_limits.executors import Future
from dask_limits.executors.cluster import WorkerInfo

Q = ParamSpec("Q")


class SchedulerEvents:
    """The events of a scheduler, what subscribes to them, and how often each was emitted."""

    STARTED: Event[[]] = Event("on_start")
    """A run has started, and calls can be submitted. The place for the first of them."""
    FINISHING: Event[[]] = Event("on_finishing")
    """A run is ending: nothing can be submitted any more, the executor still runs."""
    FINISHED: Event[[]] = Event("on_finished")
    """A run has ended, and the executor is closed if it was made for the run."""
    STOP: Event[[str, BaseException | None]] = Event("on_stop")
    """A run ends because of `stop()`. Called with its message and its exception."""
    TIMEOUT: Event[[]] = Event("on_timeout")
    """A run ends because its time is up."""
    EMPTY: Event[[]] = Event("on_empty")
    """No call and no timer is left. What is submitted now keeps the run going."""
    FUTURE_SUBMITTED: Event[[Future[Any]]] = Event("on_future_submitted")
    """A call was submitted."""
    FUTURE_DONE: Event[[Future[Any]]] = Event("on_future_done")
    """A call has returned or raised."""
    FUTURE_CANCELLED: Event[[Future[Any]]] = Event("on_future_cancelled")
    """A call was cancelled: by you, or by the end of the run."""
    FUTURE_EXCEPTION: Event[[Future[Any], BaseException]] = Event("on_future_exception")
    """A call has raised. Called with its future and the exception, after FUTURE_DONE."""
    FUTURE_RESULT: Event[[Future[Any], Any]] = Event("on_future_result")
    """A call has returned. Called with its future and what it returned, after FUTURE_DONE."""
    FUTURE_RERUN: Event[[Future[Any], WorkerLostError, int]] = Event("on_future_rerun")
    """The worker that ran a call was lost, and the call runs again. Called with its future, how
    the worker was lost, and the number of the attempt to come: 2 for the first rerun."""
    WORKER_ADDED: Event[[WorkerInfo]] = Event("on_worker_added")
    """A worker of the cluster can take calls. Those that are there when a run begins are told
    before STARTED. Only on Dask."""
    WORKER_REMOVED: Event[[WorkerInfo, str]] = Event("on_worker_removed")
    """A worker of the cluster has gone. Called with it, and what is known of why. Only on Dask."""
    WAITING_FOR_WORKERS: Event[[tuple[JobState, ...]]] = Event("on_waiting_for_workers")
    """Workers were asked for that are not there yet, and what their batch system says of it has
    changed. Called with the jobs that are to bring them."""

    def __init__(self) -> None:
        self.emitter = Emitter(
            "Scheduler",
            [
                self.STARTED,
                self.FINISHING,
                self.FINISHED,
                self.STOP,
                self.TIMEOUT,
                self.EMPTY,
                self.FUTURE_SUBMITTED,
                self.FUTURE_DONE,
                self.FUTURE_CANCELLED,
                self.FUTURE_EXCEPTION,
                self.FUTURE_RESULT,
                self.FUTURE_RERUN,
                self.WORKER_ADDED,
                self.WORKER_REMOVED,
                self.WAITING_FOR_WORKERS,
            ],
        )
        subscriber = self.emitter.subscriber
        self.on_start: Subscriber[[]] = subscriber(self.STARTED)
        self.on_finishing: Subscriber[[]] = subscriber(self.FINISHING)
        self.on_finished: Subscriber[[]] = subscriber(self.FINISHED)
        self.on_stop: Subscriber[[str, BaseException | None]] = subscriber(self.STOP)
        self.on_timeout: Subscriber[[]] = subscriber(self.TIMEOUT)
        self.on_empty: Subscriber[[]] = subscriber(self.EMPTY)
        self.on_future_submitted: Subscriber[[Future[Any]]] = subscriber(self.FUTURE_SUBMITTED)
        self.on_future_done: Subscriber[[Future[Any]]] = subscriber(self.FUTURE_DONE)
        self.on_future_cancelled: Subscriber[[Future[Any]]] = subscriber(self.FUTURE_CANCELLED)
        self.on_future_exception: Subscriber[[Future[Any], BaseException]] = subscriber(
            self.FUTURE_EXCEPTION
        )
        self.on_future_result: Subscriber[[Future[Any], Any]] = subscriber(self.FUTURE_RESULT)
        self.on_future_rerun: Subscriber[[Future[Any], WorkerLostError, int]] = subscriber(
            self.FUTURE_RERUN
        )
        self.on_worker_added: Subscriber[[WorkerInfo]] = subscriber(self.WORKER_ADDED)
        self.on_worker_removed: Subscriber[[WorkerInfo, str]] = subscriber(self.WORKER_REMOVED)
        self.on_waiting_for_workers: Subscriber[[tuple[JobState, ...]]] = subscriber(
            self.WAITING_FOR_WORKERS
        )

    @overload
    def on(self, event: Event[Q]) -> Subscriber[Q]: ...  # type: ignore[overload-overlap]

    @overload
    def on(self, event: str) -> Subscriber[...]: ...

    def on(self, event: Event[Q] | str) -> Subscriber[Q] | Subscriber[...]:
        """What subscribes to any event of the scheduler, by the event or its name.

        Raises:
            EventNotKnownError: if there is no such event.
        """
        return self.emitter.on(event)

    @property
    def event_counts(self) -> Counter[Event[...]]:
        """How often each event was emitted, over all runs. Events are their names here too."""
        return self.emitter.counts.copy()
