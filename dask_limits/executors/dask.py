from __future__ import annotations

import asyncio
import concurrent.futures
import contextvars
import functools
import itertools
import logging
import signal
import threading
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import BrokenExecutor, CancelledError, InvalidStateError
from dataclasses import dataclass, field
from multiprocessing import resource_tracker
from typing import Any, Final, Self

import dask
import distributed
from dask.system import CPU_COUNT
from distributed.deploy import Cluster

from dask_limits.exceptions import CallPicklingError
from dask_limits.executors.future import Future
from dask_limits.limits import LimitedCall
from dask_limits.packed import PackedCall, pack_call, run_packed, unpack_outcome
from dask_limits.worker import LimitsWorkerPlugin, limits_annotations

_TICK_S: Final = 0.001
"""How long the first call waits for others to go with it. More delays a call that is alone; less
sends the calls of a loop one by one, at two thirds of the rate."""
_DEFAULT: Final = "default"
"""Dask's name for the executor that a worker uses unless told otherwise."""
_IGNORE_CTRL_C: Final = (
    "import signal; signal.signal(signal.SIGINT, signal.SIG_IGN);"
    " signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})"
)
"""For workers that share our terminal. What they are to do about Ctrl-C, they are told by us.
Until they get here the signal is blocked, as it was where they were started."""
_CLOSE_WAIT_S: Final = 20.0
"""How long Ctrl-C waits for a cluster that is being started to be closed. A shorter wait may leave
workers behind, and then Dask holds up the end of Python; a second Ctrl-C cuts it short."""
_GRAPH_BYTES: Final = 8 * 2**20
"""The most that goes out together, but for a call that is larger itself. Dask warns of graphs of
10 MB, and many small calls are no reason to."""


class DaskExecutor(concurrent.futures.Executor):
    """Runs calls on a Dask cluster, each under its own limits.

    Calls that are submitted at about the same time go out together, results come back together.
    Each call runs, equal ones too, under the name of its function. Futures of the client among
    the arguments become dependencies, however deep they lie in them. Coroutine functions run to
    their end, each in a loop of its own.

    A call that is running is ended when its future is cancelled, if it has limits; without, it
    runs in a thread of the worker, and nothing can end it.

    Args:
        client: Where the calls go. Not an asynchronous one.
        owned: Whether `shutdown` closes the client.
        annotations: Dask's, for every call: `workers`, `resources`, `retries`, ... They win over
            those that hold where a call is submitted, as arguments of `client.submit` do.

    Raises:
        TypeError: if the client is an asynchronous one.
        RuntimeError: if the client is closed, or the cluster cannot import dask_limits.

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
        owned: bool = False,
        annotations: Mapping[str, Any] | None = None,
    ) -> None:
        if client.asynchronous:
            raise TypeError(
                f"{client} is asynchronous. Use one that is not: made without asynchronous=True,"
                " and outside of coroutines."
            )
        self.client = client
        self._owned = owned
        self._annotations = dict(annotations or {})
        self._lock = threading.Lock()
        self._closed = False
        self._waiting: list[_Call] = []  # for the next tick
        self._outstanding: set[Future[Any]] = set()
        self._following: set[asyncio.Task[None]] = set()  # asyncio holds them weakly
        self._numbers = itertools.count()
        self._id = uuid.uuid4().hex
        _bring_plugin(client)

    @classmethod
    def connect(
        cls,
        where: distributed.Client | Cluster | str | None = None,
        *,
        n_workers: int | None = None,
        annotations: Mapping[str, Any] | None = None,
    ) -> Self:
        """An executor on whatever Dask a user has, or on a new one.

        What was passed in stays open after `shutdown`; what was made for it is closed.

        Args:
            where: A client, a cluster, or the address of a scheduler. None starts a cluster of
                worker processes on this machine, each with one thread.
            n_workers: How many of them; as many as there are CPUs, if None.
            annotations: Dask's, for every call.

        Raises:
            TypeError: if it is something else, or an asynchronous client.
            RuntimeError: if it is a client that is closed.
            OSError: if nothing answers at the address.
        """
        if isinstance(where, distributed.Client):
            return cls(where, annotations=annotations)
        if where is None:
            client = _start_cluster(n_workers or CPU_COUNT)
        elif isinstance(where, Cluster | str):
            client = distributed.Client(where, set_as_default=False)
        else:
            raise TypeError(
                f"{where!r} is a {type(where).__name__}. Use a Dask Client, a Dask Cluster, the"
                " address of a scheduler (tcp://...), or None for a new cluster on this machine."
            )
        try:
            return cls(client, owned=True, annotations=annotations)
        except BaseException:
            client.close()
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
            BrokenExecutor: if the client is closed.
        """
        limited = fn if isinstance(fn, LimitedCall) else LimitedCall(fn)
        if self._client_is_closed():
            raise BrokenExecutor(_lost(limited.name, "the client is closed"))
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
            self._outstanding.add(future)
            self._waiting.append(call)
            is_first = len(self._waiting) == 1
        future.add_done_callback(self._outstanding.discard)
        if is_first:
            self._call_soon(self._send_soon)
            if self._client_is_closed():  # then its loop may have stopped, and call nothing
                self._send_waiting()
        return future

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Take no more calls, and close what was made for this executor when all are done.

        Args:
            wait: Whether to return only when that has happened.
            cancel_futures: Whether to cancel the calls that are not done, running ones too.
        """
        with self._lock:
            self._closed = True
        if cancel_futures:
            for future in list(self._outstanding):
                future.cancel()
        if wait:
            self._end()
        elif self._owned:
            threading.Thread(target=self._end, name="dask-limits-shutdown").start()

    def _end(self) -> None:
        concurrent.futures.wait(list(self._outstanding))
        if self._owned:
            self.client.close()

    def _client_is_closed(self) -> bool:
        return _is_closed(self.client)

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
        for calls in _together(call for call in waiting if not call.future.done()):
            try:
                # Once it is closing, Dask takes calls and never says what became of them.
                if self._client_is_closed():
                    raise CancelledError("the client is closed")
                self._send(calls)
            except Exception as error:
                for call in calls:
                    call.fail(error)

    def _send(self, calls: list[_Call]) -> None:
        annotations = calls[0].annotations
        if any(call.executor != _DEFAULT for call in calls):
            # Dask calls an annotation that can be called, with the key of each task.
            annotations = annotations | {
                "executor": {call.key: call.executor for call in calls}.get,
                "limits": {call.key: call.limits for call in calls}.get,
            }
        with dask.annotate(**annotations):
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

    async def _follow(self, call: _Call, task: distributed.Future) -> None:
        """Wait for a task, and settle the call's future with what comes of it.

        Of all tasks that end at about the same time, Dask fetches the results together.
        """
        try:
            call.future.settle(unpack_outcome(await task))
        except (Exception, asyncio.CancelledError) as error:
            call.fail(error)

    async def _cancel(self, call: _Call) -> None:
        if call.task is not None:
            await self.client.cancel([call.task])


@dataclass(eq=False)
class _Call:
    """A call on its way through Dask."""

    key: str
    packed: PackedCall
    dependencies: list[distributed.Future]
    executor: str
    limits: dict[str, Any] | None
    annotations: dict[str, Any]
    """Dask's, but for these two: those can differ between calls that go out together."""
    future: Future[Any] = field(init=False)
    task: distributed.Future | None = None
    """Dask's future, from when it is sent."""

    def fail(self, error: BaseException) -> None:
        """Say that it was not the call that went wrong, but its way."""
        if isinstance(error, CancelledError | asyncio.CancelledError):
            error = BrokenExecutor(_lost(self.packed.name, str(error)))
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


