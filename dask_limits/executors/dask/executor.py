from __future__ import annotations

import asyncio
import concurrent.futures
import contextvars
import functools
import itertools
import threading
import uuid
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import BrokenExecutor, CancelledError, InvalidStateError
from dataclasses import dataclass, field
from typing import Any, Final, Self

import dask
import distributed
from distributed.comm import CommClosedError
from distributed.deploy import Cluster

from dask_limits.dask.compat.client import connection_of, cpu_count, is_connected
from dask_limits.dask.graphs.annotations import limits_annotations
from dask_limits.dask.packed import PackedCall, pack_call, run_packed, unpack_outcome
from dask_limits.dask.worker.plugin import LimitsWorkerPlugin
from dask_limits.exceptions import CallError, CallPicklingError, ClusterLostError
from dask_limits.executors.cluster import ClusterEvent, WatchedExecutor
from dask_limits.executors.dask.cluster_events import ClusterEvents
from dask_limits.executors.dask.local_cluster import close_cluster, start_cluster
from dask_limits.executors.dask.probe import probe_scheduler
from dask_limits.executors.dask.uninterrupted import start_uninterrupted
from dask_limits.executors.future import Future
from dask_limits.limits import LimitedCall

_TICK_S: Final = 0.001
"""How long the first call waits for others to go with it. More delays a call that is alone; less
sends the calls of a loop one by one, at two thirds of the rate."""
_DEFAULT: Final = "default"
"""Dask's name for the executor that a worker uses unless told otherwise."""
_GRAPH_BYTES: Final = 8 * 2**20
"""The most that goes out together, but for a call that is larger itself. Dask warns of graphs of
10 MB, and many small calls are no reason to."""
_LOOK_EVERY_S: Final = 0.1
"""How often the connection is looked at while calls are not done. Dask ends what waits for a task
at once when it is lost, but not what waits for a result: that, only after 30 seconds."""


