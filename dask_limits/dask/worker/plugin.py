from __future__ import annotations

import asyncio
import dataclasses
import logging
import math
import os
import time
from typing import Any

import cloudpickle
import distributed
import psutil
from distributed import Status

from dask_limits.batch_systems.current_job import BatchJob, current_job
from dask_limits.dask.compat import worker as compat
from dask_limits.dask.graphs.annotations import EXECUTOR
from dask_limits.dask.reservations import job_resources
from dask_limits.dask.scheduler.plugin import LimitsSchedulerPlugin
from dask_limits.dask.worker.executor import LimitsExecutor
from dask_limits.placement.resources import WorkerResources
from dask_limits.units import whole_number

logger = logging.getLogger(__name__)


class LimitsWorkerPlugin(distributed.WorkerPlugin):  # type: ignore[misc]
    """Brings limits to the workers of a Dask cluster, including those that join later.

    It also brings the scheduler a plugin, which sends each limited task to a worker that has enough
    memory and cores free for it: see docs/dask.md.

    A `Scheduler` on Dask registers it by itself. Code that uses
    [annotate][dask_limits.annotate] registers it once for each cluster. Registering it again has no
    effect: the first one stays.

    Args:
        max_calls_per_process: After how many calls a task process is replaced by a new one, 1 or
            more; None, the default, for no limit. This is for functions that leak memory.

    Raises:
        ValueError: if it is less than 1.

    Example:
        >>> from distributed import Client
        >>> from dask_limits import LimitsWorkerPlugin, annotate
        >>> with Client(n_workers=1, processes=False, dashboard_address=":0") as client:
        ...     _ = client.register_plugin(LimitsWorkerPlugin())
        ...     with annotate(wall_time=10):
        ...         client.submit(abs, -3).result()
        3
    """

    name = "dask-limits"
    idempotent = True

    def __init__(self, *, max_calls_per_process: int | None = None) -> None:
        if max_calls_per_process is not None:  # refused here rather than on each worker
            whole_number(max_calls_per_process, "max_calls_per_process", none="no limit")
        self._max_calls = max_calls_per_process

    async def setup(self, worker: distributed.Worker) -> None:
        """Give the worker its "limits" executor, and report its resources to the scheduler."""
        compat.check_worker()
        self._tasks = worker.state.tasks
        self._executor = worker.executors[EXECUTOR] = LimitsExecutor(worker, self._max_calls)
        compat.listen(worker, {"dask-limits-give-back": self._executor.give_back})
        resources, job = await _resources_of(worker)
        self._executor.set_resources(resources, job.job)
        try:
            await worker.scheduler.register_scheduler_plugin(
                plugin=cloudpickle.dumps(LimitsSchedulerPlugin()),
                name=LimitsSchedulerPlugin.name,
                idempotent=True,
            )
            self._executor.is_placed = await worker.scheduler.dask_limits_join(
                worker=worker.address,
                resources=dataclasses.asdict(resources),
                job=dataclasses.asdict(job),
            )
        except Exception as error:
            # For example, the scheduler may not unpickle, or cannot import dask_limits.
            logger.warning(
                "This worker keeps the limits of its calls, but the scheduler does not consider"
                " them when it chooses a worker: %r",
                error,
            )

    def transition(self, key: Any, start: str, finish: str, **_: Any) -> None:
        """End the call of a task that was cancelled. Dask itself lets it run on."""
        if finish == "executing":
            task = self._tasks[key]
            if task.annotations.get("executor") != EXECUTOR:
                if "limits" in task.annotations:  # they are empty: it is a call of the facade
                    self._executor.runs_elsewhere(task)
            else:
                # Dask runs coroutine functions in its own loop and not in an executor, so they
                # would escape their limits.
                compat.run_as_plain_function(task)
        elif finish == "long-running":
            self._executor.seceded(self._tasks[key])
        elif finish == "released" and start in ("executing", "long-running"):
            self._executor.cancel(key)

    async def teardown(self, worker: distributed.Worker) -> None:
        """End what runs, and every process of ours."""
        del worker.executors[EXECUTOR]
        if worker.status == Status.running:  # the plugin is removed, and the worker stays
            await worker.scheduler.dask_limits_leave(worker=worker.address)
        self._executor.usage_log.send()
        await asyncio.to_thread(self._executor.shutdown)


async def _resources_of(worker: distributed.Worker) -> tuple[WorkerResources, BatchJob]:
    """What a worker has for calls, and its batch job, whose names are empty if there is none.

    `ends_at` is seconds from now.
    """
    memory = compat.memory_limit(worker) or math.inf
    cores = worker.state.nthreads
    job = current_job()
    if job is None:
        return WorkerResources(memory, cores), BatchJob("", "")
    ends_in = await asyncio.to_thread(job.ends_in)  # it may ask the batch system
    if ends_in is None:
        return job_resources(memory, cores), job
    # The job began when the worker's program was started, or shortly before. A worker that its
    # nanny has restarted is younger than the job; the nanny is not.
    program = psutil.Process(os.getppid() if worker.nanny else os.getpid())
    age = max(time.time() - program.create_time(), 0)
    return job_resources(memory, cores, max(ends_in + age, 0), ends_in), job
