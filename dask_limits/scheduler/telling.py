from __future__ import annotations

import heapq
from collections import deque
from typing import Any

from dask_limits.executors import Future


class Telling:
    """The calls that have ended and are not told yet.

    Those that a journal has from an earlier run come first, in the order of that run: its callbacks
    are driven by the same ends in the same order. The others come as they end.
    """

    def __init__(self) -> None:
        self._past: list[tuple[int, int, Future[Any]]] = []  # a heap
        self._present: deque[Future[Any]] = deque()

    def __bool__(self) -> bool:
        return bool(self._present or self._past)

    def put(self, future: Future[Any]) -> None:
        """Add a call that has ended now."""
        self._present.append(future)

    def put_past(self, number: int, future: Future[Any]) -> None:
        """Add a call that has ended in an earlier run, with its place in the order of that run."""
        heapq.heappush(self._past, (number, id(future), future))

    def next(self) -> Future[Any] | None:
        """The call to tell next."""
        if self._past:
            return heapq.heappop(self._past)[2]
        return self._present.popleft() if self._present else None