class DaskExecutor(WatchedExecutor):
    """Runs calls on a Dask cluster, each under its own limits.

    Calls that are submitted at about the same time go out together, results come back together.
    Each call runs, equal ones too, under the name of its function. Futures of the client among
    the arguments become dependencies, however deep they lie in them. Coroutine functions run to
    their end, each in a loop of its own.

    A call that is running is ended when its future is cancelled, if it has limits; without, it
    runs in a thread of the worker, and nothing can end it.

    When the connection to the scheduler is lost, so is the executor, with all calls that are not
    done. Dask's client may find its scheduler again, or another one in its place, which knows
    nothing of them and nothing of limits; a new executor on that client then works.

    Args:
        client: Where the calls go. Not an asynchronous one.
        close: What `shutdown` calls in the end, to close what was made for this executor.
        annotations: Dask's, for every call: `workers`, `resources`, `retries`, ... They win over
            those that hold where a call is submitted, as arguments of `client.submit` do.

    Raises:
        TypeError: if the client is an asynchronous one.
        RuntimeError: if the client is closed, or the cluster cannot import dask_limits.
        ClusterLostError: if the client has lost its scheduler.

    Example:
        >>> from distributed import Client
        >>> with Client(n_workers=1, processes=False, dashboard_address=":0") as client:
        ...     with DaskExecutor(client) as executor:
        ...         executor.submit(abs, -3).result()
        3
    """

    def __init__(
        self,
        client: distributed.Client,
        *,
        close: Callable[[], object] | None = None,
        annotations: Mapping[str, Any] | None = None,
    ) -> None:
        if client.asynchronous:
            raise TypeError(
                f"{client} is asynchronous. Use one that is not: made without asynchronous=True,"
                " and outside of coroutines."
            )
        self.client = client
        self._close = close
        self._annotations = dict(annotations or {})
        self._lock = threading.Lock()
        self._closed = False
        self._waiting: list[_Call] = []  # for the next tick
        self._calls: dict[str, _Call] = {}  # by key, those that are not done
        self._following: set[asyncio.Task[None]] = set()  # asyncio holds them weakly
        self._looking: asyncio.Task[None] | None = None
        self._events: ClusterEvents | None = None
        self._how_lost = ""  # the connection
        self._numbers = itertools.count()
        self._id = uuid.uuid4().hex
        _bring_plugin(client)
        self._address: str = client.scheduler.address
        self._connection = connection_of(client)  # Dask makes another one when it reconnects

    @classmethod
    def connect(
        cls,
        where: distributed.Client | Cluster | str | None = None,
        *,
        n_workers: int | None = None,
        security: distributed.Security | bool | None = None,
        annotations: Mapping[str, Any] | None = None,
    ) -> Self:
        """An executor on whatever Dask a user has, or on a new one.

        What was passed in stays open after `shutdown`; what was made for it is closed.

        Args:
            where: A client, a cluster, or the address of a scheduler. None starts a cluster of
                worker processes on this machine, each with one thread.
            n_workers: How many of them; as many as there are CPUs, if None.
            security: Credentials for an address, or for the cluster that is started; None gives
                that one new ones of its own, False none.
            annotations: Dask's, for every call.

        Raises:
            TypeError: if it is something else, or an asynchronous client.
            RuntimeError: if it is a client that is closed.
            OSError: if there is no scheduler at the address.
            ValueError: if it is no address.
        """
        if isinstance(where, distributed.Client):
            return cls(where, annotations=annotations)
        if where is None:
            # Up to the plugin: Dask complains if the cluster is closed while that gets there.
            return start_uninterrupted(
                lambda: cls._on_new_cluster(n_workers or cpu_count(), security, annotations),
                lambda executor: executor.shutdown(cancel_futures=True),
            )
        if not isinstance(where, Cluster | str):
            raise TypeError(
                f"{where!r} is a {type(where).__name__}. Use a Dask Client, a Dask Cluster, the"
                " address of a scheduler (tcp://...), or None for a new cluster on this machine."
            )
        if isinstance(where, str):
            probe_scheduler(where, security if isinstance(security, distributed.Security) else None)
        client = distributed.Client(where, security=security, set_as_default=False)
        return cls._closing(client, client.close, annotations)

    @classmethod
    def _on_new_cluster(
        cls,
        n_workers: int,
        security: distributed.Security | bool | None,
        annotations: Mapping[str, Any] | None,
    ) -> Self:
        client = start_cluster(n_workers, security)
        return cls._closing(client, functools.partial(close_cluster, client), annotations)

    @classmethod
    def _closing(
        cls,
        client: distributed.Client,
        close: Callable[[], object],
        annotations: Mapping[str, Any] | None,
    ) -> Self:
        """An executor that closes what was made for it; so does this, if it fails."""
        try:
            return cls(client, close=close, annotations=annotations)
        except BaseException:
            close()
            raise

    # -- from any thread -------------------------------------------------------------------

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        """Send a call to the cluster; it goes out within about a millisecond.

        Args:
            fn: Any callable. A `LimitedCall` runs in a task process of a worker.
            args: Its arguments; they are pickled now, so later changes to them do not matter.
            kwargs: Likewise.

        Raises:
            RuntimeError: after `shutdown`.
            ClusterLostError: if the connection to the scheduler was lost, or closed.
        """
        limited = fn if isinstance(fn, LimitedCall) else LimitedCall(fn)
        if self._is_lost():
            raise self._lost_errors()(limited.name)
        try:
            packed, dependencies = pack_call(limited, args, kwargs, distributed.Future)
        except CallPicklingError as error:
            refused = Future[Any]()
            refused.set_exception(error)
            return refused
        annotations = dask.get_annotations() | self._annotations
        if limited.limits:
            annotations = annotations | limits_annotations(limited.limits, annotations)
        key = f"{limited.name}-{self._id}-{next(self._numbers)}"
        call = _Call(key, packed, dependencies, **_split(annotations))
        future = call.future = Future(functools.partial(self._call_soon, self._cancel, call))
        with self._lock:
            if self._closed:
                raise RuntimeError(f"{limited.name}() was submitted after shutdown()")
            self._calls[key] = call
            self._waiting.append(call)
            is_first = len(self._waiting) == 1
        future.add_done_callback(lambda _: self._calls.pop(key, None))
        if is_first:
            self._call_soon(self._send_soon)
            if self._is_lost():  # then its loop may have stopped, and call nothing
                self._send_waiting()
        return future

    def watch(self, tell: Callable[[ClusterEvent | None], object] | None) -> None:
        """See `WatchedExecutor.watch`."""
        super().watch(tell)
        if self._events is not None:
            self._events.stop(self.client)
            self._events = None
        if tell is not None and not self._is_lost():
            self._events = ClusterEvents(self._tell, self._future_of)
            try:
                self._events.start(self.client)
            except Exception:
                if not self._is_lost():  # else each call will say so
                    raise

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Take no more calls, and close what was made for this executor when all are done.

        Args:
            wait: Whether to return only when that has happened.
            cancel_futures: Whether to cancel the calls that are not done, running ones too.
        """
        with self._lock:
            self._closed = True
        if cancel_futures:
            for call in list(self._calls.values()):
                call.future.cancel()
        if wait:
            self._end()
        elif self._close is not None:
            threading.Thread(target=self._end, name="dask-limits-shutdown").start()

    def _end(self) -> None:
        concurrent.futures.wait([call.future for call in list(self._calls.values())])
        if self._close is not None:
            self._close()

    def _future_of(self, key: str) -> tuple[str, Future[Any]] | None:
        call = self._calls.get(key)
        return None if call is None else (call.packed.name, call.future)

    # -- when the connection is lost -------------------------------------------------------

    def _is_lost(self) -> bool:
        return not is_connected(self.client, self._connection)

    def _lost_errors(self) -> Callable[[str], ClusterLostError]:
        """What makes the error of each call, by its name, from how things are now."""
        counts = Counter(call.packed.name for call in list(self._calls.values()))
        names = [name + (f" ({n} times)" if n > 1 else "") for name, n in counts.items()]
        if not self._how_lost:  # Dask gives up after a while, and then closes the client
            closed = self.client.status in ("closing", "closed")
            self._how_lost = "was closed" if closed else "was lost"
        why = (
            f"the connection to the Dask scheduler at {self._address} {self._how_lost}."
            f" Not done are: {', '.join(names) or 'no others'}."
        )
        return lambda name: ClusterLostError(
            f"{name}() is lost: {why}", call=name, address=self._address, running=list(counts)
        )

    def _fail_all(self) -> None:
        """Fail all calls that are not done. In any thread."""
        error_of = self._lost_errors()
        for call in list(self._calls.values()):
            call.fail(error_of(call.packed.name))

    def _give_up(self) -> None:
        """Fail all calls that are not done, and wait for nothing more. On the client's loop."""
        if self._calls:  # else this was done: each that follows a call comes here
            self._fail_all()
            for following in self._following:
                following.cancel()  # some would wait for results for a long time

    def _call_soon(self, coroutine_function: Callable[..., Any], *args: Any) -> None:
        # Not in the caller's context: the annotations in it are not for all that goes out then.
        contextvars.Context().run(self.client.loop.add_callback, coroutine_function, *args)

    # -- on the client's loop, where none of this can be interrupted but by an await -------

    async def _send_soon(self) -> None:
        """Send everything that has been submitted within a tick."""
        try:
            await asyncio.sleep(_TICK_S)
        finally:  # also when the client closes meanwhile, and its loop with it
            self._send_waiting()

    def _send_waiting(self) -> None:
        with self._lock:
            waiting, self._waiting = self._waiting, []
        if self._is_lost():  # Dask would take calls, and never say what became of them
            self._fail_all()
            return
        for calls in _together(call for call in waiting if not call.future.done()):
            try:
                self._send(calls)
            except Exception as error:
                for call in calls:
                    call.fail(error)

    def _send(self, calls: list[_Call]) -> None:
        # Dask calls an annotation that can be called, with the key of each task. Calls without
        # limits say so: the scheduler places them too, and keeps account of where they run.
        own = {
            "executor": {call.key: call.executor for call in calls}.get,
            "limits": {call.key: call.limits for call in calls}.get,
        }
        with dask.annotate(**calls[0].annotations, **own):
            tasks = self.client.map(
                run_packed,
                [call.packed for call in calls],
                [call.dependencies for call in calls],
                key=[call.key for call in calls],
                pure=False,
            )
        for call, task in zip(calls, tasks, strict=True):
            call.task = task
            following = asyncio.ensure_future(self._follow(call, task))
            self._following.add(following)
            following.add_done_callback(self._following.discard)
        if self._looking is None:
            self._looking = asyncio.ensure_future(self._look_at_connection())

    async def _follow(self, call: _Call, task: distributed.Future) -> None:
        """Wait for a task, and settle the call's future with what comes of it.

        Of all tasks that end at about the same time, Dask fetches the results together.
        """
        try:
            call.future.settle(unpack_outcome(await task))
        except CommClosedError:  # before the client has noticed
            call.fail(self._lost_errors()(call.packed.name))
        except (Exception, asyncio.CancelledError) as error:
            if self._is_lost():
                self._give_up()
            call.fail(error)

    async def _look_at_connection(self) -> None:
        try:
            while self._calls and not self._is_lost():
                await asyncio.sleep(_LOOK_EVERY_S)
        finally:  # also when the client closes, and its loop with it
            self._looking = None
            if self._is_lost():
                self._give_up()

    async def _cancel(self, call: _Call) -> None:
        if call.task is not None and not self._is_lost():
            await self.client.cancel([call.task])


