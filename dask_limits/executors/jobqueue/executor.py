from __future__ import annotations

import contextlib
import copy
import shlex
from collections.abc import Callable
from typing import Any, Self

import distributed

from dask_limits.executors.cluster import ClusterEvent, WaitingForWorkers
from dask_limits.executors.dask.executor import DaskExecutor
from dask_limits.executors.dask.uninterrupted import start_uninterrupted
from dask_limits.executors.future import Future
from dask_limits.executors.jobqueue.cluster import make_cluster
from dask_limits.executors.jobqueue.job_pool import JobKeeper
from dask_limits.executors.jobqueue.shared_directory import SharedDirectory
from dask_limits.executors.jobqueue.spec import Plan
from dask_limits.executors.jobqueue.submission import Canceller


class JobQueueExecutor(DaskExecutor):
    """Runs calls on Dask workers in the jobs of a batch system, which it submits and cancels."""

    _keeper: JobKeeper
    _made: contextlib.ExitStack

    @classmethod
    def start(cls, plan: Plan) -> Self:
        """Start a scheduler in this process, and begin to submit jobs; do not wait for workers.

        Raises:
            OSError: if the directory that the nodes share cannot be made.
            RuntimeError: if the scheduler cannot be started.
        """
        return start_uninterrupted(
            lambda: cls._start(plan), lambda executor: executor.shutdown(cancel_futures=True)
        )

    @classmethod
    def _start(cls, plan: Plan) -> Self:
        with contextlib.ExitStack() as made:
            directory = SharedDirectory(plan.shared)
            keeper: JobKeeper | None = None
            made.callback(lambda: directory.remove(keep_logs=bool(keeper and keeper.error)))
            canceller = Canceller(plan.system, shlex.split(plan.cancel_command))
            made.callback(canceller.close)
            cluster = make_cluster(plan, canceller, directory)
            made.callback(cluster.close)
            keeper = JobKeeper(cluster, plan, canceller)
            made.callback(cluster.sync, keeper.end)
            client = distributed.Client(cluster, set_as_default=False)
            made.callback(client.close)
            executor = cls(client)
            executor._keeper = keeper
            keeper.tell = executor._hear
            cluster.sync(keeper.begin)
            executor._made = made.pop_all()
            return executor

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        """See `DaskExecutor.submit`.

        Raises:
            RuntimeError: after `shutdown`.
            ClusterLostError: if the connection to the scheduler was lost, or closed.
            WorkersNotStartedError: if no worker will come any more.
        """
        if (error := self.start_error()) is not None:
            raise copy.copy(error)
        future = super().submit(fn, *args, **kwargs)
        if self.start_error() is not None:  # since then, and before it knew of this call
            self._hear(None)
        return future

    def watch(self, tell: Callable[[ClusterEvent | None], object] | None) -> None:
        """See `WatchedExecutor.watch`."""
        super().watch(tell)
        if self._keeper.waiting:
            self._tell(WaitingForWorkers(self._keeper.waiting))

    def ready(self) -> bool:
        """Whether a worker has come."""
        return self._keeper.came

    def start_error(self) -> Exception | None:
        """Why no worker will come; None as long as one may."""
        return self._keeper.error

    def _hear(self, event: ClusterEvent | None) -> None:
        """What the keeper tells."""
        if (error := self._keeper.error) is not None:
            for call in list(self._calls.values()):
                call.fail(copy.copy(error))  # each may get notes of its own
        self._tell(event)

    def _end(self) -> None:
        super()._end()
        self._made.close()
