"""What annotated tasks have used, passed on through Dask's log of events."""

from __future__ import annotations

import asyncio
import dataclasses
import threading
from collections.abc import Iterable
from typing import Any, Final

import distributed

from dask_limits.limits import Usage

TOPIC: Final = "dask-limits-usage"
"""The topic of Dask's events under which workers log usage."""
_EVERY_S: Final = 0.1
"""How long a worker collects usage for one event. An event for each task would cost 0.5 ms of CPU
time; a longer time would lose more when a worker is killed."""
_MOST: Final = 100
"""The most tasks in one event. With as many events as Dask keeps, they take at most some 25 MB of
the scheduler's memory."""

Row = tuple[Any, ...]
"""A task's key and the numbers of its usage, which the scheduler does not have to unpickle."""


def usages(client: distributed.Client) -> dict[Any, Usage]:
    """What the annotated tasks of a cluster have used, by the keys of the tasks.

    A task is included as soon as its future is done, also if it failed or went over a limit. If a
    task ran several times, this is the usage of its last run. There are only numbers, no output.
    Tasks of a `Scheduler` are not included: their futures have an attribute `usage`.

    Dask keeps the last 1,000 events of a topic, and each event holds the tasks that ended on a
    worker within 0.1 s, 100 at most. So at least the last 1,000 tasks are included, and at most
    100,000. For more, set `distributed.admin.low-level-log-length` where the scheduler starts.

    Args:
        client: A client that is not asynchronous.

    Raises:
        TypeError: if it is something else, or an asynchronous client.

    Example:
        >>> from distributed import Client
        >>> from dask_limits import LimitsWorkerPlugin, annotate
        >>> with Client(n_workers=1, processes=False, dashboard_address=":0") as client:
        ...     _ = client.register_plugin(LimitsWorkerPlugin())
        ...     with annotate(wall_time=10):
        ...         future = client.submit(abs, -3)
        ...     _ = future.result()
        ...     usages(client)[future.key].wall_time < 10
        True
    """
    if not isinstance(client, distributed.Client) or client.asynchronous:
        raise TypeError(f"{client!r} is not a Dask Client, or it is asynchronous.")
    latest: dict[str, list[Row]] = client.run(_latest, on_error="ignore")
    found = {}
    for _, event in client.get_events(TOPIC):
        found.update(_by_key(event["names"], event["usages"]))
    for rows in latest.values():
        found.update(_by_key(_NUMBERS, rows))
    return found


class UsageLog:
    """Logs the usage of one worker's tasks, several tasks in one event."""

    def __init__(self, worker: distributed.Worker) -> None:
        self._worker = worker
        self._loop = asyncio.get_running_loop()
        self._lock = threading.Lock()
        self._rows: list[Row] = []
        self._sent: list[Row] = []

    def add(self, key: Any, usage: Usage) -> None:
        """Log what a task has used. Called in any thread."""
        with self._lock:
            self._rows.append((key, *(getattr(usage, name) for name in _NUMBERS)))
            n_rows = len(self._rows)
        if n_rows == 1:
            self._loop.call_soon_threadsafe(self._loop.call_later, _EVERY_S, self.send)
        elif n_rows == _MOST:
            self._loop.call_soon_threadsafe(self.send)

    def send(self) -> None:
        """Send what has been collected. Called on the worker's loop."""
        with self._lock:
            if not self._rows:
                return
            self._sent, self._rows = self._rows, []
        for start in range(0, len(self._sent), _MOST):
            rows = self._sent[start : start + _MOST]
            self._worker.log_event(TOPIC, {"names": _NUMBERS, "usages": rows})

    def latest(self) -> list[Row]:
        """What has not been sent yet, or may not have arrived."""
        with self._lock:
            return self._sent + self._rows


def _latest(dask_worker: distributed.Worker) -> list[Row]:
    executor = dask_worker.executors.get("limits")
    return [] if executor is None else executor.usage_log.latest()


def _by_key(names: Iterable[str], rows: Iterable[Row]) -> dict[Any, Usage]:
    return {key: Usage(**dict(zip(names, numbers, strict=True))) for key, *numbers in rows}


_NUMBERS: Final = [
    field.name
    for field in dataclasses.fields(Usage)
    if field.type in ("int", "float", "int | None", "float | None")
]
