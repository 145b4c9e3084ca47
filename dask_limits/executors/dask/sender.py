from __future__ import annotations

import asyncio
import contextvars
import itertools
import pickle
import time
import uuid
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from typing import Any, Final

import dask
import distributed
from distributed.comm import CommClosedError

from dask_limits.dask import serialization  # noqa: F401  # for outcomes
from dask_limits.dask.batch import LEFT, TOPIC, BatchOutcome, batch_name, run_batch
from dask_limits.dask.compat.client import call_in_loop, ended
from dask_limits.dask.progress_log import TOPIC as PROGRESS
from dask_limits.exceptions import LimitRefusedError, WorkerLostError
from dask_limits.executors.dask.batching import Batching
from dask_limits.executors.dask.connection import SchedulerConnection, has_handler
from dask_limits.executors.dask.settling import Settling
from dask_limits.executors.dask.shares import Shares
from dask_limits.executors.dask.submissions import Batch, Submission, together
from dask_limits.executors.dask.task_outcomes import as_it_was_raised, outcome_of
from dask_limits.executors.dask.topics import listen, unlisten
from dask_limits.limits.ipc.progress_values import loads

_TICK_S: Final = 0.001
"""How long the first call waits for others to go with it. A longer wait delays a single call; with
a shorter one the calls of a loop are sent one by one, at two thirds of the rate."""
_LONG_TICK_S: Final = 0.01
"""The same while the cluster has enough to do: sending a graph of one task takes Dask's client and
scheduler much of the time that sending one of ten takes."""
_ENOUGH: Final = (3, 16)
"""How many tasks are enough to do: so many for each core, and so many more, which Dask gets through
in a long tick."""
_LOOK_EVERY_S: Final = 0.1
"""How often the connection is checked while calls are not done. When it is lost, Dask ends what
waits for a task at once, but what waits for a result only after 30 seconds."""
_CANCEL_AGAIN_S: Final = 0.01
"""After how long to cancel calls again whose task the scheduler does not have yet."""
_CORES: Final = "dask_limits_cores"
_COUNT_EVERY_S: Final = 1.0
"""How often the cores of the cluster are counted while calls are sent."""


