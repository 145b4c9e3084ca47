from __future__ import annotations

import concurrent.futures
import os
import threading
from collections.abc import Callable
from typing import Any, Generic, ParamSpec, TypeVar

from dask_limits.executors.future import Future
from dask_limits.limits import CancelToken, LimitedCall, Outcome, Usage
from dask_limits.limits.owner.dispatcher import Dispatcher
from dask_limits.limits.owner.guardian import Guardian
from dask_limits.limits.owner.preload import NOTHING, Preload
from dask_limits.limits.owner.steps import Steps
from dask_limits.limits.owner.use import function_key
from dask_limits.units import whole_number

P = ParamSpec("P")
R = TypeVar("R")


class ProcessExecutor(concurrent.futures.Executor):
    """Runs calls in processes of this machine, so that a limit on a call costs nothing more.

    Unlike the pools of the standard library it survives its processes: a call that crashes or
    breaches a limit is ended with everything it started, its future says how, and the next call
    gets another process. Cancelling a future also ends a call that is running.

    As in the pools of the standard library, one thread serves all calls, and calls the
    done-callbacks of futures too: a callback that takes long delays other calls.

    The arguments are those of `Scheduler.with_processes`; `preload` is all that is to be done
    before the first call.

    Example:
        >>> with ProcessExecutor(1) as executor:
        ...     executor.submit(pow, 2, 10).result()
        1024
    """

    def __init__(
        self,
        max_workers: int | None = None,
        *,
        max_calls_per_process: int | None = None,
        preload: Preload = NOTHING,
    ) -> None:
        if max_workers is None:
            max_workers = len(os.sched_getaffinity(0))
        self.max_workers = whole_number(max_workers, "max_workers", none="one for each CPU")
        self._guardian = Guardian(max_calls_per_process, preload)
        self._dispatcher = Dispatcher(self.max_workers, self._guardian.begin_moment)
        self._pending: set[Future[Any]] = set()
        self._is_shut_down = False

    def submit(self, fn: Callable[P, R], /, *args: P.args, **kwargs: P.kwargs) -> Future[R]:
        """Run a call in a process; a `LimitedCall` under its limits.

        Raises:
            RuntimeError: after `shutdown()`.
        """
        if self._is_shut_down:
            raise RuntimeError("This executor takes no calls after shutdown(): make a new one")
        call = fn if isinstance(fn, LimitedCall) else LimitedCall(fn)
        job = _Job(self._guardian, call, args, kwargs, self._dispatcher.nudge)
        self._pending.add(job.future)
        job.future.add_done_callback(self._pending.discard)
        try:
            self._dispatcher.add(job)
        except RuntimeError:  # the program is ending
            self._pending.discard(job.future)
            raise
        return job.future

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Take no more calls, and end the processes once the calls are done.

        `cancel_futures` cancels all calls, those that are running included.
        """
        self._is_shut_down = True
        if cancel_futures:
            for future in list(self._pending):
                future.cancel()
        if wait and not self._dispatcher.is_this_thread:
            self._dispatcher.shutdown()
            self._guardian.close()
        else:
            threading.Thread(target=self.shutdown, name="dask-limits-shutdown").start()


class _Job(Generic[R]):
    """A call of the dispatcher, which settles a future."""

    def __init__(
        self,
        guardian: Guardian,
        call: LimitedCall[..., R],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        nudge: Callable[[], None],
    ) -> None:
        self._guardian = guardian
        self._call, self._args, self._kwargs = call, args, kwargs
        self._token = CancelToken()
        self._nudge = nudge
        self.future = Future[R](on_cancel=self._cancel)
        self.blocks = call.limits.isolation == "thread"

    @property
    def kind(self) -> object:
        """See `Job`."""
        return function_key(self._call.fn)

    def _cancel(self) -> None:
        self._token.cancel()
        self._nudge()

    def begin(self) -> Steps[Outcome[R]] | None:
        """See `Job`."""
        if self._token.cancelled:
            return None
        self.future.mark_started()
        call = self._call
        return self._guardian.steps(call.fn, self._args, self._kwargs, call.limits, self._token)

    def end(self, outcome: Outcome[R]) -> None:
        """See `Job`."""
        self.future.settle(outcome)

    def fail(self, error: BaseException) -> None:
        """See `Job`. No future may stay open, whatever is wrong."""
        self.future.settle(Outcome(exception=error, usage=Usage(wall_time=0.0, cpu_time=0.0)))
