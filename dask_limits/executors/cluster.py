"""What executors report about their workers, and when they can take calls. No Dask here."""

from __future__ import annotations

import concurrent.futures
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from dask_limits.report import Recorder
from dask_limits.units import format_bytes

if TYPE_CHECKING:
    from dask_limits.batch_systems.job_state import JobState
    from dask_limits.exceptions import WorkerLostError
    from dask_limits.future import Future


@dataclass(frozen=True)
class WorkerInfo:
    """A worker of a cluster, as `on_worker_added` and `on_worker_removed` receive it.

    Attributes:
        name: Its name in the cluster.
        address: Its address, "tcp://host:port".
        job: The id of its batch job; empty if it does not run in one.
        memory: The bytes that the memory limits of its calls can sum up to; None if nothing
            limits them.
        cores: How many calls of one core it runs at a time.
        ends_in: The seconds that its batch job had left when it was added; None if it has no end.
    """

    name: str
    address: str
    job: str = ""
    memory: int | None = None
    cores: int = 1
    ends_in: float | None = None


@dataclass(frozen=True)
class WorkerAdded:
    """A worker has started, or was there when the watch of the executor began."""

    worker: WorkerInfo


@dataclass(frozen=True)
class WorkerRemoved:
    """A worker has left, or is about to and takes no more calls."""

    worker: WorkerInfo
    reason: str = ""  # empty if it is not known


@dataclass(frozen=True)
class WaitingForWorkers:
    """The state of the jobs whose workers have not started yet has changed."""

    jobs: tuple[JobState, ...] = ()  # all of them


@dataclass(frozen=True)
class Rerun:
    """The worker that ran a call was lost, and the call runs again."""

    future: Future[Any]
    error: WorkerLostError
    attempt: int  # the number of the next attempt: 2 for the first rerun


ClusterEvent = WorkerAdded | WorkerRemoved | WaitingForWorkers | Rerun


class ClusterState:
    """The state of a cluster, from its events; the recorder is told of its workers.

    Attributes:
        n_reruns: How many calls were run again after a lost worker.
    """

    def __init__(self, recorder: Recorder) -> None:
        self._recorder = recorder
        self._workers: dict[str, WorkerInfo] = {}  # by address
        self._jobs: tuple[JobState, ...] = ()
        self.n_reruns = 0
        self._last_lost = ""

    def update(self, event: ClusterEvent) -> None:
        """Apply an event."""
        match event:
            case WorkerAdded(worker):
                self._workers[worker.address] = worker
                self._recorder.worker_added(worker.address, worker.cores, worker.memory)
            case WorkerRemoved(worker, reason):
                self._workers.pop(worker.address, None)
                self._recorder.worker_removed(worker.address)
                self._last_lost = f"{worker.name}: {reason}" if reason else worker.name
            case WaitingForWorkers(jobs):
                self._jobs = jobs
            case Rerun():
                self.n_reruns += 1

    @property
    def cores(self) -> int:
        """How many calls of one core its workers run at a time."""
        return sum(worker.cores for worker in self._workers.values())

    def lines(self) -> list[str]:
        """The lines to display: few, however many workers there are; none if nothing is known."""
        lines = []
        if workers := self._workers.values():
            bounds = [worker.memory for worker in workers if worker.memory is not None]
            line = f"{_count(len(workers), 'worker')}, {_count(self.cores, 'core')}"
            lines.append(line + (f", {format_bytes(sum(bounds))}" if bounds else ""))
        elif self._jobs or self._last_lost:
            lines.append("No worker" if self._last_lost else "No worker yet")
        states = Counter((job.state or "UNKNOWN", job.reason) for job in self._jobs)
        for (state, reason), n in states.items():
            lines.append(f"{_count(n, 'job')} {state}" + (f" ({reason})" if reason else ""))
        if self._last_lost:
            lines.append(f"Last worker lost: {self._last_lost}")
        if self.n_reruns:
            lines.append(f"{_count(self.n_reruns, 'call')} rerun after a lost worker")
        return lines


def _count(n: int, what: str) -> str:
    return f"{n} {what}" if n == 1 else f"{n} {what}s"


class WatchedExecutor(concurrent.futures.Executor):
    """An executor that reports when its workers come and go.

    Subclasses call `_tell` with each event, and without an event when the answer of `ready` or
    `start_error` has changed.
    """

    _told: Callable[[ClusterEvent | None], object] | None = None

    def watch(self, tell: Callable[[ClusterEvent | None], object] | None) -> None:
        """Report each event from now on, beginning with the workers that are there.

        `tell` is called in any thread, with an event, or with None when `ready` or `start_error`
        may have changed. It must not block. It replaces the previous one; None ends the watch.
        """
        self._told = tell

    def ready(self) -> bool:
        """Whether there is a worker, so that calls can be submitted."""
        return True

    def start_error(self) -> Exception | None:
        """Why no worker will start; None as long as one may."""
        return None

    def _tell(self, event: ClusterEvent | None = None) -> None:
        if (tell := self._told) is not None:
            tell(event)
