"""Keeps as many jobs as are wanted, and notices what becomes of them."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import re
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import distributed
from distributed import Status

from dask_limits.batch_systems.job_state import JobState
from dask_limits.batch_systems.slurm import states
from dask_limits.dask.scheduler.plugin import bring
from dask_limits.dask.scheduler.workers import Capacity, removal_of
from dask_limits.exceptions import WorkersNotStartedError
from dask_limits.executors.cluster import ClusterEvent, WaitingForWorkers
from dask_limits.executors.jobqueue.demand import has_waiting, workers_for
from dask_limits.executors.jobqueue.spec import Plan
from dask_limits.executors.jobqueue.submission import Canceller
from dask_limits.units import format_seconds

logger = logging.getLogger("dask_limits")

_LOOK_EVERY_S: Final = 1.0
"""How often it is decided what is to be done."""
_ASK_EVERY_S: Final = 5.0
"""How often SLURM is asked for the states of jobs, if nothing has happened."""
_ASK_SOON_FOR_S: Final = 10.0
"""For how long it is asked each second when something has: that is when most changes."""
_FORGOTTEN: Final = "UNKNOWN"
"""The state of a job that SLURM does not list. It is no word of SLURM's."""
_AWAY_S: Final = 30.0
"""How long a worker may be away while its job runs: its nanny starts another one, in seconds."""
_GONE_S: Final = 5.0
"""How long the end of a run waits for SLURM to say that its jobs are over. They are within a tenth
of a second, unless a node does not answer."""
_GONE_EVERY_S: Final = 0.05
"""How often it asks that."""
_FAILURES: Final = 3
"""After how many jobs in a row that have brought no worker it is not tried again. One may have met
a bad node; three in a row are the script's fault, and each costs a turn in the queue."""
_FAILURES_LATER: Final = 8
"""Likewise, but times in a row, once there have been workers: these are two minutes, in which a
batch system is restarted."""
_LOG_LINES: Final = 30
"""How much of a log is shown: enough for a traceback."""
_LOG_BYTES: Final = 2**16
"""How much of it is read."""


@dataclass(eq=False)
class _Kept:
    """A job that is submitted, or about to be.

    Attributes:
        name: Of its worker; with several workers in a job, what their names begin with.
        job: Dask's.
        state: What SLURM has said last.
        came: Whether its worker has ever been there.
        away_since: Since when its worker is not there.
        idle_since: Since when nothing has run there; None while something does.
        leaves: Whether its worker was retired: its time is nearly up, or nobody needs it.
    """

    name: str
    job: Any = None
    state: JobState | None = None
    came: bool = False
    away_since: float = 0.0
    idle_since: float | None = None
    leaves: bool = False

    def told(self) -> JobState:
        """As it is told to people."""
        job = (self.job and self.job.job_id) or ""
        return replace(self.state or JobState(job), name=self.name)


