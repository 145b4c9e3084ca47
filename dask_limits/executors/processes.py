from __future__ import annotations

import concurrent.futures
import os
import threading
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar

from dask_limits.executors.future import Future
from dask_limits.limits import CancelToken, LimitedCall, Outcome, Usage
from dask_limits.limits.owner.guardian import Guardian
from dask_limits.limits.owner.preload import NOTHING, Preload
from dask_limits.units import whole_number

P = ParamSpec("P")
R = TypeVar("R")


class ProcessExecutor(concurrent.futures.Executor):
    """Runs calls in processes of this machine, so that a limit on a call costs nothing more.

    Unlike the pools of the standard library it survives its processes: a call that crashes or
    breaches a limit is ended with everything it started, its future says how, and the next call
    gets another process. Cancelling a future also ends a call that is running.

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
        self._pending: set[Future[Any]] = set()
        # A thread for each call that runs: it does nothing but wait on a socket.
        self._threads = concurrent.futures.ThreadPoolExecutor(
            self.max_workers, thread_name_prefix="dask-limits"
        )

    def submit(self, fn: Callable[P, R], /, *args: P.args, **kwargs: P.kwargs) -> Future[R]:
        """Run a call in a process; a `LimitedCall` under its limits.

        Raises:
            RuntimeError: after `shutdown()`.
        """
        call = fn if isinstance(fn, LimitedCall) else LimitedCall(fn)
        token = CancelToken()
        future = Future[R](on_cancel=token.cancel)

        def run() -> None:
            if token.cancelled:
                return
            future.mark_started()
            try:
                outcome = self._guardian.run(call.fn, args, kwargs, call.limits, cancel=token)
            except BaseException as error:  # no future may stay open, whatever is wrong here
                outcome = Outcome(exception=error, usage=Usage(wall_time=0.0, cpu_time=0.0))
            future.settle(outcome)

        self._pending.add(future)
        future.add_done_callback(self._pending.discard)
        try:
            self._threads.submit(run)
        except RuntimeError:
            self._pending.discard(future)
            raise
        return future

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Take no more calls, and end the processes once the calls are done.

        `cancel_futures` cancels all calls, those that are running included.
        """
        if cancel_futures:
            for future in list(self._pending):
                future.cancel()
        self._threads.shutdown(wait=wait)
        if wait:
            self._guardian.close()
        else:
            threading.Thread(target=self.shutdown, name="dask-limits-shutdown").start()