class Sender:
    """Sends calls through a Dask client, in batches, and ends their futures."""

    def __init__(
        self,
        client: distributed.Client,
        connection: SchedulerConnection,
        not_done: Mapping[int, Submission],
        *,
        batch: bool,
    ) -> None:
        self._client = client
        self._connection = connection
        self._not_done = not_done
        self._is_batching = batch
        self._arrived: deque[Submission] = deque()  # for the next tick
        self._ticks = False  # whether that tick is set
        self._batching = Batching()
        self.batches: dict[str, Batch] = {}  # that were sent and have not ended, by key
        self._following: set[asyncio.Task[None]] = set()  # asyncio holds them weakly
        self._looking: asyncio.Task[None] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._can_count = False
        self._counted_at = 0.0
        self._counting: asyncio.Task[None] | None = None
        self._cancelled: list[Submission] = []
        self._numbers = itertools.count()
        self._id = uuid.uuid4().hex
        self._settling = Settling()
        self._hears_progress = False
        self._shares = Shares(client)
        listen(client, TOPIC, self._heard)
        client.sync(self._count_cores)

    # -- from any thread -------------------------------------------------------------------

    def send(self, call: Submission) -> None:
        """Send a call to the cluster, within about a millisecond."""
        # There is no lock, which a signal's handler that submits could find held. Whoever sets one
        # of two things then looks at the other.
        self._arrived.append(call)
        if not self._ticks:
            self._ticks = True
            self.call_soon(self._send_soon)
            if self._connection.is_lost():  # its loop may have stopped, and call nothing
                self._send_arrived()

    def call_soon(self, coroutine_function: Callable[..., Any], *args: Any) -> None:
        """Call something on the client's loop."""
        # Not in the caller's context, whose annotations are not meant for all that is sent then.
        contextvars.Context().run(call_in_loop, self._client, coroutine_function, *args)

    @property
    def cores(self) -> int:
        """How many calls the cluster could run at a time when this was last counted."""
        return self._batching.cores

    def fail(self, call: Submission, error: BaseException) -> None:
        """Fail a call."""
        self._settling.settle(partial(call.fail, error))

    def close(self) -> None:
        """Stop what runs in the background. All calls are done."""
        unlisten(self._client, TOPIC, self._heard)
        unlisten(self._client, PROGRESS, self._heard_progress)
        self._settling.shutdown()

    def _fail_all(self) -> None:
        error_of = self._connection.lost_errors()
        for call in list(self._not_done.values()):
            self.fail(call, error_of(call.packed.name))

    # -- on the client's loop, where only an await interrupts any of this --------------------

    async def _send_soon(self) -> None:
        """Send everything that has been submitted within a tick."""
        try:
            await asyncio.sleep(_LONG_TICK_S if self._has_enough() else _TICK_S)
        finally:  # even if the client closes meanwhile, and its loop with it
            self._send_arrived()

    def _send_arrived(self) -> None:
        self._ticks = False
        calls = [call for call in _taken(self._arrived) if not call.future.done()]
        if self._connection.is_lost():  # Dask would take calls and never say how they ended
            self._batching.clear()
            self._fail_all()
            return
        if late := [call for call in calls if self._shares.must_wait(call)]:
            calls = [call for call in calls if call not in late]
            self._scatter_then_send(late)
        now = time.monotonic()
        if now >= self._counted_at + _COUNT_EVERY_S and self._counting is None:
            self._counting = asyncio.ensure_future(self._count_cores())
        if not self._is_batching:
            self._send([[call] for call in calls])
            return
        alone = [[call] for call in calls if call.kind is None]
        self._batching.add((call for call in calls if call.kind is not None), now)
        self._send([*alone, *self._batching.take(now)])
        self._look_later(now)

    def _look_later(self, now: float) -> None:
        """Send what waits for company, if nothing else does before."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if (after := self._batching.look_at(now)) is not None:
            self._timer = asyncio.get_running_loop().call_later(after, self._send_arrived)

    def _has_enough(self) -> bool:
        """Whether the cluster has so much to do that calls can wait for others to go with them."""
        for_each, more = _ENOUGH
        cores = self._batching.cores
        return cores > 0 and len(self.batches) > for_each * cores + more

    async def _count_cores(self) -> None:
        self._counted_at = time.monotonic()
        try:
            # A function that runs there is logged each time.
            self._can_count = self._can_count or await has_handler(self._client, _CORES)
            rpc = self._client.scheduler
            self._batching.cores = await rpc.dask_limits_cores() if self._can_count else 0
        except Exception:  # the scheduler is lost, or cannot import this
            self._batching.cores = 0
        finally:
            self._counting = None

    def _send(self, several: Iterable[list[Submission]]) -> None:
        batches = [Batch(self._new_key(calls), calls) for calls in several]
        for group in together(batches):
            try:
                self._submit(group)
            except Exception as error:
                for batch in group:
                    self._ended(batch)
                    for call in batch.calls:
                        self.fail(call, error)

    def _new_key(self, calls: list[Submission]) -> str:
        name = batch_name(calls[0].packed.name, len(calls))
        return f"{name}-{self._id}-{next(self._numbers)}"

    def _submit(self, batches: list[Batch]) -> None:
        """Have Dask run batches."""
        # Dask calls a callable annotation with the key of each task. Calls without limits have an
        # empty annotation: the scheduler places them too, and keeps account of where they run.
        own = {
            "executor": {batch.key: batch.calls[0].executor for batch in batches}.get,
            "limits": {batch.key: batch.calls[0].limits for batch in batches}.get,
        }
        if not self._hears_progress and any(batch.calls[0].tells for batch in batches):
            self._hears_progress = True
            listen(self._client, PROGRESS, self._heard_progress)
        if not batches[0].is_one:
            own[LEFT] = {batch.key: list(batch.left) for batch in batches}.get
        with dask.annotate(**batches[0].annotations, **own):
            tasks = self._client.map(
                run_batch,
                [batch.packed for batch in batches],
                [[self._shares.of(call) for call in batch.calls] for batch in batches],
                key=[batch.key for batch in batches],
                pure=False,
            )
        for batch, task in zip(batches, tasks, strict=True):
            batch.task = task
            self.batches[batch.key] = batch
            following = asyncio.ensure_future(self._follow(batch, task))
            self._following.add(following)
            following.add_done_callback(self._following.discard)
        if self._looking is None:
            self._looking = asyncio.ensure_future(self._look_at_connection())

    async def _follow(self, batch: Batch, task: distributed.Future) -> None:
        """Wait for a task, and end the futures of its calls with its outcome.

        Dask fetches the results of tasks that end at about the same time together.
        """
        try:
            await ended(task)
            # Most often they were told. An error of theirs was not, nor what is large.
            outcome = await outcome_of(task) if batch.left else BatchOutcome({}, 0.0)
        except CommClosedError:  # before the client has noticed
            error_of = self._connection.lost_errors()
            for call in batch.take(batch.left):
                self.fail(call, error_of(call.packed.name))
        except BaseException as error:  # cancelled, or raised by Dask
            if self._connection.is_lost():
                self._give_up()  # its calls too, which Dask has cancelled for that
            else:
                self._failed(batch, as_it_was_raised(error))
        else:
            self._ended(batch, outcome.seconds if outcome.ended else None)
            self._tell(batch, outcome)
            calls = batch.take(batch.left)  # those that did not begin
            if outcome.lacks_shared:
                self._scatter_then_send(calls)
            else:
                self._send_again(calls)
        finally:
            self.batches.pop(batch.key, None)
            batch.task = None

    def _tell(self, batch: Batch, outcome: BatchOutcome) -> None:
        """End the futures of calls that have ended."""
        there = set(batch.take(outcome.ended))
        told = ((batch.calls[number], one) for number, one in sorted(outcome.ended.items()))
        self._settling.settle_all(
            [partial(call.settle, one, outcome.place) for call, one in told if call in there]
        )

    def _failed(self, batch: Batch, error: BaseException) -> None:
        """A task has failed, and with it the calls that nothing was heard of."""
        self._ended(batch)
        calls = batch.take(batch.left)
        was_lost = isinstance(error, WorkerLostError) and error.tries == 0
        if len(batch.calls) == 1 or not (was_lost or isinstance(error, LimitRefusedError)):
            for call in calls:
                self.fail(call, error)
            return
        for call in calls:  # by itself, so that none is to blame for another one
            call.kind = None
            if isinstance(error, WorkerLostError):
                call.annotations = {**call.annotations, "limits-careful": True}
        self._send_again(calls)

    def _ended(self, batch: Batch, seconds: float | None = None) -> None:
        """A task makes room for another one."""
        if batch.is_counted:
            batch.is_counted = False
            kind = batch.calls[0].kind
            self._batching.ended(kind, len(batch.calls), seconds, time.monotonic())

    def _scatter_then_send(self, calls: list[Submission]) -> None:
        scattering = asyncio.ensure_future(self._scatter(calls))
        self._following.add(scattering)
        scattering.add_done_callback(self._following.discard)

    async def _scatter(self, calls: list[Submission]) -> None:
        try:
            await self._shares.scatter(calls)
        except BaseException as error:  # Dask's, or the client closes
            if self._connection.is_lost():
                self._give_up()
            for call in calls:
                self.fail(call, error)
        else:
            self._send_again(calls)

    def _send_again(self, calls: list[Submission]) -> None:
        """Send calls that have not begun where they were, and what has waited for room."""
        self._arrived.extendleft(reversed(calls))
        if self._is_batching or calls or not self._has_enough():
            self._send_arrived()

    def _heard(self, _: float, message: Any) -> None:
        """A worker tells which call runs, how others have ended, and which ones it gives back."""
        batch = self.batches.get(message["key"]) if isinstance(message, dict) else None
        if batch is None:
            return
        batch.note_begun(message.get("begun"))
        if "outcome" not in message:
            return
        outcome: BatchOutcome = pickle.loads(message["outcome"])
        self._ended(batch, outcome.seconds if outcome.ended else None)
        self._tell(batch, outcome)
        self._send_again(batch.take(message["given_back"]))

    def _heard_progress(self, _: float, message: Any) -> None:
        """A worker tells what calls report of their progress."""
        for value in message if isinstance(message, list | tuple) else ():
            match value:
                case [str(key), int(number), bytes(data)] if key in self.batches:
                    batch = self.batches[key]
                    if number in batch.left:
                        call = batch.calls[number]
                        call.future.note_progress(partial(loads, data, call.sent))

    # -- cancelling --------------------------------------------------------------------------

    async def cancel(self, call: Submission) -> None:
        """End a call if it runs, and do not let it begin. Its future is cancelled already."""
        self._cancelled.append(call)
        if len(self._cancelled) == 1:
            await asyncio.sleep(0)  # there may be more
            await self._cancel_together()

    async def _cancel_together(self) -> None:
        calls, self._cancelled = self._cancelled, []
        if self._connection.is_lost():
            return
        tasks, parts = [], {}
        for batch in dict.fromkeys(call.batch for call in calls):
            if batch is None or batch.task is None:
                continue
            if all(batch.calls[number].future.done() for number in batch.left):
                tasks.append(batch.task)
            else:
                numbers = [n for n in batch.left if batch.calls[n].future.cancelled()]
                cancel = self._client.scheduler.dask_limits_cancel_calls
                parts[batch] = cancel(key=batch.key, numbers=numbers)
        # The scheduler may be lost by now.
        known = await asyncio.gather(*parts.values(), return_exceptions=True)
        if tasks:
            await self._client.cancel(tasks)
        unknown = [batch for batch, is_known in zip(parts, known, strict=True) if is_known is False]
        if unknown:  # they are on their way there, by another connection
            await asyncio.sleep(_CANCEL_AGAIN_S)
            calls = [call for batch in unknown for call in batch.calls if call.batch is batch]
            self._cancelled += [call for call in calls if call.future.cancelled()]
            await self._cancel_together()

    # -- when the connection is lost ---------------------------------------------------------

    def _give_up(self) -> None:
        """Fail all calls that are not done, and follow no call any more."""
        if self._not_done:  # otherwise another `_follow` has done this
            self._fail_all()
            for following in self._following:
                following.cancel()  # some would wait for results for a long time

    async def _look_at_connection(self) -> None:
        try:
            while self._not_done and not self._connection.is_lost():
                await asyncio.sleep(_LOOK_EVERY_S)
        finally:  # even if the client closes, and its loop with it
            self._looking = None
            if self._connection.is_lost():
                self._give_up()


def _taken(calls: deque[Submission]) -> Iterator[Submission]:
    """Take all that there are. Others may add or take some meanwhile."""
    while True:
        try:
            yield calls.popleft()
        except IndexError:
            return
