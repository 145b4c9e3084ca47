from __future__ import annotations

import asyncio
import concurrent.futures
import contextvars
import functools
import itertools
import threading
import uuid
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final, ParamSpec, Self

import dask
import distributed
from distributed.comm import CommClosedError
from distributed.deploy import Cluster

from dask_limits.dask import serialization  # noqa: F401  # for outcomes
from dask_limits.dask.compat.client import call_in_loop
from dask_limits.dask.graphs.annotations import limits_annotations
from dask_limits.dask.packed_call import pack_call, run_packed
from dask_limits.exceptions import CallPicklingError
from dask_limits.executors.cluster import ClusterEvent, WatchedExecutor
from dask_limits.executors.dask.cluster_events import ClusterEvents
from dask_limits.executors.dask.connection import SchedulerConnection, register_plugin
from dask_limits.executors.dask.local_cluster import start_cluster
from dask_limits.executors.dask.probe import probe_scheduler
from dask_limits.executors.dask.submissions import Submission, together
from dask_limits.executors.dask.uninterrupted import start_uninterrupted
from dask_limits.executors.future import Future
from dask_limits.limits import LimitedCall
from dask_limits.limits.owner.preload import NOTHING, Preload

P = ParamSpec("P")

_TICK_S: Final = 0.001
"""How long the first call waits for others to go with it. A longer wait delays a single call; with
a shorter one the calls of a loop are sent one by one, at two thirds of the rate."""
_SETTLING: Final = 8
"""How many results may take long to unpickle, or have a done-callback that waits for another call,
before the others wait for them."""
_LOOK_EVERY_S: Final = 0.1
"""How often the connection is checked while calls are not done. When it is lost, Dask ends what
waits for a task at once, but what waits for a result only after 30 seconds."""


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
    """

    def __init__(
        self,
        client: distributed.Client,
        close: Callable[[], object] | None = None,
        *,
        annotations: Mapping[str, Any] | None = None,
        preload: Preload = NOTHING,
    ) -> None:
        self.client = client
        self._close = close
        self._annotations = dict(annotations or {})
        self._closed = False
        self._waiting: deque[Submission] = deque()  # for the next tick
        self._sending = False  # whether that tick is set
        self._not_done: dict[str, Submission] = {}  # by key
        self._following: set[asyncio.Task[None]] = set()  # asyncio holds them weakly
        self._looking: asyncio.Task[None] | None = None
        self._events: ClusterEvents | None = None
        self._numbers = itertools.count()
        self._id = uuid.uuid4().hex
        # Unpickling and done-callbacks run code of users. On the client's loop that could neither
        # use the client, nor wait for a thread that does.
        self._settling = ThreadPoolExecutor(_SETTLING, "dask-limits-futures")
        try:
            register_plugin(client, preload)
            self._connection = SchedulerConnection(client, self._not_done)
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
        security: distributed.Security | bool | None = None,
        annotations: Mapping[str, Any] | None = None,
        preload: Preload = NOTHING,
    ) -> Self:
        """An executor on the Dask cluster that the user has, or on a new one.

        `shutdown` closes what was made for the executor; what was passed in stays open.

        Args:
            where: A client, a cluster, or the address of a scheduler; None starts a cluster of
                worker processes on this machine.
            n_workers: See `start_cluster`.
            security: Credentials for an address; for a new cluster, see `start_cluster`.
            annotations: Dask's annotations for every call.
            preload: What the workers are to do before calls come.
        """
        make = functools.partial(cls, annotations=annotations, preload=preload)
        if isinstance(where, distributed.Client):
            return make(where)
        if where is None:
            # Including the plugin: Dask complains if the cluster is closed while it is registered.
            return start_uninterrupted(lambda: make(*start_cluster(n_workers, security)))
        if isinstance(where, str):
            probe_scheduler(where, security if isinstance(security, distributed.Security) else None)
        client = distributed.Client(where, security=security, set_as_default=False)
        return make(client, client.close)

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
            packed, dependencies, sent = pack_call(limited, args, kwargs, distributed.Future)
        except CallPicklingError as error:
            refused = Future[Any]()
            refused.set_exception(error)
            return refused
        annotations = dask.get_annotations() | self._annotations
        if limited.limits:
            annotations |= limits_annotations(limited.limits.as_dict(), annotations)
        executor, limits = annotations.pop("executor", "default"), annotations.pop("limits", {})
        key = f"{limited.name}-{self._id}-{next(self._numbers)}"
        call = Submission(key, packed, dependencies, sent, executor, limits, annotations)
        future = call.future = Future(functools.partial(self._call_soon, self._cancel, call))
        # There is no lock, which a signal's handler that submits could find held. Whoever sets one
        # of two things then looks at the other.
        self._not_done[key] = call
        future.add_done_callback(lambda _: self._not_done.pop(key, None))
        if self._closed:
            future.cancel()
            raise RuntimeError(f"{limited.name}() was submitted after shutdown()")
        self._waiting.append(call)
        if not self._sending:
            self._sending = True
            self._call_soon(self._send_soon)
            if self._connection.is_lost():  # its loop may have stopped, and call nothing
                self._send_waiting()
        return future

    def watch(self, tell: Callable[[ClusterEvent | None], object] | None) -> None:
        """See `WatchedExecutor.watch`."""
        super().watch(tell)
        if self._events is not None:
            self._events.stop(self.client)
            self._events = None
        if tell is not None and not self._connection.is_lost():
            self._events = ClusterEvents(self._tell, self._not_done)
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
        self._settling.shutdown(wait=False)
        if self._close is not None:
            self._close()

    def _settle(self, settle: Callable[P, object], *args: P.args, **kwargs: P.kwargs) -> None:
        """Call what ends a call's future, in a thread of its own."""
        try:
            self._settling.submit(settle, *args, **kwargs)
        except RuntimeError:  # after shutdown(), or while the program ends
            settle(*args, **kwargs)

    # -- when the connection is lost -------------------------------------------------------

    def _fail_all(self) -> None:
        """Fail all calls that are not done. Called in any thread."""
        error_of = self._connection.lost_errors()
        for call in list(self._not_done.values()):
            self._settle(call.fail, error_of(call.packed.name))

    def _give_up(self) -> None:
        """Fail all calls that are not done, and follow no call any more. On the client's loop."""
        if self._not_done:  # otherwise another `_follow` has done this
            self._fail_all()
            for following in self._following:
                following.cancel()  # some would wait for results for a long time

    def _call_soon(self, coroutine_function: Callable[..., Any], *args: Any) -> None:
        # Not in the caller's context, whose annotations are not meant for all that is sent then.
        contextvars.Context().run(call_in_loop, self.client, coroutine_function, *args)

    # -- on the client's loop, where only an await interrupts any of this --------------------

    async def _send_soon(self) -> None:
        """Send everything that has been submitted within a tick."""
        try:
            await asyncio.sleep(_TICK_S)
        finally:  # even if the client closes meanwhile, and its loop with it
            self._send_waiting()

    def _send_waiting(self) -> None:
        self._sending = False
        waiting = list(_taken(self._waiting))
        if self._connection.is_lost():  # Dask would take calls and never say how they ended
            self._fail_all()
            return
        for calls in together(one for one in waiting if not one.future.done()):
            try:
                self._send(calls)
            except Exception as error:
                for call in calls:
                    self._settle(call.fail, error)

    def _send(self, calls: list[Submission]) -> None:
        # Dask calls a callable annotation with the key of each task. Calls without limits have an
        # empty annotation: the scheduler places them too, and keeps account of where they run.
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

    async def _follow(self, call: Submission, task: distributed.Future) -> None:
        """Wait for a task, and settle the call's future with its outcome.

        Dask fetches the results of tasks that end at about the same time together.
        """
        try:
            outcome = await task
        except CommClosedError:  # before the client has noticed
            self._settle(call.fail, self._connection.lost_errors()(call.packed.name))
        except BaseException as error:  # cancelled, or raised by Dask
            if self._connection.is_lost():
                self._give_up()
            self._settle(call.fail, error)
        else:
            self._settle(call.settle, outcome)

    async def _look_at_connection(self) -> None:
        try:
            while self._not_done and not self._connection.is_lost():
                await asyncio.sleep(_LOOK_EVERY_S)
        finally:  # even if the client closes, and its loop with it
            self._looking = None
            if self._connection.is_lost():
                self._give_up()

    async def _cancel(self, call: Submission) -> None:
        if call.task is not None and not self._connection.is_lost():
            await self.client.cancel([call.task])


def _taken(calls: deque[Submission]) -> Iterator[Submission]:
    """Take all that there are. Others may add or take some meanwhile."""
    while True:
        try:
            yield calls.popleft()
        except IndexError:
            return