class JobKeeper(distributed.SchedulerPlugin):  # type: ignore[misc]
    """Submits jobs, and replaces those that have ended while there is work for them.

    It lives on the loop of the cluster, whose scheduler it is a plugin of.

    Args:
        cluster: From `make_cluster`.
        plan: How it is to be.
        canceller: Of its jobs.

    Attributes:
        error: Why no worker will come; None as long as one may.
        came: Whether a worker has ever been there.
        waiting: The jobs whose workers are not there.
        tell: Called on that loop with events, or with None for a look at `error` and `came`.
    """

    name = "dask-limits-jobs"

    def __init__(self, cluster: Any, plan: Plan, canceller: Canceller) -> None:
        self.error: WorkersNotStartedError | None = None
        self.came = False
        self.tell: Callable[[ClusterEvent | None], object] = lambda _: None
        self._cluster = cluster
        self._plan = plan
        self._canceller = canceller
        self._capacity = Capacity(plan.memory, plan.cores, plan.walltime_s)
        self._kept: dict[str, _Kept] = {}
        self._names: dict[str, str] = {}  # of workers, by their addresses
        self._number = 0
        self._failed: list[_Kept] = []  # in a row
        self._failures = 0  # how often some have: several may at one time
        self.waiting: tuple[JobState, ...] = ()
        self._since = time.monotonic()
        self._asked_at = 0.0
        self._ask_soon_until = 0.0
        self._surplus_since: float | None = None
        self._submit_after = 0.0
        self._something = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    async def begin(self) -> None:
        """Submit the first jobs, and keep on."""
        scheduler = self._cluster.scheduler
        bring(scheduler).capacity = self._capacity
        scheduler.add_plugin(self)
        self._task = asyncio.ensure_future(self._keep())

    async def end(self) -> None:
        """Cancel all jobs, and wait a moment for them to be gone."""
        if self._task is None:
            return
        self._canceller.submit_no_more()
        self._task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._task
        jobs = [kept.job.job_id for kept in self._kept.values() if kept.job.job_id]
        await self._forget(list(self._kept.values()))
        if self._plan.system == "slurm":
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_GONE_S):
                    while not all(state.ended for state in (await states(jobs) or {}).values()):
                        await asyncio.sleep(_GONE_EVERY_S)

    # -- what the scheduler tells ----------------------------------------------------------

    def add_worker(self, scheduler: distributed.Scheduler, worker: str, **_: Any) -> None:
        """A worker has come."""
        self.came = True
        self._names[worker] = str(scheduler.workers[worker].name)
        self._failed.clear()
        self._failures = 0
        self._hurry()
        self.tell(None)

    def remove_worker(self, scheduler: distributed.Scheduler, worker: str, **_: Any) -> None:
        """A worker has gone."""
        kept = self._job_of(self._names.pop(worker, ""))
        if kept is not None and removal_of(scheduler, worker).get("expected"):
            kept.leaves = True
        self._hurry()

    def _hurry(self) -> None:
        self._ask_soon_until = time.monotonic() + _ASK_SOON_FOR_S
        self._something.set()

    # -- what is done about it -------------------------------------------------------------

    async def _keep(self) -> None:
        while True:
            self._something.clear()
            try:
                await self._look()
            except Exception:
                logger.exception("The jobs of the cluster could not be seen to")
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_LOOK_EVERY_S):  # wait_for may swallow a cancellation
                    await self._something.wait()

    async def _look(self) -> None:
        now = time.monotonic()
        present = self._look_at_workers(now)
        await self._ask(now, present)
        ended = [kept for kept in self._kept.values() if self._has_ended(kept, present, now)]
        await self._forget(ended)
        self._note_failures([kept for kept in ended if not kept.came])
        timeout_s = self._plan.worker_timeout_s
        if not self.came and timeout_s is not None and now - self._since > timeout_s:
            self._give_up(f"No worker has come within {format_seconds(timeout_s)}")
        if self.error is None:
            await self._correct_number(now, present)
        self._tell_waiting(present)

    def _look_at_workers(self, now: float) -> dict[str, list[Any]]:
        """The workers that are there, by the names of their jobs."""
        present: dict[str, list[Any]] = {}
        for worker in self._cluster.scheduler.workers.values():
            if (kept := self._job_of(str(worker.name))) is not None:
                present.setdefault(kept.name, []).append(worker)
                kept.leaves |= worker.status is Status.closing_gracefully
        for name, kept in self._kept.items():
            if name in present:
                kept.came, kept.away_since = True, now
                kept.state = None  # which would be old when the worker has gone
                if any(worker.processing for worker in present[name]):
                    kept.idle_since = None
                elif kept.idle_since is None:
                    kept.idle_since = now
        return present

    def _job_of(self, worker: str) -> _Kept | None:
        """The job of a worker, by the worker's name, which ends with a number if it has more."""
        return self._kept.get(worker) or self._kept.get(worker.rpartition("-")[0])

    async def _ask(self, now: float, present: Iterable[str]) -> None:
        """Ask SLURM about the jobs whose workers are not there."""
        asked = {kept.job.job_id: kept for kept in self._kept.values() if kept.name not in present}
        asked.pop(None, None)
        if self._plan.system != "slurm" or not asked:
            return
        every_s = _LOOK_EVERY_S / 2 if now < self._ask_soon_until else _ASK_EVERY_S
        if now - self._asked_at < every_s:
            return
        self._asked_at = now
        known = await states(asked)
        if known is None:
            return
        for job, kept in asked.items():
            state = known.get(job, JobState(job, state=_FORGOTTEN, reason="SLURM has forgotten it"))
            if kept.state != state:
                kept.state = state
                self._hurry()

    def _has_ended(self, kept: _Kept, present: Iterable[str], now: float) -> bool:
        if kept.name in present:
            return False
        if kept.job.submit_error is not None or (kept.state is not None and kept.state.ended):
            return True
        waits = kept.state is not None and kept.state.waits
        return kept.leaves or (kept.came and not waits and now - kept.away_since > _AWAY_S)

    async def _forget(self, gone: Iterable[_Kept]) -> None:
        """Cancel jobs that are of no use any more; there may be workers left in them."""
        gone = list(gone)
        for kept in gone:
            self._kept.pop(kept.name, None)
            self._cluster.worker_spec.pop(kept.name, None)
            self._cluster.workers.pop(kept.name, None)
            ended = kept.state is not None and kept.state.ended
            # One that is only not listed is cancelled, to be sure.
            if kept.job.job_id and ended and kept.told().state != _FORGOTTEN:
                self._canceller.gone(kept.job.job_id)
                kept.job.job_id = None
        await asyncio.gather(*(kept.job.close() for kept in gone))

    def _note_failures(self, failed: list[_Kept]) -> None:
        if not failed:
            return
        self._failed += failed
        # Twice as long each time: what is wrong may pass, as when the batch system is restarted.
        self._submit_after = time.monotonic() + 2.0 ** min(self._failures, 6)
        self._failures += 1
        none_left = not self._kept and not self._cluster.scheduler.workers
        refused = all(kept.job.submit_error is not None for kept in self._failed)
        if none_left and refused and not self.came:
            self._give_up("No job could be submitted")
        elif none_left and (
            self._failures >= _FAILURES_LATER if self.came else len(self._failed) >= _FAILURES
        ):
            self._give_up(f"{len(self._failed)} jobs in a row have ended without a worker")

    def _give_up(self, why: str) -> None:
        if self.error is not None:
            return
        jobs = [kept.told() for kept in [*self._failed, *self._kept.values()]]
        errors = {
            str(kept.job.submit_error): None for kept in self._failed if kept.job.submit_error
        }
        script = self._cluster.job_script()
        path, log = self._log([job.job for job in jobs if job.job])
        parts = [f"{why}.", *errors, *map(str, (job for job in jobs if job.job))]
        parts += ["", "The job script (the worker's name and address differ):", script.strip()]
        if log:
            parts += ["", f"The end of {path}:", log]
        self.error = WorkersNotStartedError("\n".join(parts), jobs=jobs, script=script, log=log)
        self.tell(None)

    def _log(self, jobs: list[str]) -> tuple[Path | None, str]:
        """The end of the log of the last of these jobs that has one."""
        directory = Path(self._cluster._job_kwargs["log_directory"])
        for job in reversed(jobs):
            its = re.compile(rf"(?<!\d){re.escape(job)}(?!\d)")
            paths = [path for path in _files(directory) if its.search(path.name)]
            for path in sorted(paths, key=lambda path: -path.stat().st_size):  # .out and .err
                if lines := _end_of(path):
                    return path, "\n".join(lines)
        return None, ""

    # -- how many there are to be ----------------------------------------------------------

    async def _correct_number(self, now: float, present: dict[str, list[Any]]) -> None:
        wanted = self._wanted()
        useful = [kept for kept in self._kept.values() if not kept.leaves]
        if len(useful) < wanted and now >= self._submit_after:
            await self._submit(wanted - len(useful))
        elif self._plan.adaptive is not None:
            await self._give_back(now, useful, wanted, present)

    def _wanted(self) -> int:
        """How many jobs there are to be."""
        plan, scheduler = self._plan, self._cluster.scheduler
        first = -(-plan.n_workers // plan.processes)
        if not self.came:
            return first
        if plan.adaptive is None:
            return first if has_waiting(scheduler) else 0
        room = (bring(scheduler).capacity or self._capacity).room()
        workers = workers_for(scheduler, room, plan.adaptive.target_duration_s)
        workers = max(plan.adaptive.minimum, min(plan.adaptive.maximum, workers))
        return -(-workers // plan.processes)

    async def _submit(self, n: int) -> None:
        added = []
        for _ in range(n):
            kept = _Kept(f"{self._plan.system}-{self._number}")
            self._number += 1
            self._cluster.worker_spec[kept.name] = self._cluster.new_spec
            added.append(kept)
        # Has all submitted that is not yet; not to be stopped half-way at the end of the run.
        await asyncio.shield(self._cluster._correct_state())
        for kept in added:
            kept.job = self._cluster.workers[kept.name]
            if self._plan.system == "slurm" and kept.job.job_id:
                kept.state = JobState(kept.job.job_id, state="PENDING")
            self._kept[kept.name] = kept
        self._hurry()

    async def _give_back(
        self, now: float, useful: list[_Kept], wanted: int, present: dict[str, list[Any]]
    ) -> None:
        """Let go of workers that have had nothing to do for a while, and of jobs not needed."""
        assert self._plan.adaptive is not None
        keep_s = self._plan.adaptive.keep_idle_s
        surplus = len(useful) - wanted
        if surplus <= 0:
            self._surplus_since = None
            return
        if self._surplus_since is None:
            self._surplus_since = now
        pending = [kept for kept in useful if not kept.came]
        if now - self._surplus_since < keep_s:
            pending = []
        idle = [
            kept
            for kept in useful
            if kept.idle_since is not None and now - kept.idle_since >= keep_s
        ]
        leaving = (pending + idle)[:surplus]
        await self._retire([worker for kept in leaving for worker in present.get(kept.name, ())])
        await self._forget(leaving)

    async def _retire(self, workers: list[Any]) -> None:
        """Have results move to other workers. Nothing runs on these, and nothing will."""
        if not workers:
            return
        scheduler = self._cluster.scheduler
        for worker in workers:  # at once: until the next line is done, something might be sent
            scheduler.handle_worker_status_change(
                "closing_gracefully", worker, "dask-limits-give-back"
            )
        await scheduler.retire_workers(
            [worker.address for worker in workers], close_workers=True, remove=True
        )

    def _tell_waiting(self, present: Iterable[str]) -> None:
        waiting = tuple(
            kept.told()
            for kept in self._kept.values()
            if kept.name not in present and kept.job.submit_error is None
        )
        if waiting != self.waiting:
            self.waiting = waiting
            self.tell(WaitingForWorkers(waiting))


def _files(directory: Path) -> list[Path]:
    """Those in a directory, which may be the user's own, with anything in it."""
    try:
        return [path for path in directory.iterdir() if path.is_file()]
    except OSError:  # the job makes it, perhaps, and on another machine
        return []


def _end_of(path: Path) -> list[str]:
    """The last lines of a file; none if it cannot be read."""
    try:
        with path.open("rb") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - _LOG_BYTES))
            return file.read().decode(errors="replace").splitlines()[-_LOG_LINES:]
    except OSError:
        return []
