"""What the parts of the scheduler plugin share: the scheduler, its workers, and the placement."""

from __future__ import annotations

import asyncio
import math
import time
from collections import Counter
from collections.abc import Callable, Container, Coroutine, Hashable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Final

import cloudpickle
import distributed
from distributed import Status

from dask_limits.batch_systems.current_job import BatchJob
from dask_limits.dask import cluster_log
from dask_limits.dask.batch import LEFT, call_name, calls_of
from dask_limits.dask.compat.scheduler import events
from dask_limits.dask.scheduler.ended import EndedOnCluster
from dask_limits.dask.scheduler.tasks import Where
from dask_limits.dask.topic import TOPIC
from dask_limits.exceptions import WorkerLostError
from dask_limits.limits import call_log
from dask_limits.placement.policy import Placement
from dask_limits.placement.resources import WorkerResources
from dask_limits.placement.workers import Worker

_NOT_BEGUN: Final = ("waiting", "queued", "no-worker")
_MOST_PREFIXES: Final = 1000
_QUICK_S: Final = 0.25
"""Calls that take less, on average, are prefetched by busy workers: the way there takes some 10 ms,
in which the worker would be idle."""


@dataclass(eq=False)
class TrackedWorker:
    """A worker that has reported what it has.

    Attributes:
        state: What Dask's scheduler knows of it: a `WorkerState`.
        placed: What it has, and the calls that are placed there.
        resources: What it has; another worker takes its place if that changes.
        leaves_because: Why it is being drained; empty if it is not.
        time_is_up: Whether calls still ran there when its job was about to end.
        idle_since: Since when it is idle because it has too little time left for what waits.
    """

    state: Any
    placed: Worker
    job: BatchJob
    resources: WorkerResources = field(init=False)
    leaves_because: str = ""
    time_is_up: bool = False
    idle_since: float | None = None

    def __post_init__(self) -> None:
        self.resources = self.placed.resources

    @property
    def name(self) -> str:
        """Its name in Dask, which may be a number there."""
        return str(self.state.name)

    @property
    def address(self) -> str:
        """Where it listens."""
        return str(self.state.address)


