"""What calls report of their progress, on its way from a worker to those who ask for it."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Hashable
from typing import Any, Final

import distributed

TOPIC: Final = "dask-limits-progress"
"""The topic under which the scheduler passes it on. It keeps nothing of it."""
_EVERY_S: Final = 0.09
"""How often a worker sends the latest values of its calls, all in one message. A longer time would
be less than ten times a second; the scheduler passes on each value by itself, in some 10 us."""

Value = tuple[Hashable, int, bytes]
"""The key of a task, the number of the call in it, and what it reports, pickled."""


class ProgressLog:
    """Sends what the calls of one worker report: the latest of each, not too often."""

    def __init__(self, send: Callable[[dict[str, Any]], object]) -> None:
        self._send = send
        self._loop = asyncio.get_running_loop()
        self._lock = threading.Lock()
        self._latest: dict[tuple[Hashable, int], bytes] = {}
        self._next = 0.0  # seconds of the loop's clock

    def add(self, key: Hashable, number: int, value: bytes) -> None:
        """Take what a call reports. In any thread."""
        with self._lock:
            is_first = not self._latest
            self._latest[key, number] = value
        if is_first:
            self._loop.call_soon_threadsafe(self._send_later)

    def _send_later(self) -> None:
        self._loop.call_at(max(self._next, self._loop.time()), self.send)

    def send(self) -> None:
        """Send what there is: on the loop, and before it is told that a call has ended."""
        with self._lock:
            latest, self._latest = self._latest, {}
        if latest:
            self._next = self._loop.time() + _EVERY_S
            values = [(key, number, value) for (key, number), value in latest.items()]
            self._send({"op": TOPIC, "values": values})

    def send_soon(self) -> None:
        """The same, in any thread."""
        self._loop.call_soon_threadsafe(self.send)


def log_and_key_here() -> tuple[ProgressLog, Hashable] | None:
    """The log of the worker that this thread belongs to, and the key of the task that it runs.

    None in a thread of an executor of the user's, which knows neither.
    """
    try:
        worker = distributed.get_worker()
        return worker.executors["limits"].progress_log, worker.get_current_task()
    except (KeyError, ValueError):
        return None
