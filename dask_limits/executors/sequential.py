from __future__ import annotations

import concurrent.futures
from collections.abc import Callable
from typing import ParamSpec, TypeVar

from dask_limits.future import Future
from dask_limits.limits import LimitedCall, run_call, trace_context

P = ParamSpec("P")
R = TypeVar("R")


class SequentialExecutor(concurrent.futures.Executor):
    """Runs each call at once, in the thread that submits it: for debugging, and for tests.

    A call with limits runs in a task process, so its limits hold here too; any other call runs
    in this very process.

    Example:
        >>> with SequentialExecutor() as executor:
        ...     executor.submit(pow, 2, 10).result()
        1024
    """

    def __init__(self) -> None:
        self._closed = False

    def submit(self, fn: Callable[P, R], /, *args: P.args, **kwargs: P.kwargs) -> Future[R]:
        """Run a call to its end, and return its future.

        Raises:
            RuntimeError: after `shutdown()`.
        """
        if self._closed:
            raise RuntimeError("This SequentialExecutor has been shut down: make a new one")
        call = fn if isinstance(fn, LimitedCall) else LimitedCall(fn)
        future = Future[R]()
        future.mark_started()
        on_progress = future.note_progress if call.tells else None
        with trace_context.attached(trace_context.carrier()):
            outcome = run_call(call, args, kwargs, on_progress=on_progress)
        future.settle(outcome)
        return future

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Refuse further calls. There is nothing else to do."""
        self._closed = True

    def __repr__(self) -> str:
        return "SequentialExecutor()"