class Cluster:
    """A Dask cluster on which limited calls are placed. Everything runs on its scheduler's loop.

    Attributes:
        workers: The tracked workers, by address.
        kinds: How many of them have which resources, whenever their jobs end.
        ended: How limited calls have ended.
        new_worker: What a worker has that a batch system would start. It is set by a cluster in the
            same process. With None, the default, calls are refused that no present worker can run.
    """

    def __init__(self, scheduler: distributed.Scheduler, place: Callable[[], None]) -> None:
        self.scheduler = scheduler
        self.workers: dict[str, TrackedWorker] = {}
        self.kinds: Counter[WorkerResources] = Counter()
        self.new_worker: WorkerResources | None = None
        self.ended = EndedOnCluster(scheduler)
        self._prefixes: set[Any] = set()  # as Dask calls what tasks of a function have in common
        self.placement = Placement(self.allowed, self._cost, self._is_quick, self._near)
        self._place = place
        self._is_due = False
        self._loop = asyncio.get_running_loop()
        self._timers: dict[Hashable, asyncio.TimerHandle] = {}
        self._tasks: set[asyncio.Task[None]] = set()  # asyncio holds them weakly

    def add(self, worker: TrackedWorker) -> None:
        """Track a worker."""
        self.remove(worker.address)
        self.workers[worker.address] = worker
        self.kinds[_kind_of(worker)] += 1

    def remove(self, address: str) -> TrackedWorker | None:
        """Track a worker no more, if it was tracked."""
        if (worker := self.workers.pop(address, None)) is not None:
            self.kinds[kind := _kind_of(worker)] -= 1
            if not self.kinds[kind]:
                del self.kinds[kind]
        return worker

    def log(self, worker: TrackedWorker, op: str, **more: Any) -> None:
        """Log an event of a worker: under our topic for clients, and in the log of this process."""
        about = {"worker": worker.name, "address": worker.address, "job": worker.job.job}
        process = call_log.this_process()
        self.scheduler.log_event(TOPIC, {"op": op, "process": process, **about, **more})
        name = cluster_log.worker_name(worker.name, worker.address, worker.job.job)
        match op:
            case "worker-added":
                cluster_log.has_come(name, more["cores"], more["memory"])
            case "worker-draining":
                cluster_log.is_draining(name, more["reason"])
            case "worker-removed":
                cluster_log.has_gone(name, more["reason"])
            case "rerun":
                why = f"{name} was lost: {more['cause']}"
                call_log.rerun_here(call_name(more["key"]), why, more["tries"] + 1)

    def ask_back(self, key: Hashable, worker: str) -> None:
        """Have a worker give back a call that has not started there; it then waits here again."""
        self.scheduler.worker_send(worker, {"op": "dask-limits-give-back", "key": key})

    def is_waiting(self, key: Hashable) -> bool:
        """Whether Dask could send a task to a worker now, if we let it."""
        ts = self.scheduler.tasks.get(key)
        return ts is not None and ts.state == "no-worker"

    def note_function(self, ts: Any) -> None:
        """A task with limits waits: its function is among those whose calls are counted."""
        if len(self._prefixes) < _MOST_PREFIXES:  # those that are over are left out when one looks
            self._prefixes.add(ts.prefix)

    def waiting(self, running: Mapping[str, int]) -> Counter[str]:
        """How many calls of each function have not begun, given how many run.

        It is found by Dask's counts of tasks. Of a batch that runs, those count too that have
        ended, until all have.
        """
        found: Counter[str] = Counter()
        self._prefixes = {one for one in self._prefixes if any(one.states.values())}
        for prefix in self._prefixes:
            states = prefix.states
            held = sum(states.get(name, 0) for name in _NOT_BEGUN)
            if held or states.get("processing"):
                n_calls = calls_of(prefix.name)
                found[call_name(prefix.name)] += n_calls * (held + states.get("processing", 0))
        found.subtract({name: n for name, n in running.items() if name in found})
        return +found

    def fail(self, errors: dict[Hashable, Exception]) -> None:
        """End tasks that wait, for a worker or for other tasks, with an error each."""
        failed = {}
        for key, error in errors.items():
            ts = self.scheduler.tasks.get(key)
            if ts is None or ts.state not in ("released", "waiting", "no-worker"):
                continue
            ts.exception, ts.exception_text = cloudpickle.dumps(error), repr(error)
            ts.exception_blame = ts
            failed[key] = "erred"
            if not (isinstance(error, WorkerLostError) and not error.tries):  # else it runs again
                self.ended.ended_here(call_name(key), error)
        self.scheduler.transitions(failed, f"dask-limits-error-{time.time()}")

    # -- later -----------------------------------------------------------------------------

    def place_soon(self) -> None:
        """Place what can be placed, once Dask is through with what it is doing."""
        if not self._is_due:
            self._is_due = True
            self._loop.call_soon(self._place_now)

    def _place_now(self) -> None:
        self._is_due = False
        self._place()

    def later(self, name: Hashable, seconds: float, do: Callable[[], object]) -> None:
        """Do something after some time, unless a timer of this name is running already."""

        def run() -> None:
            del self._timers[name]
            do()

        if name not in self._timers:
            self._timers[name] = self._loop.call_later(max(seconds, 0), run)

    def cancel_timer(self, name: Hashable) -> None:
        """Stop a timer, if it is running."""
        timer = self._timers.pop(name, None)
        if timer is not None:
            timer.cancel()

    def run(self, work: Coroutine[Any, Any, None]) -> None:
        """Run a coroutine in a task, unless the scheduler is closing."""
        if self.scheduler.status in (Status.closing, Status.closed):
            work.close()
            return
        task = self._loop.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def stop(self) -> None:
        """Cancel all timers and tasks."""
        for timer in self._timers.values():
            timer.cancel()
        for task in self._tasks:
            task.cancel()

    async def stopped(self) -> None:
        """Wait for the tasks that were cancelled: they may have to end a command first."""
        await asyncio.gather(*self._tasks, return_exceptions=True)

    # -- for the placement -----------------------------------------------------------------

    def allowed(self, where: Hashable) -> Container[str] | None:
        """The workers on which Dask lets tasks run that are to run there; None for all."""
        if where is None:
            return None
        assert isinstance(where, Where)
        valid = self.scheduler.valid_workers(where)
        if valid is None or (where.is_loose and not valid):
            return None
        return {state.address for state in valid}

    def _cost(self, key: Hashable, worker: str) -> float:
        """Seconds until a call could start on a worker, as far as Dask's own tasks matter."""
        ts, state = self.scheduler.tasks[key], self.scheduler.workers[worker]
        others = len(state.processing) - len(self.workers[worker].placed.calls())
        cost = 0.5 * max(others, 0) / state.nthreads
        if ts.dependencies:
            cost += self.scheduler.get_comm_cost(ts, state)
        return float(cost)

    def _near(self, key: Hashable) -> set[str]:
        """The workers that have what a call depends on."""
        holders = (one.who_has for one in self.scheduler.tasks[key].dependencies)
        return {state.address for there in holders for state in there or ()}

    def _is_quick(self, key: Hashable) -> bool:
        ts = self.scheduler.tasks.get(key)
        if ts is None:
            return False
        return LEFT in ts.annotations or 0 <= ts.prefix.duration_average < _QUICK_S


def _kind_of(worker: TrackedWorker) -> WorkerResources:
    return replace(worker.resources, ends_at=math.inf)


def removal_of(scheduler: distributed.Scheduler, address: str) -> dict[str, Any]:
    """The event that Dask logged when it last removed a worker; empty if there is none.

    Its "expected" says whether Dask knew that the worker would leave.
    """
    for _, event in reversed(events(scheduler, "all")):
        if event.get("action") == "remove-worker" and event.get("worker") == address:
            return dict(event)
    return {}
