"""What executors tell of workers that come and go, and when they can take calls. No Dask here."""

from __future__ import annotations

import concurrent.futures
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from dask_limits.units import format_bytes

if TYPE_CHECKING:
    from dask_limits.batch_systems.job_state import JobState
    from dask_limits.exceptions import WorkerLostError
    from dask_limits.executors.future import Future


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
    """A worker has come; or it was there already when the executor began to be watched."""

    worker: WorkerInfo


@dataclass(frozen=True)
class WorkerRemoved:
    """A worker has gone, or takes no more calls because it is about to.

    Attributes:
        worker: As it was when it came.
        reason: What is known of why, in words; empty if nothing is.
    """

    worker: WorkerInfo
    reason: str = ""


@dataclass(frozen=True)
class WaitingForWorkers:
    """Workers were asked for that have not come yet, and something about their jobs is new.

    Attributes:
        jobs: All the jobs that are waited for; none when no more is.
    """

    jobs: tuple[JobState, ...] = ()


@dataclass(frozen=True)
class Rerun:
    """The worker that ran a call was lost, and the call runs again.

    Attributes:
        future: The call's.
        error: How the attempt was lost; nobody raises it.
        attempt: The number of the attempt to come: 2 for the first rerun.
    """

    future: Future[Any]
    error: WorkerLostError
    attempt: int


ClusterEvent = WorkerAdded | WorkerRemoved | WaitingForWorkers | Rerun


class ClusterState:
    """What is known of a cluster, from its events."""

    def __init__(self) -> None:
        self._workers: dict[str, WorkerInfo] = {}  # by address
        self._jobs: tuple[JobState, ...] = ()
        self._last_lost = ""
        self._n_reruns = 0

    def update(self, event: ClusterEvent) -> None:
        """Take an event in."""
        match event:
            case WorkerAdded(worker):
                self._workers[worker.address] = worker
            case WorkerRemoved(worker, reason):
                self._workers.pop(worker.address, None)
                self._last_lost = f"{worker.name}: {reason}" if reason else worker.name
            case WaitingForWorkers(jobs):
                self._jobs = jobs
            case Rerun():
                self._n_reruns += 1

    def lines(self) -> list[str]:
        """What to show: few lines, however many workers there are. None if nothing is known."""
        lines = []
        if workers := self._workers.values():
            cores = sum(worker.cores for worker in workers)
            bounds = [worker.memory for worker in workers if worker.memory is not None]
            line = f"{_count(len(workers), 'worker')}, {_count(cores, 'core')}"
            lines.append(line + (f", {format_bytes(sum(bounds))}" if bounds else ""))
        elif self._jobs or self._last_lost:
            lines.append("No worker yet" if not self._last_lost else "No worker")
        states = Counter((job.state or "UNKNOWN", job.reason) for job in self._jobs)
        for (state, reason), n in states.items():
            lines.append(f"{_count(n, 'job')} {state}" + (f" ({reason})" if reason else ""))
        if self._last_lost:
            lines.append(f"Last gone: {self._last_lost}")
        if self._n_reruns:
            lines.append(f"{_count(self._n_reruns, 'call')} begun anew after a lost worker")
        return lines


def _count(n: int, what: str) -> str:
    return f"{n} {what}" if n == 1 else f"{n} {what}s"


class WatchedExecutor(concurrent.futures.Executor):
    """An executor whose workers come and go, and that tells of it.

    For subclasses: call `_tell` with each event, and also, without one, whenever `ready` or
    `start_error` have something new to say that no event has told.
    """

    _told: Callable[[ClusterEvent | None], object] | None = None

    def watch(self, tell: Callable[[ClusterEvent | None], object] | None) -> None:
        """Have each event told from now on, and first the workers that are there.

        Args:
            tell: Called from any thread, with an event, or with None to have a look at `ready` and
                `start_error`. It must not block. None ends the watch; there is one at a time.
        """
        self._told = tell

    def ready(self) -> bool:
        """Whether calls that are submitted now need not wait for a first worker."""
        return True

    def start_error(self) -> Exception | None:
        """Why no worker will come; None as long as one may."""
        return None

    def _tell(self, event: ClusterEvent | None = None) -> None:
        if (tell := self._told) is not None:
            tell(event)
