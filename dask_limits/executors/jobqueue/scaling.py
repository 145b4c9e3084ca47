"""How many jobs there should be: when to submit, when to give jobs back, when to give up.

Everything here decides from what it is given, by the clock that it is given, and does nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final

from dask_limits.executors.jobqueue.pooled_job import PooledJob
from dask_limits.executors.jobqueue.spec import JobSpec

_FAILURES: Final = 3
"""How many jobs in a row may end without a worker before we give up. One may have met a bad node;
three in a row are the fault of the job script, and each costs a turn in the queue."""
_FAILURES_LATER: Final = 8
"""How many times in a row jobs may end so once there have been workers. With the delays in between
these are two minutes, in which a batch system can be restarted."""


def jobs_wanted(spec: JobSpec, came: bool, demand: int) -> int:
    """How many jobs there should be if the present work could use `demand` workers.

    Until a worker has come, the number to start with is wanted.
    """
    workers = demand if came else spec.n_workers
    if came and spec.adaptive is not None:
        workers = max(spec.adaptive.minimum, min(spec.adaptive.maximum, demand))
    return -(-workers // spec.workers_per_job)


class Surplus:
    """Chooses the jobs that are given back when fewer are wanted.

    An idle worker, or a job that is no longer wanted, is kept for `keep_idle_s` seconds.
    """

    def __init__(self, keep_idle_s: float) -> None:
        self._keep_idle_s = keep_idle_s
        self._since: float | None = None

    def choose(self, jobs: Sequence[PooledJob], wanted: int, now: float) -> list[PooledJob]:
        """The jobs to give back now: first those whose worker has not come, then idle ones."""
        n = len(jobs) - wanted
        if n <= 0:
            self._since = None
            return []
        if self._since is None:
            self._since = now
        idle_since = now - self._keep_idle_s
        to_come = [job for job in jobs if not job.came and self._since <= idle_since]
        idle = [job for job in jobs if job.idle_since is not None and job.idle_since <= idle_since]
        return (to_come + idle)[:n]


class Failures:
    """The jobs that ended without a worker, since the last worker came."""

    def __init__(self) -> None:
        self.jobs: list[PooledJob] = []
        self.retry_at = 0.0  # when to submit again, by the pool's clock
        self._times = 0  # several jobs can fail at one time

    def add(self, jobs: Iterable[PooledJob], now: float) -> None:
        """Jobs have ended without a worker. Each time, the delay doubles, up to a minute."""
        self.jobs += jobs
        self.retry_at = now + 2.0 ** min(self._times, 6)
        self._times += 1

    def clear(self) -> None:
        """A worker has come."""
        self.jobs.clear()
        self._times = 0

    def reason_to_give_up(self, came: bool) -> str:
        """Why no more jobs should be submitted; "" to try again."""
        if self.jobs and not came and all(job.submit_error is not None for job in self.jobs):
            return "No job could be submitted"
        if self._times >= _FAILURES_LATER if came else len(self.jobs) >= _FAILURES:
            return f"{len(self.jobs)} jobs in a row ended without a worker"
        return ""
