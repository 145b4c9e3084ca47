"""Which waiting call goes to which worker now. This knows nothing of Dask.

The policy guarantees:

- The memory limits of the calls that run on a worker at one time sum up to no more than its
  memory, and their cores to no more than its cores.
- A call with a limit on time starts only on a worker that has that much time left.
- A call that fits somewhere is not held up by an earlier one that fits nowhere, except on the one
  worker that is reserved for that one.
- The first call that fits nowhere reserves the worker where it will fit soonest. It starts there,
  at the latest, when all calls have ended that ran there before.
"""

from __future__ import annotations

import heapq
import itertools
import math
from collections import defaultdict
from collections.abc import Callable, Container, Hashable, Iterable, Iterator
from typing import Any, Final, NamedTuple

from dask_limits.placement.backfill import BackfillReservation, reservation_before
from dask_limits.placement.queue import Queue, WaitingCall
from dask_limits.placement.resources import FreeResources, WorkerResources, maximal
from dask_limits.placement.rooms import Room, Workers
from dask_limits.placement.workers import Worker

_RECALL_S: Final = 0.1
"""How long a prefetched call waits before it is asked back to run on another worker. A shorter time
asks for many calls that are about to run; a longer one lets them wait behind long calls."""
_MOST_COMPARED: Final = 16
"""Of so many workers that have the same free one is chosen. With more, each call costs more on a
cluster of many idle workers; with fewer, a call may go to one that is busy with tasks of Dask's."""

Allowed = Container[str] | None
"""The names of the workers that calls may run on; None for all."""


class Start(NamedTuple):
    """A call that goes to a worker now. If it is prefetched, it waits there for its turn."""

    key: Hashable
    worker: str
    prefetched: bool = False


