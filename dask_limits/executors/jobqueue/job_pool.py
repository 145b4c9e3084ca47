"""Keeps as many jobs as are wanted, and notices what becomes of them."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
import math
import time
from collections.abc import Callable, Sequence
from typing import Any, Final

import distributed
from distributed import Status

from dask_limits.batch_systems.job_state import JobState
from dask_limits.batch_systems.slurm import job_states
from dask_limits.batch_systems.slurm_reasons import why_never_starts
from dask_limits.dask.compat.scheduler import change_status
from dask_limits.dask.scheduler.cluster import removal_of
from dask_limits.dask.scheduler.plugin import plugin_of
from dask_limits.exceptions import WorkersNotStartedError
from dask_limits.executors.cluster import ClusterEvent, WaitingForWorkers
from dask_limits.executors.jobqueue.demand import has_waiting, work_of, workers_for
from dask_limits.executors.jobqueue.job_submission import JobSubmitter
from dask_limits.executors.jobqueue.pooled_job import PooledJob
from dask_limits.executors.jobqueue.scaling import Failures, Surplus, jobs_wanted
from dask_limits.executors.jobqueue.shared_directory import SharedDirectory
from dask_limits.executors.jobqueue.spec import JobSpec
from dask_limits.executors.jobqueue.start_error import start_error
from dask_limits.printable import printable, repr_of
from dask_limits.units import format_seconds

logger = logging.getLogger("dask_limits.workers")

_UPDATE_EVERY_S: Final = 1.0
"""How often the pool decides what to do."""
_ASK_EVERY_S: Final = 5.0
"""How often SLURM is asked for the states of jobs if nothing has happened."""
_ASK_SOON_FOR_S: Final = 10.0
"""For how long SLURM is asked more often after something has happened: then more follows."""
_FORGOTTEN: Final = "UNKNOWN"
"""The state of a job that SLURM does not list. SLURM has no state of this name."""
_GONE_S: Final = 5.0
"""How long the end of a run waits for SLURM to say that its jobs are over. They are within a tenth
of a second, unless a node does not answer."""
_GONE_EVERY_S: Final = 0.05
"""How often the end of a run asks that."""


class JobPool(distributed.SchedulerPlugin):  # type: ignore[misc]
    """Submits jobs, and replaces those that have ended while there is work for them.

    It is a plugin of the cluster's scheduler, and runs on its event loop. There it calls `tell`
    with events, or with None after a change of `error` or `came`.
    """

    name = "dask-limits-jobs"

    def __init__(
        self, cluster: Any, spec: JobSpec, submitter: JobSubmitter, directory: SharedDirectory
    ) -> None:
        self.error: WorkersNotStartedError | None = None  # why no worker will come
        self.came = False  # whether a worker has ever been there
        self.waiting: tuple[JobState, ...] = ()  # the jobs whose workers are not there
        self.tell: Callable[[ClusterEvent | None], object] = lambda _: None
        self._cluster = cluster
        self._spec = spec
        self._submitter = submitter
        self._directory = directory
        self._jobs: dict[str, PooledJob] = {}  # by name
        self._names: dict[str, str] = {}  # of workers, by their addresses
        self._numbers = itertools.count()
        self._failures = Failures()
        self._surplus = Surplus(spec.adaptive.keep_idle_s if spec.adaptive else math.inf)
        self._warned: set[str] = set()
        self._since = time.monotonic()
        self._asked_at = 0.0
        self._ask_soon_until = 0.0
        self._news = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._submissions: asyncio.Future[list[None]] | None = None

    async def begin(self) -> None:
        """Submit the first jobs, and start to look after them."""
        scheduler = self._cluster.scheduler
        plugin_of(scheduler).cluster.new_worker = self._spec.worker
        scheduler.add_plugin(self)
        self._task = asyncio.ensure_future(self._keep_updating())

    async def end(self) -> None:
        """Cancel all jobs, and wait a moment until they are gone."""
        if self._task is None:
            return
        self._submitter.submit_no_more()
        self._task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._task
        if self._submissions is not None:
            await self._submissions  # to stop one half-way would leave its process behind
        ids = [job.id for job in self._jobs.values() if job.id]
        await self._remove(list(self._jobs.values()))
        if self._spec.system == "slurm":
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_GONE_S):
                    while not all(state.ended for state in (await job_states(ids) or {}).values()):
                        await asyncio.sleep(_GONE_EVERY_S)

    # -- what Dask's scheduler calls -------------------------------------------------------

    def add_worker(self, scheduler: distributed.Scheduler, worker: str, **_: Any) -> None:
        """A worker has come."""
        self.came = True
        self._names[worker] = str(scheduler.workers[worker].name)
        self._failures.clear()
        self._update_soon()
        self.tell(None)

    def remove_worker(self, scheduler: distributed.Scheduler, worker: str, **_: Any) -> None:
        """A worker has gone."""
        if (job := self._job_of(self._names.pop(worker, ""))) is not None:
            # No update may have seen it: one that submits jobs waits until the last is submitted.
            job.came, job.away_since = True, time.monotonic()
            job.leaves |= bool(removal_of(scheduler, worker).get("expected"))
        self._update_soon()

    def _update_soon(self) -> None:
        self._ask_soon_until = time.monotonic() + _ASK_SOON_FOR_S
        self._news.set()

    # -- what the pool does about it -------------------------------------------------------

    async def _keep_updating(self) -> None:
        while True:
            self._news.clear()
            try:
                await self._update()
            except Exception:
                logger.exception("Could not update the cluster's jobs")
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_UPDATE_EVERY_S):  # wait_for may swallow a cancellation
                    await self._news.wait()

    async def _update(self) -> None:
        now = time.monotonic()
        self._note_workers(now)
        away = [job for job in self._jobs.values() if not job.workers]
        if self._spec.system == "slurm":
            await self._ask_slurm({job.id: job for job in away if job.id}, now)
        ended = [job for job in away if job.has_ended(now)]
        await self._remove(ended)
        if failed := [job for job in ended if not job.came]:
            self._failures.add(failed, time.monotonic())
            none_left = not self._jobs and not self._cluster.scheduler.workers
            if none_left and (why := self._failures.reason_to_give_up(self.came)):
                self._give_up(why)
        self._note_stuck()
        timeout_s = self._spec.worker_timeout_s
        if not self.came and timeout_s is not None and now - self._since > timeout_s:
            self._give_up(f"No worker has started within {format_seconds(timeout_s)}")
        if self.error is None:
            await self._scale(now)
        waiting = tuple(
            job.public_state()
            for job in self._jobs.values()
            if not job.workers and job.submit_error is None
        )
        if waiting != self.waiting:
            self.waiting = waiting
            self.tell(WaitingForWorkers(waiting))

    def _note_workers(self, now: float) -> None:
        """Find out which workers are there, and which of them are busy."""
        for job in self._jobs.values():
            job.workers = []
        for worker in self._cluster.scheduler.workers.values():
            if (its_job := self._job_of(str(worker.name))) is not None:
                its_job.workers.append(worker)
                its_job.leaves |= worker.status is Status.closing_gracefully
        for job in self._jobs.values():
            if job.workers:
                job.note_worker(now, busy=any(worker.processing for worker in job.workers))

    def _job_of(self, worker: str) -> PooledJob | None:
        """The job of a worker, by the worker's name. With more than one, a number is appended."""
        return self._jobs.get(worker) or self._jobs.get(worker.rpartition("-")[0])

    async def _ask_slurm(self, jobs: dict[str, PooledJob], now: float) -> None:
        """Ask SLURM about jobs, by their ids, and whether those that are stuck will ever start."""
        every_s = _UPDATE_EVERY_S / 2 if now < self._ask_soon_until else _ASK_EVERY_S
        if not jobs or now - self._asked_at < every_s:
            return
        self._asked_at = now
        if (known := await job_states(jobs)) is None:
            return
        why: dict[str, str] = {}  # by reason: it is the same for all jobs
        for id_, job in jobs.items():
            state = known.get(id_, JobState(id_, state=_FORGOTTEN, reason="SLURM does not list it"))
            if job.state != state:
                self._update_soon()
            job.note_state(state, now)
            if job.may_be_stuck(now):
                if state.reason not in why:
                    why[state.reason] = await why_never_starts(id_, state.reason)
                job.stuck_since, job.why_stuck = now, why[state.reason]

    async def _remove(self, jobs: Sequence[PooledJob]) -> None:
        """Remove jobs, and cancel those that have not ended; workers may still run in them."""
        for job in jobs:
            self._jobs.pop(job.name, None)
            if job.submit_error is None:
                logger.info("Done with %s, of worker %s", job.public_state(), job.name)
            # A job that SLURM only does not list is cancelled, to be sure.
            if job.id and job.state and job.state.ended and job.state.state != _FORGOTTEN:
                self._submitter.gone(job.id)
                job.dask_job.job_id = None
        await asyncio.gather(*(job.dask_job.close() for job in jobs))

    def _note_stuck(self) -> None:
        """Give up if only jobs are left that will never start, and there is work for them.

        While there are workers or other jobs, the run goes on with them. Jobs that are stuck stay
        in the queue, in case somebody changes what holds them back; none is submitted instead.
        """
        stuck = [job for job in self._jobs.values() if job.why_stuck]
        others = len(stuck) < len(self._jobs) or self._cluster.scheduler.workers
        if stuck and not others and (not self.came or self._demand()):
            self._give_up("No worker will start: SLURM will not start the jobs")
            return
        for job in stuck:
            if job.why_stuck not in self._warned:
                self._warned.add(job.why_stuck)
                logger.warning("%s, and will never start. %s", job.public_state(), job.why_stuck)

    def _give_up(self, why: str) -> None:
        if self.error is None:
            self._directory.keep_logs = True
            jobs = [*self._failures.jobs, *self._jobs.values()]
            self.error = start_error(why, jobs, self._cluster.job_script(), self._directory.logs)
            self.tell(None)

    # -- how many jobs there are -----------------------------------------------------------

    async def _scale(self, now: float) -> None:
        """Submit jobs that are wanted, or give back those that are not."""
        wanted = jobs_wanted(self._spec, self.came, self._demand() if self.came else 0)
        jobs = [job for job in self._jobs.values() if not job.leaves]
        surplus = self._surplus.choose(jobs, wanted, now)
        if len(jobs) < wanted and now >= self._failures.retry_at:
            names = [f"{self._spec.system}-{next(self._numbers)}" for _ in range(len(jobs), wanted)]
            new = [PooledJob(name, dask_job=self._cluster.new_job(name)) for name in names]
            self._jobs |= {job.name: job for job in new}
            self._submissions = asyncio.gather(*map(self._submit, new))
            await asyncio.shield(self._submissions)  # `end` waits for them
            self._update_soon()
        elif surplus:
            await self._retire([worker for job in surplus for worker in job.workers])
            await self._remove(surplus)

    def _demand(self) -> int:
        """How many workers the present work could use."""
        spec, scheduler = self._spec, self._cluster.scheduler
        if spec.adaptive is None:
            return spec.n_workers if has_waiting(scheduler) else 0
        worker = plugin_of(scheduler).cluster.new_worker or spec.worker
        return workers_for(work_of(scheduler), worker, spec.adaptive.target_duration_s)

    async def _submit(self, job: PooledJob) -> None:
        try:
            await job.dask_job.start()
        except Exception as error:
            job.submit_error = error
            why = printable(repr_of(error))
            # The error of the run, or of the next call, says so too.
            logger.info("Could not submit a job for worker %s: %s", job.name, why)
        job.id = job.dask_job.job_id or ""
        if job.id:
            logger.info("Submitted job %s for worker %s", job.id, job.name)
        if self._spec.system == "slurm" and job.id:
            job.state = JobState(job.id, state="PENDING")

    async def _retire(self, workers: list[Any]) -> None:
        """Move the results of idle workers to others, and close them."""
        if not workers:
            return
        scheduler = self._cluster.scheduler
        for worker in workers:  # now: before the next line is done, a task might be sent there
            change_status(scheduler, worker, Status.closing_gracefully, "dask-limits-give-back")
        await scheduler.retire_workers(
            [worker.address for worker in workers], close_workers=True, remove=True
        )
