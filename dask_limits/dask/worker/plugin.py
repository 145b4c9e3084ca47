from __future__ import annotations

import asyncio
import dataclasses
import logging
import math
import os
import time
import weakref
from collections.abc import Awaitable, Callable, Iterable
from typing import Any, Final, Self

import cloudpickle
import distributed
import psutil
from distributed import Status

from dask_limits.batch_systems.current_job import BatchJob, current_job
from dask_limits.dask.batch import BatchFailedError
from dask_limits.dask.compat import worker as compat
from dask_limits.dask.graphs.annotations import EXECUTOR
from dask_limits.dask.reservations import job_resources
from dask_limits.dask.scheduler.plugin import LimitsSchedulerPlugin
from dask_limits.dask.worker.executor import LimitsExecutor
from dask_limits.limits.owner.preload import NOTHING, Preload
from dask_limits.placement.resources import WorkerResources
from dask_limits.units import whole_number

logger = logging.getLogger(__name__)
_ending: Final[weakref.WeakKeyDictionary[distributed.Worker, asyncio.Future[None]]] = (
    weakref.WeakKeyDictionary()
)
"""For workers that the plugin was removed from: the end of what it had there."""


class LimitsWorkerPlugin(distributed.WorkerPlugin):  # type: ignore[misc]
    """Brings limits to the workers of a Dask cluster, including those that join later.

    It also brings the scheduler a plugin, which sends each limited task to a worker that has enough
    memory and cores free for it: see docs/dask.md.

    A `Scheduler` on Dask registers it by itself. Code that uses
    [annotate][dask_limits.annotate] registers it once for each cluster. Registering it again has no
    effect: the first one stays. But one with something to preload replaces what was to be preloaded
    before, on all workers, for all calls that begin from then on, whoever submits them. Calls that
    run are not disturbed.

    Args:
        max_calls_per_process: After how many calls a task process is replaced by a new one, 1 or
            more; None, the default, for no limit. This is for functions that leak memory.
        preload: Names of modules that the workers have imported before the first limited call, as
            in `Scheduler.with_processes`. Only the workers need to have them.
        initializer: A function that each task process calls once, before its first call.
        initargs: Its arguments.

    Raises:
        ValueError: if `max_calls_per_process` is less than 1, or for a name that no module can
            have.
        TypeError: if an argument has the wrong type, or cannot be pickled.

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

    def __init__(
        self,
        *,
        max_calls_per_process: int | None = None,
        preload: Iterable[str] = (),
        initializer: Callable[..., object] | None = None,
        initargs: Iterable[Any] = (),
    ) -> None:
        if max_calls_per_process is not None:  # refused here rather than on each worker
            whole_number(max_calls_per_process, "max_calls_per_process", none="no limit")
        self._max_calls = max_calls_per_process
        self._preload = Preload.of(preload, initializer, initargs)

    @classmethod
    def _of(cls, preload: Preload) -> Self:
        plugin = cls()
        plugin._preload = preload
        return plugin

    @property
    def idempotent(self) -> bool:
        """Whether Dask leaves out this one where there is another one."""
        return self._preload == NOTHING

    async def setup(self, worker: distributed.Worker) -> None:
        """Give the worker its "limits" executor, and report its resources to the scheduler."""
        compat.check_worker()
        self._tasks = worker.state.tasks
        executor = worker.executors.get(EXECUTOR)
        if executor is not None:  # the plugin that had it has just been replaced by this one
            self._executor, executor.is_left = executor, False
            executor.preload(self._preload)
            return
        if (ending := _ending.get(worker)) is not None:
            await ending
        self._executor = LimitsExecutor(worker, self._max_calls, self._preload)
        worker.executors[EXECUTOR] = self._executor
        compat.log_no_failures_with(BatchFailedError)  # `dask_limits.calls` has their calls
        give_back, cancel_calls = self._executor.give_back, self._executor.cancel_calls
        handlers = {"dask-limits-give-back": give_back, "dask-limits-cancel-calls": cancel_calls}
        handlers |= self._executor.relay.handlers | self._executor.running.handlers
        handlers |= self._executor.ended.handlers
        compat.listen(worker, handlers)
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

    def teardown(self, worker: distributed.Worker) -> Awaitable[None] | None:
        """End what runs, and every process of ours, unless another plugin takes over."""
        if worker.status != Status.running:
            return self._end(worker)
        # The plugin is removed from a worker that stays, or replaced by another one. Dask does not
        # say which; but it then sets the other one up before anything else runs on its loop.
        self._executor.is_left = True
        asyncio.get_running_loop().call_soon(self._end_if_left, worker)
        return None

    def _end_if_left(self, worker: distributed.Worker) -> None:
        if self._executor.is_left:
            del worker.executors[EXECUTOR]
            _ending[worker] = asyncio.ensure_future(self._leave(worker))

    async def _leave(self, worker: distributed.Worker) -> None:
        await worker.scheduler.dask_limits_leave(worker=worker.address)
        await self._end(worker)

    async def _end(self, worker: distributed.Worker) -> None:
        worker.executors.pop(EXECUTOR, None)
        self._executor.usage_log.send()
        if self._executor.is_placed:  # else the scheduler may not know what to do with it
            self._executor.ended.tell()
        self._executor.relay.close()
        await asyncio.to_thread(self._executor.shutdown)


def plugin_that_preloads(preload: Preload) -> LimitsWorkerPlugin:
    """The plugin with what is to be done on each worker before calls come."""
    return LimitsWorkerPlugin._of(preload)


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
