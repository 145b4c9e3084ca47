from __future__ import annotations

import concurrent.futures
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar

P = ParamSpec("P")
R = TypeVar("R")


class BorrowedExecutor(concurrent.futures.Executor):
    """An executor that others use, too: its `shutdown` is about the calls that were submitted here.

    Example:
        >>> with concurrent.futures.ThreadPoolExecutor(1) as pool:
        ...     with BorrowedExecutor(pool) as borrowed:
        ...         future = borrowed.submit(abs, -3)
        ...     future.done(), pool.submit(abs, -4).result()
        (True, 4)
    """

    def __init__(self, executor: concurrent.futures.Executor) -> None:
        self._executor = executor
        self._pending: set[concurrent.futures.Future[Any]] = set()

    def submit(
        self, fn: Callable[P, R], /, *args: P.args, **kwargs: P.kwargs
    ) -> concurrent.futures.Future[R]:
        """Hand a call to the executor."""
        future = self._executor.submit(fn, *args, **kwargs)
        self._pending.add(future)
        # This executor lives as long as it has calls.
        future.add_done_callback(lambda done: self._pending.discard(done))
        return future

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Wait for the calls, or cancel those that are not done."""
        pending = list(self._pending)
        if cancel_futures:
            for future in pending:
                future.cancel()
        if wait:
            concurrent.futures.wait(pending)
