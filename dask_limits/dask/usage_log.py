"""What annotated tasks have used, passed on through Dask's log of events."""

from __future__ import annotations

import asyncio
import dataclasses
import math
import threading
import time
from collections.abc import Iterable
from functools import partial
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import distributed

from dask_limits.dask.compat.graphs import function_name
from dask_limits.limits import Limits, Outcome, Usage
from dask_limits.limits.endings import Ending
from dask_limits.limits.where import with_cell
from dask_limits.report import Recorder
from dask_limits.report.endings import RETURNED, End, end_of

if TYPE_CHECKING:
    from dask_limits.report.report import Report

TOPIC: Final = "dask-limits-usage"
"""The topic of Dask's events under which workers log usage."""
_EVERY_S: Final = 0.1
"""How long a worker collects usage for one event. An event for each task would cost 0.5 ms of CPU
time; a longer time would lose more when a worker is killed."""
_LENGTH: Final = 300  # characters of a text, such as a cause
_MOST_TEXTS: Final = 10**6  # each task has a key, and they are in memory in any case
_MOST: Final = 100
"""The most tasks in one event. With as many events as Dask keeps, they take at most some 40 MB of
the scheduler's memory."""

Row = tuple[Any, ...]
"""A task's key, the numbers of its usage, its limits, and how it ended: numbers and texts, which
the scheduler does not have to unpickle."""


class _Limits(NamedTuple):
    memory: int | None
    wall_time: float | None
    cpu_time: float | None
    num_processes: int | None
    cores: int | None


class Usages(dict[Any, Usage]):
    """What tasks have used, by their keys."""

    def __init__(self) -> None:
        super().__init__()
        self._rows: dict[Any, tuple[Any, ...]] = {}

    def _add(self, rows: Iterable[Row], worker: str, job: str) -> None:
        n = len(_NUMBERS)
        for key, *fields in rows:
            usage = Usage(**dict(zip(_NUMBERS, fields, strict=False)))
            limits = _Limits(*fields[n : n + 5])
            ending, cause, kind, where, arguments = fields[n + 5 :]
            super().__setitem__(key, usage)
            end = End(Ending(ending), cause, kind, with_cell(where))
            self._rows[key] = usage, limits, end, worker, job, arguments

    def report(self) -> Report:
        """Return a row for each task: see [Report][dask_limits.Report].

        When tasks were submitted, and which workers there were, is not known.
        """
        recorder = Recorder(most_texts=_MOST_TEXTS)
        for key, (usage, limits, end, *place, arguments) in self._rows.items():
            task, now = function_name(key), time.time()
            about = end, usage, limits, *place, math.nan, now, 1, partial(str, arguments)
            recorder.add_row(task, str(key), *about)
        return recorder.report()


def usages(client: distributed.Client) -> Usages:
    """What the annotated tasks of a cluster have used, by the keys of the tasks.

    A task is included as soon as its future is done, also if it failed or went over a limit. If a
    task ran several times, this is the usage of its last run. There are only numbers, no output.
    Tasks of a `Scheduler` are not included: their futures have an attribute `usage`.

    Dask keeps the last 1,000 events of a topic, and each event holds the tasks that ended on a
    worker within 0.1 s, 100 at most. So at least the last 1,000 tasks are included, and at most
    100,000. For more, set `distributed.admin.low-level-log-length` where the scheduler starts.

    Args:
        client: A client that is not asynchronous.

    Returns:
        A dictionary, whose `report()` has more: how each task ended, why, and where it ran.

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
    latest: dict[str, dict[str, Any]] = client.run(_latest, on_error="ignore")
    found = Usages()
    for event in (*(event for _, event in client.get_events(TOPIC)), *latest.values()):
        found._add(event["usages"], event["name"], event["job"])
    return found


class UsageLog:
    """Logs the usage of one worker's tasks, several tasks in one event.

    Attributes:
        job: The batch job of the worker; empty if it is in none.
    """

    def __init__(self, worker: distributed.Worker) -> None:
        self.job = ""
        self._worker = worker
        self._loop = asyncio.get_running_loop()
        self._lock = threading.Lock()
        self._rows: list[Row] = []
        self._sent: list[Row] = []

    def add(self, key: Any, arguments: str, outcome: Outcome[Any], limits: Limits) -> None:
        """Log what a task has used, and how it ended. Called in any thread."""
        usage, error = outcome.usage, outcome.exception
        numbers = [getattr(usage, name) for name in _NUMBERS]
        its_limits = [getattr(limits, name) for name in _Limits.__annotations__]
        end = RETURNED if error is None else end_of(error)
        texts = [text[:_LENGTH] for text in (*end[1:], arguments)]
        with self._lock:
            self._rows.append((key, *numbers, *its_limits, int(end.ending), *texts))
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
            self._worker.log_event(TOPIC, self._event(rows))

    def latest(self) -> dict[str, Any]:
        """What has not been sent yet, or may not have arrived."""
        with self._lock:
            return self._event(self._sent + self._rows)

    def _event(self, rows: list[Row]) -> dict[str, Any]:
        # Under "worker", Dask's scheduler puts the address of the worker.
        return {"usages": rows, "name": str(self._worker.name), "job": self.job}


def _latest(dask_worker: distributed.Worker) -> dict[str, Any]:
    executor = dask_worker.executors.get("limits")
    if executor is None:
        return {"usages": [], "name": "", "job": ""}
    return executor.usage_log.latest()  # type: ignore[no-any-return]


_NUMBERS: Final = [
    field.name
    for field in dataclasses.fields(Usage)
    if field.type in ("int", "float", "int | None", "float | None")
]