class Placement:
    """Decides which waiting call goes to which worker.

    Args:
        allowed: Returns the workers that calls with this `where` may run on; None for all.
        cost: Returns what it costs to run a call on a worker. Of the workers that a call fits on,
            the cheapest is taken; of equally cheap ones, the one that it fills best. Of many that
            have the same free, a few are compared.
        near: Returns workers for which that may be less than for most.
        is_quick: Whether a call is so short that its worker should have the next one already.
        is_ready: Whether calls with this `where` can start now: they may lack what is no worker's.
            A worker that is reserved for one stays so meanwhile.

    Attributes:
        waiting: The calls that wait for a worker, by key.

    Example:
        >>> from dask_limits.placement.resources import Request
        >>> placement = Placement()
        >>> worker = placement.add("w", WorkerResources(memory=100, cores=4))
        >>> for number, memory in enumerate([60, 60, 30]):
        ...     placement.enqueue(WaitingCall(f"call-{number}", Request(memory), order=number))
        >>> [start.key for start in placement.place(now=0)]
        ['call-0', 'call-2']
        >>> placement.finish("call-0")
        >>> [start.key for start in placement.place(now=1)]
        ['call-1']
    """

    def __init__(
        self,
        allowed: Callable[[Hashable], Container[str] | None] = lambda where: None,
        cost: Callable[[Hashable, str], Any] = lambda key, worker: 0,
        is_quick: Callable[[Hashable], bool] = lambda key: False,
        near: Callable[[Hashable], Iterable[str]] = lambda key: (),
        is_ready: Callable[[Hashable], bool] = lambda where: True,
    ) -> None:
        self._allowed = allowed
        self._cost = cost
        self._is_quick = is_quick
        self._near = near
        self._is_ready = is_ready
        self._workers = Workers()
        self._queues: dict[Hashable, Queue] = defaultdict(Queue)  # by `where`
        self.waiting: dict[Hashable, WaitingCall] = {}
        self._at: dict[Hashable, Worker] = {}
        self._reservation: BackfillReservation | None = None
        self._turns = itertools.count(1)

    # -- what there is -----------------------------------------------------------------------

    def worker_of(self, key: Hashable) -> str | None:
        """The worker that a call was sent to."""
        worker = self._at.get(key)
        return None if worker is None else worker.name

    def is_too_late(self, name: str) -> bool:
        """Whether a worker is idle, and calls wait that would fit if it had more time left."""
        worker = self._workers.by_name[name]
        resources = worker.resources
        if not worker.is_open or worker.running or resources.ends_at == math.inf:
            return False
        when_new = FreeResources(resources.memory, resources.cores, resources.longest)
        return any(
            queue.first([when_new]) is not None and _is_allowed(worker, self._allowed(where))
            for where, queue in self._queues.items()
        )

    # -- what happens ------------------------------------------------------------------------

    def add(self, name: str, resources: WorkerResources) -> Worker:
        """A worker has joined, or has other resources than before."""
        worker = self._workers.by_name.setdefault(name, Worker(name, resources))
        worker.resources = resources
        self._workers.sort(worker)
        return worker

    def remove(self, name: str) -> None:
        """A worker has left, and with it all calls that were there."""
        if (worker := self._workers.by_name.get(name)) is not None:
            self.set_open(name, False)
            self._workers.remove(name)
            for key in worker.calls():
                del self._at[key]
            worker.running.clear()

    def set_open(self, name: str, is_open: bool) -> None:
        """Set whether a worker takes calls; it keeps those that it has."""
        worker = self._workers.by_name[name]
        if worker.is_open != is_open:
            worker.is_open = is_open
            self._workers.sort(worker)
        if not is_open and self._reserves(worker):
            self._reservation = None

    def enqueue(self, call: WaitingCall) -> None:
        """A call is ready to run, and waits for a worker."""
        self.dequeue(call.key)
        self.waiting[call.key] = call
        self._queues[call.where].add(call)

    def dequeue(self, key: Hashable) -> None:
        """A call does not wait any more, if it did: it is cancelled, or it starts."""
        call = self.waiting.pop(key, None)
        if call is None:
            return
        queue = self._queues[call.where]
        queue.remove(call)
        if queue.head is None:
            del self._queues[call.where]
        if self._reservation is not None and self._reservation.call is call:
            self._reservation = None

    def resume(self, call: WaitingCall, name: str, now: float = 0) -> None:
        """A call runs on a worker that was not placed there, or was so before this was made."""
        worker = self._workers.by_name[name]
        worker.reserve(call, now)
        self._at[call.key] = worker
        self._workers.sort(worker)

    def finish(self, key: Hashable, now: float = 0) -> None:
        """A call has ended or was taken from its worker. A call that was at none is ignored."""
        worker = self._at.pop(key, None)
        if worker is None:
            return
        if key not in worker.running:
            worker.prefetched = None
        else:
            worker.release(key)
            if self._reservation is not None:
                self._reservation.backfilled.discard(key)
            if worker.prefetched is not None:
                # It has started there already, or is about to: it fits, whichever call ended first.
                worker.reserve(worker.prefetched, now)
                worker.prefetched = None
        self._workers.sort(worker)

    def release_cores(self, key: Hashable) -> None:
        """A running call needs its cores no more."""
        worker = self._at[key]
        if key in worker.running:
            worker.release_cores(key)
            self._workers.sort(worker)

    # -- what to do --------------------------------------------------------------------------

    def place(self, now: float) -> Iterator[Start]:
        """The calls that go to a worker now, in order. A call that is yielded counts as sent.

        Args:
            now: Seconds, by the clock of `WorkerResources.ends_at`.
        """
        if self._reservation is not None and self._is_ready(self._reservation.call.where):
            yield from self._start_reserved(self._reservation, now)
        queues = [
            (queue, self._allowed(where))
            for where, queue in list(self._queues.items())
            if self._is_ready(where)
        ]
        fitting_first = [
            (call.place, call, queue, allowed)  # no two places are equal
            for queue, allowed in queues
            if (call := self._first(queue, allowed, now)) is not None
        ]
        heapq.heapify(fitting_first)
        while fitting_first:
            _, call, queue, allowed = fitting_first[0]
            fitting = self._fitting(call, allowed, now)
            if fitting and self._reservation is None:
                self._reservation = reservation_before(call, queues, self._workers.open, now)
                if self._reservation is not None:  # of one of these workers, perhaps
                    fitting = self._fitting(call, allowed, now)
            if fitting:
                yield self._start(call, self._best(call, fitting), now)
            is_ready = self._is_ready(call.where)
            following = self._first(queue, allowed, now, after=call) if is_ready else None
            if following is None:
                heapq.heappop(fitting_first)
            else:
                heapq.heapreplace(fitting_first, (following.place, following, queue, allowed))
        yield from self._prefetch(queues, now)

    def recall(self, now: float) -> list[Start]:
        """Prefetched calls that could run on another worker now."""
        found = []
        for worker in list(self._workers.prefetching.values()):
            if now < worker.asked_back_at + _RECALL_S:
                break  # as the others, which came later
            if not self._workers.have_room:
                break  # with a thousand workers there are many to look at
            worker.asked_back_at = now  # to ask again if this has no effect, but not at once
            self._workers.sort(worker)
            call = worker.prefetched
            if call is not None and self._fitting(call, self._allowed(call.where), now):
                found.append(Start(call.key, worker.name))
        return found

    def has_prefetched(self) -> bool:
        """Whether any call waits at a worker for its turn."""
        return bool(self._workers.prefetching)

    # -- how ---------------------------------------------------------------------------------

    def _reserves(self, worker: Worker) -> bool:
        return self._reservation is not None and self._reservation.worker is worker

    def _start(self, call: WaitingCall, worker: Worker, now: float) -> Start:
        if self._reservation is not None and self._reservation.worker is worker:
            self._reservation.backfilled.add(call.key)
        self.dequeue(call.key)  # with its reservation, if it has one
        worker.reserve(call, now)
        worker.turn = next(self._turns)
        self._at[call.key] = worker
        self._workers.sort(worker)
        return Start(call.key, worker.name)

    def _start_reserved(self, reservation: BackfillReservation, now: float) -> Iterator[Start]:
        """Start the call that a worker is reserved for, wherever it fits."""
        call, worker = reservation.call, reservation.worker
        allowed = self._allowed(call.where)
        fitting = [room for room in self._workers.rooms(allowed, now) if call.fits([room.free])]
        if fitting:
            yield self._start(call, self._best(call, fitting), now)
        elif (
            not worker.is_open
            or not _is_allowed(worker, allowed)
            or call.request.seconds > worker.resources.time_left(now)
        ):
            self._reservation = None

    def _first(
        self, queue: Queue, allowed: Allowed, now: float, after: WaitingCall | None = None
    ) -> WaitingCall | None:
        """The next call of a queue that fits on one of these workers."""
        return queue.first(maximal(room.free for room in self._rooms(allowed, now)), after)

    def _rooms(self, allowed: Allowed, now: float) -> Iterator[Room]:
        """What these workers can give to a call that none of them is reserved for."""
        reserved = None if self._reservation is None else self._reservation.worker
        for room in self._workers.rooms(allowed, now):
            if reserved is not None and self._reservation is not None and reserved.name in room:
                beside = self._reservation.beside(room.free)
                if beside.cores > 0 and beside.memory >= 0:
                    yield Room(beside, {reserved.name: reserved})
                if len(room.workers) == 1:
                    continue
                room.without = reserved
            yield room

    def _fitting(self, call: WaitingCall, allowed: Allowed, now: float) -> list[Room]:
        return [room for room in self._rooms(allowed, now) if call.fits([room.free])]

    def _best(self, call: WaitingCall, rooms: list[Room]) -> Worker:
        workers = [worker for room in rooms for worker in room.first(_MOST_COMPARED)]
        if len(workers) == 1:
            return workers[0]
        if len(workers) >= _MOST_COMPARED:
            near = (n for n in self._near(call.key) if any(n in room for room in rooms))
            workers += [self._workers.by_name[name] for name in near]
        # The one that it fills best, which keeps the largest free ones for the largest calls.
        return min(
            workers,
            key=lambda worker: (
                self._cost(call.key, worker.name),
                worker.resources.memory - worker.memory,
                worker.cores,
                # Among equals, the one that has had no call for the longest time: Dask waits 5 ms
                # between two messages to one worker, and the end of the last call was one.
                worker.turn,
            ),
        )

    def _prefetch(self, queues: list[tuple[Queue, Allowed]], now: float) -> Iterator[Start]:
        """Send each busy worker one call more, if calls are so short that the way there counts.

        This takes only the first call of all, which therefore overtakes none, and only if it will
        fit whichever of the worker's calls ends first.
        """
        for worker in list(self._workers.full.values()):
            if self._reserves(worker):
                continue
            heads = [
                (head, allowed) for queue, allowed in queues if (head := queue.head) is not None
            ]
            if not heads:
                return
            call, allowed = min(heads, key=lambda one: one[0].place)
            if not self._is_quick(call.key):
                return
            if _is_allowed(worker, allowed) and worker.fits_next(call.request):
                self.dequeue(call.key)
                worker.prefetched, worker.asked_back_at = call, now
                self._at[call.key] = worker
                self._workers.sort(worker)
                yield Start(call.key, worker.name, prefetched=True)


def _is_allowed(worker: Worker, allowed: Allowed) -> bool:
    return allowed is None or worker.name in allowed
