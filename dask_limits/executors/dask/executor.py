from __future__ import annotations

import concurrent.futures
import functools
import inspect
import itertools
import threading
from collections.abc import Callable, Hashable, Mapping
from types import MappingProxyType
from typing import Any, Final, Self

import dask
import distributed
from distributed.deploy import Cluster

from dask_limits.channels.channel import Channel, Hear
from dask_limits.dask.graphs.annotations import EXECUTOR, limits_annotations
from dask_limits.dask.packed_call import pack_call
from dask_limits.exceptions import CallPicklingError
from dask_limits.executors.cluster import ClusterEvent, WatchedExecutor
from dask_limits.executors.dask.channel import DaskChannel
from dask_limits.executors.dask.cluster_events import ClusterEvents
from dask_limits.executors.dask.connection import SchedulerConnection, register_plugin
from dask_limits.executors.dask.dashboard import dashboard_link
from dask_limits.executors.dask.local_cluster import start_cluster
from dask_limits.executors.dask.probe import probe_scheduler
from dask_limits.executors.dask.running import RunningOnDask
from dask_limits.executors.dask.sender import Sender
from dask_limits.executors.dask.submissions import Submission
from dask_limits.executors.dask.uninterrupted import start_uninterrupted
from dask_limits.executors.running import RunningCall
from dask_limits.future import Future
from dask_limits.limits import LimitedCall
from dask_limits.limits.owner.preload import NOTHING, Preload
from dask_limits.limits.shared import Shared

_LEFT_OUT: Final = (distributed.Future, Shared)
"""Types of what does not travel with the arguments that it is among."""


