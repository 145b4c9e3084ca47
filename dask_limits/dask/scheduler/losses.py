"""Lost workers: which calls ran there, why the worker was lost, and what becomes of the calls.

A call that ran on a worker that was lost runs again, and clients are told of it. After too many
losses it fails. A call that only waited there is sent elsewhere, and nobody is told.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from dask_limits.batch_systems import slurm
from dask_limits.batch_systems.current_job import BatchJob
from dask_limits.dask.batch import LEFT, call_name, numbers_left
from dask_limits.dask.compat.scheduler import allowed_failures
from dask_limits.dask.scheduler.cluster import Cluster, TrackedWorker
from dask_limits.dask.scheduler.gather_log import GatherLog
from dask_limits.dask.scheduler.tasks import is_ours
from dask_limits.exceptions import WorkerLostError
from dask_limits.limits import call_log

logger = logging.getLogger(__name__)

_UNREPORTED_S: Final = 1.0
"""How long a worker must have been heard of after a call was sent there, for its silence about the
call to mean that it had not started. A worker reports a start after 0.1 s. One that the call has
killed at once never does, nor one whose loop gets no turn because the call holds the GIL."""
_CAUSE_S: Final = 4.0
"""How long the batch system has to find out that a job has ended. SLURM takes a second or two, and
a worker that was killed in a job that goes on should not delay much."""
_ASK_EVERY_S: Final = 0.3
_UNKNOWN: Final = "its process ended, or the connection to it broke"


@dataclass
class Loss:
    """A worker that was lost; the cause, in words, is found out later."""

    worker: str
    job: str
    cause: str = ""

    def __str__(self) -> str:
        return f"worker {self.worker}{f' in job {self.job}' if self.job else ''}: {self.cause}"


@dataclass
class _Left:
    """A task that was at a worker when this was lost.

    Attributes:
        ran: Whether it had started, as far as the scheduler knows; of a batch, its first call.
        could_have: Whether the worker was free to start it.
        begun: The call of a batch that is known to have begun last.
    """

    key: Hashable
    ran: bool
    could_have: bool
    begun: int


class Losses:
    """Keeps account of what is lost with workers, and has it run again or fail.

    Tasks that may be placed again go to `place`. The calls of which clients are told stay out of
    the log.
    """

    def __init__(self, cluster: Cluster, log: GatherLog, place: Callable[[Any], object]) -> None:
        self._cluster = cluster
        self._log = log
        self._place = place
        self._forgiven = allowed_failures(cluster.scheduler)
        self._losses: dict[Hashable, list[Loss]] = {}  # that count
        self._started: set[Hashable] = set()
        self._begun: dict[Hashable, int] = {}  # the last of a batch, if any is reported
        self._alone: set[Hashable] = set()  # batches of which one call is left, which has begun
        self._lost: dict[str, list[_Left]] = {}  # by address, until Dask has removed the worker
        self._started_at: dict[str, dict[Hashable, float]] = {}  # what was placed there, likewise
        self.held: set[Hashable] = set()  # not to be placed until clients are told

    def call_started(self, key: Hashable) -> None:
        """A worker has reported that a call runs there."""
        self._started.add(key)

    def call_begun(self, key: Hashable, number: int) -> None:
        """A worker has reported that a call of a batch has begun, and so have those before it."""
        self._started.add(key)
        self._begun[key] = number

    def batch_started(self, key: Hashable) -> None:
        """A worker has reported that a batch runs, of which it keeps the call that has begun."""
        self._started.add(key)
        self._alone.add(key)

    def call_left(self, key: Hashable, address: str) -> None:
        """A call has left its worker, in whichever way."""
        if address not in self._cluster.scheduler.workers:
            worker = self._cluster.workers[address]
            # As it was when the worker was lost: with a call that leaves, a prefetched one counts
            # as started.
            started = self._started_at.setdefault(address, dict(worker.placed.started))
            placed_at = started.get(key)
            last_seen = worker.state.last_seen - time.time() + time.monotonic()
            may_run = placed_at is not None and last_seen < placed_at + _UNREPORTED_S
            ran = may_run or key in self._started
            left = _Left(key, ran, placed_at is not None, self._begun.get(key, 0))
            self._lost.setdefault(address, []).append(left)
        self._started.discard(key)
        self._begun.pop(key, None)

    def call_ended(self, key: Hashable) -> None:
        """A call does not run again."""
        self._losses.pop(key, None)
        self._alone.discard(key)

    def worker_left(self, worker: TrackedWorker, removal: Mapping[str, Any]) -> None:
        """Dask has removed a worker, and logged `removal` of that: see `removal_of`."""
        tasks = self._cluster.scheduler.tasks
        was_expected = bool(removal.get("expected"))
        loss = Loss(worker.name, worker.job.job)
        rerun: dict[Hashable, list[int]] = {}  # the calls that had begun
        self._started_at.pop(worker.address, None)
        for left in self._lost.pop(worker.address, []):
            key, ts = left.key, tasks.get(left.key)
            if ts is None or ts.state in ("memory", "erred", "forgotten"):
                continue
            numbers = numbers_left(ts.annotations)
            if left.ran and self._is_several(ts):  # nobody knows which of them is to blame
                if numbers:
                    rerun[key] = [number for number in numbers if number <= left.begun]
            elif left.ran:
                if not was_expected or worker.time_is_up:
                    self._losses.setdefault(key, []).append(loss)
                rerun[key] = numbers
            elif left.could_have and not self._is_several(ts):
                # If it had started after all, the next worker is to say so in time.
                ts.annotations = {**ts.annotations, "limits-careful": True}
        for key in removal.get("lost-computed-tasks", ()):
            # It was done and its result not fetched. It runs again, but is not to blame.
            ts = tasks.get(key)
            if ts is not None and is_ours(ts) and ts.state in ("waiting", "no-worker"):
                rerun[key] = numbers_left(ts.annotations)
        for key in rerun:
            # A call is not placed before its client has heard of the loss: it could be done before
            # that.
            self.held.add(key)
            self._cluster.placement.dequeue(key)
            self._log.leave_out(key)
        self._cluster.run(self._tell(worker, was_expected, loss, rerun))

    def _is_several(self, ts: Any) -> bool:
        """Whether a task is a batch of which more than one call may have begun."""
        return LEFT in ts.annotations and ts.key not in self._alone

    async def _tell(
        self,
        worker: TrackedWorker,
        was_expected: bool,
        loss: Loss,
        rerun: Mapping[Hashable, list[int]],
    ) -> None:
        """Find out why a worker has left, and tell clients of it and of the calls that it ran."""
        loss.cause = await self._cause(worker, was_expected)
        cluster, tasks = self._cluster, self._cluster.scheduler.tasks
        cluster.log(worker, "worker-removed", reason=loss.cause)
        for key, numbers in rerun.items():
            self.held.discard(key)
            losses = self._losses.get(key, [])
            if len(losses) > self._forgiven:
                # Even if it waits for what it depends on, which was lost with the worker.
                error = error_of(call_name(key), losses, self._forgiven)
                call_log.count_here(call_name(key), error)
                cluster.fail({key: error})
                continue
            if (ts := tasks.get(key)) is None:
                continue
            for number in numbers:
                about = {"cause": loss.cause, "tries": len(losses)}
                cluster.log(worker, "rerun", key=key, number=number, **about)
            if self._is_several(ts):
                cluster.fail({key: _error_of_batch(call_name(key), loss)})
            elif cluster.is_waiting(key):
                self._place(tasks[key])

    async def _cause(self, worker: TrackedWorker, was_expected: bool) -> str:
        job = worker.job
        if worker.time_is_up:
            return f"its job {job.job} was about to end" if job.job else worker.leaves_because
        if was_expected:
            return worker.leaves_because or "it was retired"
        try:
            return await cause_of_loss(job)
        except Exception as why:  # the calls that are held must go on, whatever is wrong
            logger.exception("dask_limits could not find out why a worker was lost")
            return f"{_UNKNOWN} ({why!r})"


def error_of(name: str, losses: list[Loss], forgiven: int) -> WorkerLostError:
    """The error of a call that does not run again, because it has lost so many workers."""
    tries, last = len(losses), losses[-1]
    told = "".join(f"\n  {number}. {loss}" for number, loss in enumerate(losses, 1))
    return WorkerLostError(
        f"{name}() was running on {tries} worker{'s' if tries != 1 else ''} when they were lost,"
        f" and does not run again:{told}\nIf the call itself brings its workers down, limit its"
        f" memory. A call survives {forgiven} lost workers; to change this, set"
        " distributed.scheduler.allowed-failures in Dask's configuration.",
        call=name,
        worker=last.worker,
        job=last.job,
        cause=last.cause,
        tries=tries,
    )


def _error_of_batch(name: str, loss: Loss) -> WorkerLostError:
    """The error of a batch that was lost: its client is to send each of its calls alone."""
    return WorkerLostError(
        f"A batch of calls of {name}() was lost with {loss}",
        call=name,
        worker=loss.worker,
        job=loss.job,
        cause=loss.cause,
        tries=0,
    )


async def cause_of_loss(job: BatchJob) -> str:
    """Why a worker was lost: what the batch system says of its job, or that nothing is known."""
    give_up = time.monotonic() + _CAUSE_S
    state = await slurm.job_state(job.system, job.job)
    while state is not None and not state.ended and time.monotonic() < give_up:
        await asyncio.sleep(_ASK_EVERY_S)
        state = await slurm.job_state(job.system, job.job) or state
    if state is None:
        return _UNKNOWN
    return str(state) if state.ended else f"{_UNKNOWN}; {state}"
