"""Makes events of an executor from what our plugin on the Dask scheduler logs."""

from __future__ import annotations

import contextlib
import threading
import time
import weakref
from collections.abc import Callable, Mapping
from math import isfinite
from typing import TYPE_CHECKING, Any, Final

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

if TYPE_CHECKING:
    import distributed

    from dask_limits.executors.dask.submissions import Submission

_LENGTH: Final = 300  # characters of a text from the cluster; more would fill a terminal

_Listener = Callable[[float, object], None]
_listeners: weakref.WeakKeyDictionary[distributed.Client, list[_Listener]] = (
    weakref.WeakKeyDictionary()
)
"""By client: Dask has one handler for each topic of a client, and a client may have several
executors."""
_listeners_lock: Final = threading.Lock()


class ClusterEvents:
    """Tells one executor's watcher what happens on its cluster.

    Anybody on the cluster can write to the topic, so messages are not trusted: what makes no sense
    is ignored.

    Args:
        tell: Called with each event, in the thread that starts this or in that of the client.
        calls: The calls of the executor that are not done, by their keys in Dask.
    """

    def __init__(
        self, tell: Callable[[ClusterEvent], object], calls: Mapping[str, Submission]
    ) -> None:
        self._tell = tell
        self._calls = calls
        self._workers: dict[str, WorkerInfo] = {}  # by address
        self._reasons: dict[str, str] = {}  # of those that are being drained
        self._lock = threading.Lock()
        self._early: list[tuple[float, object]] | None = []  # until the present workers are known

    def start(self, client: distributed.Client) -> None:
        """Tell of the present workers, and from then on of everything that happens."""
        with _listeners_lock:
            listeners = _listeners.setdefault(client, [])
            listeners.append(self._heard)
            if len(listeners) == 1:
                client.subscribe_topic(TOPIC, lambda event: _hand_on(listeners, event))
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
        with _listeners_lock:
            listeners = _listeners.get(client, [])
            if self._heard in listeners:
                listeners.remove(self._heard)
                if not listeners:
                    del _listeners[client]
                    with contextlib.suppress(Exception):  # the client may be closed
                        client.unsubscribe_topic(TOPIC)

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
                self._tell(WorkerAdded(worker))
        elif op == "worker-draining":
            self._reasons[address] = _text(message.get("reason"))
        elif op == "worker-removed":
            reason = self._reasons.pop(address, "") or _text(message.get("reason"))
            if (gone := self._workers.pop(address, None)) is not None:
                self._tell(WorkerRemoved(gone, reason))
        elif op == "rerun":
            self._rerun(message)

    def _rerun(self, message: dict[Any, Any]) -> None:
        key = message.get("key")
        if not isinstance(key, str) or (call := self._calls.get(key)) is None:
            return
        name = call.packed.name
        worker, job = _text(message.get("worker")), _text(message.get("job"))
        cause, tries = _text(message.get("cause")), _whole(message.get("tries")) or 1
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
        self._tell(Rerun(future, error, future.attempts))


def _hand_on(listeners: list[_Listener], event: tuple[float, object]) -> None:
    """Pass on an event of Dask's: its time by the scheduler's clock, and its message."""
    stamp, message = event
    for listener in list(listeners):
        listener(stamp, message)


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


def _text(value: object) -> str:
    """One printable line; empty if it is not a text. The names of Dask's workers may be numbers."""
    if not isinstance(value, str | int):
        return ""
    return "".join(c if c.isprintable() else " " for c in str(value)[:_LENGTH])


def _whole(value: object) -> int | None:
    return int(value) if isinstance(value, int | float) and 0 <= value < 2**63 else None
