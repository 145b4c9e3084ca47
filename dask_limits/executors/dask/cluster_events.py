"""Makes events of an executor from what our plugin on the Dask scheduler logs."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from math import isfinite
from typing import TYPE_CHECKING, Any, Final

from dask_limits.dask import cluster_log
from dask_limits.dask.compat.client import id_of
from dask_limits.dask.compat.scheduler import events, subscribe
from dask_limits.dask.topic import TOPIC
from dask_limits.exceptions import WorkerLostError
from dask_limits.executors.cluster import (
    ClusterEvent,
    Rerun,
    WorkerAdded,
    WorkerInfo,
    WorkerRemoved,
)
from dask_limits.executors.dask.topics import listen, unlisten
from dask_limits.limits import call_log

if TYPE_CHECKING:
    import distributed

    from dask_limits.executors.dask.submissions import Batch

_LENGTH: Final = 300  # characters of a text from the cluster; more would fill a terminal


class ClusterEvents:
    """Tells one executor's watcher what happens on its cluster.

    Anybody on the cluster can write to the topic, so messages are not trusted: what makes no sense
    is ignored.

    Args:
        tell: Called with each event, in the thread that starts this or in that of the client.
        batches: The tasks of the executor that are not done, by their keys in Dask.
    """

    def __init__(
        self, tell: Callable[[ClusterEvent], object], batches: Mapping[str, Batch]
    ) -> None:
        self._tell = tell
        self._batches = batches
        self._workers: dict[str, WorkerInfo] = {}  # by address
        self._reasons: dict[str, str] = {}  # of those that are being drained
        self._lock = threading.Lock()
        self._early: list[tuple[float, object]] | None = []  # until the present workers are known

    def start(self, client: distributed.Client) -> None:
        """Tell of the present workers, and from then on of everything that happens."""
        listen(client, TOPIC, self._heard)
        try:
            now, there = client.run_on_scheduler(_subscribe, id_of(client))
        except OSError:  # the connection is lost
            raise
        except Exception:
            # The scheduler may not unpickle, or cannot import this. Then it lacks our plugin too.
            now, there = 0.0, []
        with self._lock:
            for message in there:
                self._happened(message)
            for stamp, message in self._early or ():
                if stamp > now:
                    self._happened(message)
            self._early = None

    def stop(self, client: distributed.Client) -> None:
        """Tell of nothing from now on."""
        unlisten(client, TOPIC, self._heard)

    def _heard(self, stamp: float, message: object) -> None:
        with self._lock:
            if self._early is not None:
                self._early.append((stamp, message))
            else:
                self._happened(message)

    def _happened(self, message: object) -> None:
        if not isinstance(message, dict):
            return
        op, address = message.get("op"), _text(message.get("address"))
        if op == "worker-added":
            if address and address not in self._workers:
                worker = self._workers[address] = _worker(message, address)
                if _is_news(message):
                    cluster_log.has_come(_name(worker), worker.cores, worker.memory)
                self._tell(WorkerAdded(worker))
        elif op == "worker-draining":
            self._reasons[address] = _text(message.get("reason"))
        elif op == "worker-removed":
            reason = self._reasons.pop(address, "") or _text(message.get("reason"))
            if (gone := self._workers.pop(address, None)) is not None:
                if _is_news(message):
                    cluster_log.has_gone(_name(gone), reason)
                self._tell(WorkerRemoved(gone, reason))
        elif op == "rerun":
            self._rerun(message)

    def _rerun(self, message: dict[Any, Any]) -> None:
        key, number = message.get("key"), message.get("number", 0)
        if not isinstance(key, str) or (batch := self._batches.get(key)) is None:
            return
        if not isinstance(number, int) or number not in batch.left:  # it is done
            return
        call = batch.calls[number]
        worker, job = _text(message.get("worker")), _text(message.get("job"))
        cause, tries = _text(message.get("cause")), _whole(message.get("tries")) or 1
        name = call.packed.name
        where = f"worker {worker or '?'}" + (f" of job {job}" if job else "")
        error = WorkerLostError(
            f"{name}() ran on {where}, which was lost: {cause or 'the cause is not known'}."
            " It runs again.",
            call=name,
            worker=worker,
            job=job,
            cause=cause,
            tries=tries,
        )
        future = call.future.ran_again(error)
        if _is_news(message):
            why = f"{where} was lost: {cause or 'the cause is not known'}"
            call_log.runs_again(name, why, future.attempts)
        self._tell(Rerun(future, error, future.attempts))


def _subscribe(
    client: str, dask_scheduler: distributed.Scheduler | None = None
) -> tuple[float, list[object]]:
    """Have a client told from now on; return the time, and the messages about the present workers.

    This runs on the scheduler, so that no event is missed.
    """
    assert dask_scheduler is not None
    subscribe(dask_scheduler, TOPIC, client)
    there: dict[object, object] = {}
    for _, message in events(dask_scheduler, TOPIC):
        match message:
            case {"op": "worker-added", "address": str(address)}:
                there[address] = message
            case {"op": "worker-removed", "address": str(address)}:
                there.pop(address, None)
    return time.time(), list(there.values())


def _worker(message: dict[Any, Any], address: str) -> WorkerInfo:
    ends_in = message.get("ends_in")
    return WorkerInfo(
        name=_text(message.get("worker")) or address,
        address=address,
        job=_text(message.get("job")),
        memory=_whole(message.get("memory")),
        cores=_whole(message.get("cores")) or 1,
        ends_in=float(ends_in) if isinstance(ends_in, int | float) and isfinite(ends_in) else None,
    )


def _is_news(message: dict[Any, Any]) -> bool:
    """Whether another process has logged this, and not this one."""
    return message.get("process") != call_log.this_process()


def _name(worker: WorkerInfo) -> str:
    return cluster_log.worker_name(worker.name, worker.address, worker.job)


def _text(value: object) -> str:
    """One printable line; empty if it is not a text. The names of Dask's workers may be numbers."""
    if not isinstance(value, str | int):
        return ""
    return "".join(c if c.isprintable() else " " for c in str(value)[:_LENGTH])


def _whole(value: object) -> int | None:
    return int(value) if isinstance(value, int | float) and 0 <= value < 2**63 else None
