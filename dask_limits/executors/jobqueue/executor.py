from __future__ import annotations

import contextlib
import copy
from collections.abc import Callable
from typing import Any, Self

import distributed

from dask_limits.executors.cluster import ClusterEvent, WaitingForWorkers
from dask_limits.executors.dask.dashboard import dashboard_link
from dask_limits.executors.dask.executor import DaskExecutor
from dask_limits.executors.dask.uninterrupted import start_uninterrupted
from dask_limits.executors.jobqueue.cluster import make_cluster
from dask_limits.executors.jobqueue.job_pool import JobPool
from dask_limits.executors.jobqueue.job_submission import JobSubmitter, check_commands
from dask_limits.executors.jobqueue.shared_directory import SharedDirectory
from dask_limits.executors.jobqueue.spec import JobSpec
from dask_limits.future import Future
from dask_limits.limits.owner.preload import NOTHING, Preload


class JobQueueExecutor(DaskExecutor):
    """Runs calls on Dask workers in the jobs of a batch system, which it submits and cancels."""

    _pool: JobPool
    _spec: JobSpec

    @classmethod
    def start(cls, spec: JobSpec, preload: Preload = NOTHING, *, batch: bool = True) -> Self:
        """Start a scheduler in this process and begin to submit jobs, without waiting for workers.

        Raises:
            WorkersNotStartedError: if commands of the batch system do not exist.
            OSError: if the directory that the nodes share cannot be made.
            RuntimeError: if the scheduler cannot be started.
        """
        return start_uninterrupted(lambda: cls._start(spec, preload, batch))

    @classmethod
    def _start(cls, spec: JobSpec, preload: Preload, batch: bool) -> Self:
        check_commands(spec.system, spec.submit_command, spec.cancel_command)
        with contextlib.ExitStack() as exit_stack:
            directory = SharedDirectory(spec.shared, spec.options.get("log_directory"))
            exit_stack.callback(directory.remove)
            submitter = JobSubmitter(spec.system, spec.cancel_command)
            exit_stack.callback(submitter.close)
            cluster = make_cluster(spec, submitter, directory)
            exit_stack.callback(cluster.close)
            pool = JobPool(cluster, spec, submitter, directory)
            exit_stack.callback(cluster.sync, pool.end)
            client = distributed.Client(cluster, set_as_default=False)
            exit_stack.callback(client.close)
            executor = cls(client, preload=preload, batch=batch)
            executor._pool, pool.tell = pool, executor._hear
            executor._spec = spec
            cluster.sync(pool.begin)
            executor._close = exit_stack.pop_all().close
            return executor

    @property
    def dashboard_link(self) -> str | None:
        """See `DaskExecutor.dashboard_link`."""
        return dashboard_link(self.client, self._spec.dashboard_host)

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        """See `DaskExecutor.submit`. It raises `WorkersNotStartedError` if no worker will come."""
        if (error := self.start_error()) is not None:
            raise copy.copy(error)
        future = super().submit(fn, *args, **kwargs)
        if self.start_error() is not None:  # it came before this call was known
            self._hear(None)
        return future

    def watch(self, tell: Callable[[ClusterEvent | None], object] | None) -> None:
        """See `WatchedExecutor.watch`."""
        super().watch(tell)
        if self._pool.waiting:
            self._tell(WaitingForWorkers(self._pool.waiting))

    def places(self) -> int:
        """How many calls of one core its workers run at a time, when all have come."""
        return self._spec.places

    def ready(self) -> bool:
        """Whether a worker has come."""
        return self._pool.came

    def start_error(self) -> Exception | None:
        """Why no worker will come; None as long as one may."""
        return self._pool.error

    def _hear(self, event: ClusterEvent | None) -> None:
        """The job pool has news."""
        if (error := self._pool.error) is not None:
            for call in list(self._not_done.values()):
                self._sender.fail(call, copy.copy(error))  # a copy each: notes may be added to it
        self._tell(event)
