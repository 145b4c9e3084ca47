from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final

import distributed

from dask_limits.dask.running import LOOK, RUNNING, Row, RunningCall

_EVERY_S: Final = 1.0
"""How often the workers are asked, however many look."""
_OLD_S: Final = 10.0
"""After how long what a worker has told does not count any more: it hangs, or was not asked."""


class RunningOnCluster:
    """Knows what the limited calls on all workers have used so far, as long as someone looks.

    Everything runs on the scheduler's loop.
    """

    def __init__(self, scheduler: distributed.Scheduler) -> None:
        self._scheduler = scheduler
        self._told: dict[str, tuple[float, list[Row]]] = {}  # when and what, by worker
        self._next = 0.0  # seconds of time.monotonic()

    @property
    def rpc_handlers(self) -> dict[str, Callable[..., object]]:
        """What clients call."""
        return {"dask_limits_running": self._rows_of}

    @property
    def stream_handlers(self) -> dict[str, Callable[..., None]]:
        """What workers send."""
        return {RUNNING: self._note}

    def worker_came(self, worker: str) -> None:
        """A worker has our plugin: others do not know our messages."""
        self._told[worker] = 0.0, []

    def worker_left(self, worker: str) -> None:
        """A worker has left, or its plugin was removed."""
        self._told.pop(worker, None)

    def look(self) -> list[RunningCall]:
        """The calls that run, as the workers told last; and have them tell it anew."""
        return [RunningCall.of(row) for row in self.rows()]

    def rows(self) -> list[Row]:
        """The same as they were sent: to make a thousand calls of them takes 15 ms."""
        now = time.monotonic()
        if now >= self._next:
            self._next = now + _EVERY_S
            for worker in self._told:
                self._scheduler.worker_send(worker, {"op": LOOK})
        return [row for at, rows in self._told.values() if now < at + _OLD_S for row in rows]

    def _rows_of(self, client: str) -> list[Row]:
        """The rows of the calls that a client waits for."""
        tasks = self._scheduler.tasks
        return [
            row
            for row in self.rows()
            if (ts := tasks.get(row[0])) is not None
            and any(one.client_key == client for one in ts.who_wants or ())
        ]

    def _note(self, worker: str, rows: list[Row]) -> None:
        if worker in self._told:
            self._told[worker] = time.monotonic(), rows