class DaskExecutor(WatchedExecutor):
    """Runs calls on a Dask cluster, each under its own limits.

    Calls that are submitted at about the same time are sent together, and so are their results.
    Every call runs, also one that is equal to another, under the name of its function. Futures of
    the client become dependencies wherever they are among the arguments. A coroutine function runs
    to its end, in an event loop of its own.

    Cancelling the future of a running call ends the call if it has limits. Without limits it runs
    in a thread of the worker, and nothing can end it.

    When the connection to the scheduler is lost, the executor is lost too, with all calls that are
    not done. Dask's client may reconnect to its scheduler, or to another one in its place, which
    knows neither the calls nor limits. A new executor on that client works.

    Args:
        client: The client of the cluster. It must not be asynchronous.
        close: Closes what was made for this executor, at the end of `shutdown` and if this raises.
        annotations: Dask's annotations for every call: `workers`, `resources`, `retries`, ... They
            take precedence over those in effect where a call is submitted, as arguments of
            `client.submit` do.
        preload: What the workers are to do before calls come.
        batch: Whether short calls with limits may go to a worker together.
    """

    def __init__(
        self,
        client: distributed.Client,
        close: Callable[[], object] | None = None,
        *,
        annotations: Mapping[str, Any] | None = None,
        preload: Preload = NOTHING,
        batch: bool = True,
    ) -> None:
        self.client = client
        self._close = close
        self._annotations = dict(annotations or {})
        self._closed = False
        self._not_done: dict[int, Submission] = {}
        self._events: ClusterEvents | None = None
        self._numbers = itertools.count()
        try:
            register_plugin(client, preload)
            self._connection = SchedulerConnection(client, self._not_done.values())
            self._sender = sender = Sender(client, self._connection, self._not_done, batch=batch)
            self._running = RunningOnDask(client, sender.batches, sender.call_soon)
        except BaseException:
            if close is not None:
                close()
            raise

    @classmethod
    def connect(
        cls,
        where: distributed.Client | Cluster | str | None = None,
        *,
        n_workers: int | None = None,
        options: Mapping[str, Any] = MappingProxyType({}),
        security: distributed.Security | bool | None = None,
        annotations: Mapping[str, Any] | None = None,
        preload: Preload = NOTHING,
        batch: bool = True,
        timeout_s: float | None = None,
    ) -> Self:
        """An executor on the Dask cluster that the user has, or on a new one.

        `shutdown` closes what was made for the executor; what was passed in stays open.

        Args:
            where: A client, a cluster, or the address of a scheduler; None starts a cluster of
                worker processes on this machine.
            n_workers: See `start_cluster`.
            options: See `start_cluster`.
            security: Credentials for an address; for a new cluster, see `start_cluster`.
            annotations: Dask's annotations for every call.
            preload: What the workers are to do before calls come.
            batch: Whether short calls with limits may go to a worker together.
            timeout_s: How long to try to connect to an address; None for Dask's time limit.
        """
        make = functools.partial(cls, annotations=annotations, preload=preload, batch=batch)
        if isinstance(where, distributed.Client):
            return make(where)
        if where is None:
            # Including the plugin: Dask complains if the cluster is closed while it is registered.
            return start_uninterrupted(lambda: make(*start_cluster(n_workers, security, options)))
        more = {} if timeout_s is None else {"timeout": timeout_s}
        if isinstance(where, str):
            its = security if isinstance(security, distributed.Security) else None
            probe_scheduler(where, its, timeout_s)
        client = distributed.Client(where, security=security, set_as_default=False, **more)
        return make(client, client.close)

    @property
    def dashboard_link(self) -> str | None:
        """The address of the dashboard of Dask's scheduler; None if it has none."""
        return dashboard_link(self.client)

    # -- from any thread -------------------------------------------------------------------

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        """Send a call to the cluster, within about a millisecond.

        Its arguments are pickled now, so later changes to them have no effect.

        Raises:
            RuntimeError: after `shutdown`.
            ClusterLostError: if the connection to the scheduler was lost or closed.
        """
        limited = fn if isinstance(fn, LimitedCall) else LimitedCall(fn)
        if self._connection.is_lost():
            raise self._connection.lost_errors()(limited.name)
        try:
            packed, dependencies, sent = pack_call(limited, args, kwargs, _LEFT_OUT)
        except CallPicklingError as error:
            refused = Future[Any]()
            refused.set_exception(error)
            return refused
        annotations = dask.get_annotations() | self._annotations
        if limited.limits:
            annotations |= limits_annotations(limited.limits.as_dict(), annotations)
        executor, limits = annotations.pop("executor", "default"), annotations.pop("limits", {})
        call = Submission(packed, dependencies, sent, executor, limits, annotations)
        call.tells = limited.tells
        waits = any(isinstance(one, distributed.Future) for one in dependencies)
        if executor == EXECUTOR and not waits and annotations == self._annotations:
            call.kind = _kind(limited, packed.function_key, limits)
        future = call.future = Future(functools.partial(self._cancel, call))
        # There is no lock, which a signal's handler that submits could find held. Whoever sets one
        # of two things then looks at the other.
        number = next(self._numbers)
        self._not_done[number] = call
        future.add_done_callback(lambda _: self._not_done.pop(number, None))
        if self._closed:
            future.cancel()
            raise RuntimeError(f"{limited.name}() was submitted after shutdown()")
        self._sender.send(call)
        return future

    def open_channel(self, hear: Hear) -> Channel:
        """Open a channel over which calls ask this process."""
        return DaskChannel(self.client, self._connection, hear)

    def places(self) -> int:
        """How many calls of one core the workers run at a time that were there a second ago."""
        return self._sender.cores

    def running_calls(self) -> list[RunningCall]:
        """See `TellsRunning`."""
        return self._running.calls()

    def _cancel(self, call: Submission) -> None:
        self._sender.call_soon(self._sender.cancel, call)

    def watch(self, tell: Callable[[ClusterEvent | None], object] | None) -> None:
        """See `WatchedExecutor.watch`."""
        super().watch(tell)
        if self._events is not None:
            self._events.stop(self.client)
            self._events = None
        if tell is not None and not self._connection.is_lost():
            self._events = ClusterEvents(self._tell, self._sender.batches)
            try:
                self._events.start(self.client)
            except Exception:
                if not self._connection.is_lost():  # otherwise each call says so
                    raise

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Take no more calls, and close what was made for this executor when all are done.

        `cancel_futures` cancels the calls that are not done, including running ones.
        """
        self._closed = True
        if cancel_futures:
            for call in list(self._not_done.values()):
                call.future.cancel()
        if wait:
            self._end()
        else:
            threading.Thread(target=self._end, name="dask-limits-shutdown").start()

    def _end(self) -> None:
        concurrent.futures.wait([call.future for call in list(self._not_done.values())])
        self._sender.close()
        close, self._close = self._close, None  # another thread may be in here
        if close is not None:
            close()


def _kind(
    call: LimitedCall[..., Any], function_key: Hashable, limits: Mapping[str, Any]
) -> Hashable:
    """What calls have in common that may go to a worker together; None if it is to go alone."""
    # A coroutine function may wait for another call. In a thread of the worker, a task may secede.
    if limits.get("isolation") == "thread" or inspect.iscoroutinefunction(call.fn):
        return None
    return call.name, function_key, call.tells, *sorted(limits.items())