def _lost(name: str, why: str) -> str:
    return f"{name}() was lost on its way through Dask: {why or 'the client is closed'}"


def _split(annotations: dict[str, Any]) -> dict[str, Any]:
    """The annotations that a `_Call` holds for itself, and the rest."""
    rest = dict(annotations)
    executor = rest.pop("executor", _DEFAULT)
    return {"executor": executor, "limits": rest.pop("limits", None), "annotations": rest}


def _is_closed(client: distributed.Client) -> bool:
    return client.status in ("closing", "closed")


def _start_cluster(n_workers: int) -> distributed.Client:
    """A client, which closes the cluster of worker processes that is made for it.

    Dask cannot be interrupted while it starts one: its workers are then nobody's, and Python
    waits for them at its end. So a thread starts it that Ctrl-C does not reach, and if nobody
    waits for the client any more, closes it.
    """
    started = concurrent.futures.Future[distributed.Client]()

    def start() -> None:
        try:
            # First, as it unblocks the signal in the thread that starts it (CPython, up to 3.12).
            resource_tracker.ensure_running()
            # Inherited by Dask's threads and the workers, which Ctrl-C on a terminal reaches too.
            signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
            client = distributed.Client(
                n_workers=n_workers,
                threads_per_worker=1,
                dashboard_address="127.0.0.1:0",  # no warning if the usual port is taken
                silence_logs=logging.ERROR,
                preload=[_IGNORE_CTRL_C],
                set_as_default=False,
            )
        except BaseException as error:
            started.set_exception(error)
        else:
            started.set_result(client)

    thread = threading.Thread(target=start, name="dask-limits-start", daemon=True)
    try:
        thread.start()
        return started.result()
    except BaseException:
        started.add_done_callback(_close_what_came_up)  # runs there, or here if it is done
        if thread.is_alive():
            thread.join(_CLOSE_WAIT_S)
        raise


def _close_what_came_up(started: concurrent.futures.Future[distributed.Client]) -> None:
    if started.exception() is None:
        started.result().close()


def _bring_plugin(client: distributed.Client) -> None:
    """Have the workers know limits; they do already if this is not the first time."""
    if _is_closed(client):
        raise RuntimeError("The Dask client is closed: make a new one")
    try:
        client.register_plugin(LimitsWorkerPlugin())
    except Exception as error:
        if _is_closed(client):  # meanwhile
            raise RuntimeError("The Dask client is closed: make a new one") from error
        raise RuntimeError(
            f"The Dask cluster at {client.scheduler.address} cannot use dask_limits: {error}."
            " It must be installed where the scheduler and the workers run, in the version that"
            " is here."
        ) from error