@dataclass(eq=False)
class _Call:
    """A call on its way through Dask."""

    key: str
    packed: PackedCall
    dependencies: list[distributed.Future]
    executor: str
    limits: dict[str, Any]
    annotations: dict[str, Any]
    """Dask's, but for these two: those can differ between calls that go out together."""
    future: Future[Any] = field(init=False)
    task: distributed.Future | None = None
    """Dask's future, from when it is sent."""

    def fail(self, error: BaseException) -> None:
        """Say that it was not the call that went wrong, but its way."""
        name = self.packed.name
        if isinstance(error, CancelledError | asyncio.CancelledError):
            error = BrokenExecutor(f"{name}() was lost on its way through Dask: {error}")
        elif isinstance(error, CallError) and not error.call:
            error.call = name  # the scheduler does not know it
        try:
            self.future.set_exception(error)
        except InvalidStateError:
            pass  # cancelled, which may be why we are here


def _together(calls: Iterable[_Call]) -> Iterator[list[_Call]]:
    """Calls that can go out in one graph, in order."""
    group: list[_Call] = []
    size = 0
    for call in calls:
        size += len(call.packed.data)
        if group and (size > _GRAPH_BYTES or call.annotations != group[0].annotations):
            yield group
            group, size = [], len(call.packed.data)
        group.append(call)
    if group:
        yield group


def _split(annotations: dict[str, Any]) -> dict[str, Any]:
    """The annotations that a `_Call` holds for itself, and the rest."""
    rest = dict(annotations)
    executor = rest.pop("executor", _DEFAULT)
    return {"executor": executor, "limits": rest.pop("limits", {}), "annotations": rest}


def _bring_plugin(client: distributed.Client) -> None:
    """Have the workers know limits; they do already if this is not the first time."""
    _check_open(client)
    try:
        client.register_plugin(LimitsWorkerPlugin())
    except Exception as error:
        _check_open(client)  # meanwhile it may have been closed
        raise RuntimeError(
            f"The Dask cluster at {client.scheduler.address} cannot use dask_limits: {error}."
            " It must be installed where the scheduler and the workers run, in the version that"
            " is here."
        ) from error


def _check_open(client: distributed.Client) -> None:
    if client.status in ("closing", "closed"):
        raise RuntimeError("The Dask client is closed: make a new one")
    if client.status != "running":  # to ask it for anything would take until it gives up
        address = client.scheduler.address
        raise ClusterLostError(
            f"The Dask client has lost the connection to its scheduler at {address}. Try again"
            " when that answers, or with a new client.",
            address=address,
        )
