"""What annotated tasks did use, by way of Dask's log of events."""

from __future__ import annotations

import dataclasses
import threading
from collections.abc import Iterable
from typing import Any, Final

import distributed

from dask_limits.limits import Usage

TOPIC: Final = "dask-limits-usage"
"""The topic of Dask's events under which workers log usages."""
_EVERY_S: Final = 0.1
"""How long a worker collects usages for one event. One event a task would cost 0.5 ms of CPU
time each; more seconds would lose more when a worker dies."""
_MOST: Final = 100
"""How many usages go into one event. With as many events as Dask keeps, some 25 MB of the
scheduler's memory at most."""

Row = tuple[Any, ...]
"""A task's key, and the numbers of its usage: nothing that the scheduler would have to unpickle."""


def usages(client: distributed.Client) -> dict[Any, Usage]:
    """What the annotated tasks of a cluster did use, by the keys of the tasks.

    A task is in it as soon as its future is done, also where it went over a limit or failed; of
    one that ran several times it is the last run. Numbers only: no output. Tasks of a `Scheduler`
    are not in it: their futures have a `usage` of their own.

    Dask keeps the last 1,000 events of a topic, and one event holds what ended on a worker within
    0.1 s, 100 tasks at most. So the last 1,000 tasks are here, and up to 100,000. For more, set
    `distributed.admin.low-level-log-length` where the scheduler starts.

    Args:
        client: Not an asynchronous one.

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
        raise TypeError(f"{client!r} is not a Dask Client that is used from outside of coroutines.")
    latest: dict[str, list[Row]] = client.run(_latest, on_error="ignore")
    found = {}
    for _, event in client.get_events(TOPIC):
        found.update(_by_key(event["names"], event["usages"]))
    for rows in latest.values():
        found.update(_by_key(_NUMBERS, rows))
    return found


class UsageLog:
    """Logs the usages of one worker's tasks, several with one event.

    Args:
        worker: Whose they are.
    """

    def __init__(self, worker: distributed.Worker) -> None:
        self._worker = worker
        self._lock = threading.Lock()
        self._rows: list[Row] = []
        self._sent: list[Row] = []

    def add(self, key: Any, usage: Usage) -> None:
        """Log what a task did use. Called in any thread."""
        with self._lock:
            self._rows.append((key, *(getattr(usage, name) for name in _NUMBERS)))
            n_rows = len(self._rows)
        if n_rows == 1:
            self._worker.loop.add_callback(self._worker.loop.call_later, _EVERY_S, self.send)
        elif n_rows == _MOST:
            self._worker.loop.add_callback(self.send)

    def send(self) -> None:
        """Send what there is. Called on the worker's loop."""
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
