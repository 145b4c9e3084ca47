from __future__ import annotations

import time
from collections import Counter, deque
from collections.abc import Callable
from typing import Any, Final

import distributed

from dask_limits.dask import ended
from dask_limits.dask.ended import ByFunction, Failure, Slots
from dask_limits.limits import call_log
from dask_limits.limits.endings import word_of

_EVERY_S: Final = 1.0
"""How often the workers are asked, however many look."""


class EndedOnCluster:
    """Knows how the limited calls on all workers have ended, as far as someone has looked.

    Everything runs on the scheduler's loop.

    Attributes:
        functions: How the calls of each function have ended, and what they have used.
        slots: When calls have ended, and how, within the last hour.
        failures: The last calls that neither returned, nor raised, nor were cancelled; the latest
            comes last.
    """

    def __init__(self, scheduler: distributed.Scheduler) -> None:
        self.functions = ByFunction()
        self.slots: Slots = Counter()
        self.failures: deque[Failure] = deque(maxlen=ended.MOST_FAILURES)
        self._scheduler = scheduler
        self._workers: set[str] = set()
        self._next = 0.0  # seconds of time.monotonic()

    @property
    def stream_handlers(self) -> dict[str, Callable[..., None]]:
        """What workers send."""
        return {ended.ENDED: self._note}

    def worker_came(self, worker: str) -> None:
        """A worker has our plugin: others do not know our messages."""
        self._workers.add(worker)

    def worker_left(self, worker: str) -> None:
        """A worker has left, or its plugin was removed."""
        self._workers.discard(worker)

    def look(self) -> None:
        """Have the workers tell what they have not told yet."""
        now = time.monotonic()
        if now >= self._next:
            self._next = now + _EVERY_S
            for worker in self._workers:
                self._scheduler.worker_send(worker, {"op": ended.TELL})

    def ended_here(self, function: str, error: Exception) -> None:
        """A call has ended that ran nowhere, or was lost with its workers."""
        now, ending = time.time(), word_of(error)
        self.functions[function].endings[ending] += 1
        ended.forget_old(self.slots, now)
        self.slots[ended.slot_of(now), ending] += 1
        line = call_log.in_a_line(error)
        self.failures.append(Failure(now, function, ending, line, "", ""))

    def _note(
        self,
        worker: str,
        functions: list[tuple[Any, ...]],
        slots: list[tuple[int, str, int]],
        failures: list[tuple[Any, ...]],
    ) -> None:
        self.functions.add_rows(functions)
        for slot, ending, n_calls in slots:
            self.slots[slot, ending] += n_calls
        ended.forget_old(self.slots, time.time())
        latest = sorted([*self.failures, *(Failure(*row) for row in failures)])
        self.failures = deque(latest, self.failures.maxlen)
