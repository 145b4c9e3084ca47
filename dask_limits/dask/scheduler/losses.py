"""Lost workers: which calls ran there, why the worker was lost, and what becomes of the calls.

A call that ran on a worker that was lost runs again, and clients are told of it. After too many
losses it fails. A call that only waited there is sent elsewhere, and nobody is told.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Hashable, Mapping
from typing import Any, Final

import distributed

from dask_limits.batch_systems import slurm
from dask_limits.batch_systems.current_job import BatchJob
from dask_limits.dask.compat.graphs import function_name
from dask_limits.dask.compat.scheduler import allowed_failures
from dask_limits.dask.scheduler.background import Background
from dask_limits.dask.scheduler.loss_counts import Loss, LossCounts
from dask_limits.dask.scheduler.tasks import fail, is_ours, is_waiting
from dask_limits.dask.scheduler.workers import TrackedWorker, log
from dask_limits.placement.policy import Placement

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


class Losses:
    """Keeps account of what is lost with workers, and has it run again or fail.

    Args:
        scheduler: Dask's.
        placement: What decides where calls go.
        workers: The tracked workers, by address.
        background: What runs while a cause is looked for.
        place: Called with a task that may be placed again.
        leave_out_of_log: Called with each call of which clients are told.
    """

    def __init__(
        self,
        scheduler: distributed.Scheduler,
        placement: Placement,
        workers: Mapping[str, TrackedWorker],
        background: Background,
        place: Callable[[Any], object],
        leave_out_of_log: Callable[[Hashable], object],
    ) -> None:
        self._scheduler = scheduler
        self._placement = placement
        self._workers = workers
        self._background = background
        self._place = place
        self._leave_out_of_log = leave_out_of_log
        self._counts = LossCounts(allowed_failures(scheduler))
        self._started: set[Hashable] = set()
        # By address, until Dask has removed the worker: whether a call had started, and whether
        # it could have, as far as the scheduler knows.
        self._lost: dict[str, list[tuple[Hashable, bool, bool]]] = {}
        self._held: dict[Hashable, bool] = {}  # until clients are told; whether they fail then

    def call_started(self, key: Hashable) -> None:
        """A worker has reported that a call runs there."""
        self._started.add(key)

    def call_left(self, key: Hashable, address: str) -> None:
        """A call has left its worker, in whichever way."""
        if address not in self._scheduler.workers:
            placed_at = self._placement.started_at(key)
            last_seen = self._workers[address].state.last_seen - time.time() + time.monotonic()
            ran = had_started(key in self._started, placed_at, last_seen)
            self._lost.setdefault(address, []).append((key, ran, placed_at is not None))
        self._started.discard(key)

    def call_ended(self, key: Hashable) -> None:
        """A call does not run again."""
        self._counts.forget(key)

    def holds(self, key: Hashable) -> bool:
        """Whether a call is not to be placed yet."""
        return key in self._held

    def held(self) -> list[Hashable]:
        """The calls that are not to be placed yet."""
        return list(self._held)

    def worker_left(self, worker: TrackedWorker, removal: Mapping[str, Any]) -> None:
        """Dask has removed a worker.

        Args:
            worker: The worker.
            removal: What Dask has logged of it: see `removal_of`.
        """
        was_expected = bool(removal.get("expected"))
        rerun = []
        for key, ran, could_have in self._lost.pop(worker.address, []):
            ts = self._scheduler.tasks.get(key)
            if ts is None or ts.state in ("memory", "erred", "forgotten"):
                continue
            if ran:
                counts = not was_expected or worker.time_is_up
                # A call is not placed before its client has heard of the loss: it could be done
                # before that.
                self._hold(key, fails=counts and self._counts.count(key))
                rerun.append((key, counts))
            elif could_have:  # if it had started after all, the next worker is to say so in time
                ts.annotations = {**ts.annotations, "limits-careful": True}
        for key in removal.get("lost-computed-tasks", ()):
            # It was done and its result not fetched. It runs again, but is not to blame.
            ts = self._scheduler.tasks.get(key)
            if ts is not None and is_ours(ts) and ts.state in ("waiting", "no-worker"):
                self._hold(key, fails=False)
                rerun.append((key, False))
        self._background.run(self._tell(worker, was_expected, rerun))

    def _hold(self, key: Hashable, *, fails: bool) -> None:
        self._held[key] = fails
        self._placement.dequeue(key)
        self._leave_out_of_log(key)

    async def _tell(
        self, worker: TrackedWorker, was_expected: bool, rerun: list[tuple[Hashable, bool]]
    ) -> None:
        """Find out why a worker has left, and tell clients of it and of the calls that it ran."""
        cause = await self._cause(worker, was_expected)
        log(self._scheduler, worker, "worker-removed", reason=cause)
        for key, counts in rerun:
            if counts:
                self._counts.explain(key, Loss(worker.name, worker.job.job, cause))
            if self._held.pop(key, False):
                # Even if it waits for what it depends on, which was lost with the worker.
                fail(self._scheduler, {key: self._counts.error(key, function_name(key))})
                continue
            if key in self._scheduler.tasks:
                tries = self._counts.tries(key)
                log(self._scheduler, worker, "rerun", key=key, cause=cause, tries=tries)
            if is_waiting(self._scheduler, key):
                self._place(self._scheduler.tasks[key])

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


def had_started(was_reported: bool, placed_at: float | None, last_seen: float) -> bool:
    """Whether a call had started on a worker that is lost.

    Args:
        was_reported: Whether the worker has reported the start.
        placed_at: When the call could start there, by `time.monotonic()`; None if it could not.
        last_seen: When the worker was last heard of, by the same clock.
    """
    return was_reported or (placed_at is not None and last_seen < placed_at + _UNREPORTED_S)


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
