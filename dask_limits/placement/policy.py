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
from dask_limits.placement.workers import Worker

_RECALL_S: Final = 0.1
"""How long a prefetched call waits before it is asked back to run on another worker. A shorter time
asks for many calls that are about to run; a longer one lets them wait behind long calls."""


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
            the cheapest is taken; of equally cheap ones, the one that it fills best.
        is_quick: Whether a call is so short that its worker should have the next one already.

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
    ) -> None:
        self._allowed = allowed
        self._cost = cost
        self._is_quick = is_quick
        self._workers: dict[str, Worker] = {}
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
        worker = self._workers[name]
        resources = worker.resources
        if not worker.is_open or worker.running or resources.ends_at == math.inf:
            return False
        when_new = FreeResources(resources.memory, resources.cores, resources.longest)
        return any(
            queue.first([when_new]) is not None and self._usable([worker], where)
            for where, queue in self._queues.items()
        )

    # -- what happens ------------------------------------------------------------------------

    def add(self, name: str, resources: WorkerResources) -> Worker:
        """A worker has joined, or has other resources than before."""
        worker = self._workers.setdefault(name, Worker(name, resources))
        worker.resources = resources
        return worker

    def remove(self, name: str) -> None:
        """A worker has left, and with it all calls that were there."""
        if name in self._workers:
            self.set_open(name, False)
            worker = self._workers.pop(name)
            for key in worker.calls():
                del self._at[key]
            worker.running.clear()

    def set_open(self, name: str, is_open: bool) -> None:
        """Set whether a worker takes calls; it keeps those that it has."""
        worker = self._workers[name]
        worker.is_open = is_open
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

    def finish(self, key: Hashable, now: float = 0) -> None:
        """A call has ended or was taken from its worker. A call that was at none is ignored."""
        worker = self._at.pop(key, None)
        if worker is None:
            return
        if key not in worker.running:
            worker.prefetched = None
            return
        worker.release(key)
        if self._reservation is not None:
            self._reservation.backfilled.discard(key)
        if worker.prefetched is not None:
            # It has started there already, or is about to: it fits, whichever call ended first.
            worker.reserve(worker.prefetched, now)
            worker.prefetched = None

    def release_cores(self, key: Hashable) -> None:
        """A running call needs its cores no more."""
        worker = self._at[key]
        if key in worker.running:
            worker.release_cores(key)

    # -- what to do --------------------------------------------------------------------------

    def place(self, now: float) -> Iterator[Start]:
        """The calls that go to a worker now, in order. A call that is yielded counts as sent.

        Args:
            now: Seconds, by the clock of `WorkerResources.ends_at`.
        """
        workers = [worker for worker in self._workers.values() if worker.is_open]
        if self._reservation is not None:
            yield from self._start_reserved(self._reservation, workers, now)
        queues = [
            (queue, self._usable(workers, where)) for where, queue in list(self._queues.items())
        ]
        fitting_first = [
            (call.place, call, queue, usable)  # no two places are equal
            for queue, usable in queues
            if (call := self._first(queue, usable, now)) is not None
        ]
        heapq.heapify(fitting_first)
        while fitting_first:
            _, call, queue, usable = fitting_first[0]
            fitting = self._fitting(call, usable, now)
            if fitting and self._reservation is None:
                self._reservation = reservation_before(call, queues, now)
                if self._reservation is not None:  # of one of these workers, perhaps
                    fitting = self._fitting(call, usable, now)
            if fitting:
                yield self._start(call, self._best(call, fitting), now)
            following = self._first(queue, usable, now, after=call)
            if following is None:
                heapq.heappop(fitting_first)
            else:
                heapq.heapreplace(fitting_first, (following.place, following, queue, usable))
        yield from self._prefetch(workers, queues, now)

    def recall(self, now: float) -> list[Start]:
        """Prefetched calls that could run on another worker now."""
        found = []
        for worker in self._workers.values():
            call = worker.prefetched
            if call is None or now < worker.asked_back_at + _RECALL_S:
                continue
            worker.asked_back_at = now  # to ask again if this has no effect, but not at once
            others = [other for other in self._workers.values() if other.is_open]
            if self._fitting(call, self._usable(others, call.where), now):
                found.append(Start(call.key, worker.name))
        return found

    def has_prefetched(self) -> bool:
        """Whether any call waits at a worker for its turn."""
        return any(worker.prefetched is not None for worker in self._workers.values())

    # -- how ---------------------------------------------------------------------------------

    def _usable(self, workers: Iterable[Worker], where: Hashable) -> list[Worker]:
        allowed = self._allowed(where)
        return [worker for worker in workers if allowed is None or worker.name in allowed]

    def _reserves(self, worker: Worker) -> bool:
        return self._reservation is not None and self._reservation.worker is worker

    def _start(self, call: WaitingCall, worker: Worker, now: float) -> Start:
        if self._reservation is not None and self._reservation.worker is worker:
            self._reservation.backfilled.add(call.key)
        self.dequeue(call.key)  # with its reservation, if it has one
        worker.reserve(call, now)
        worker.turn = next(self._turns)
        self._at[call.key] = worker
        return Start(call.key, worker.name)

    def _start_reserved(
        self, reservation: BackfillReservation, workers: list[Worker], now: float
    ) -> Iterator[Start]:
        """Start the call that a worker is reserved for, wherever it fits."""
        call = reservation.call
        usable = self._usable(workers, call.where)
        if fitting := [w for w in usable if w.prefetched is None and call.fits([w.free(now)])]:
            yield self._start(call, self._best(call, fitting), now)
        elif (
            reservation.worker not in usable
            or call.request.seconds > reservation.worker.resources.time_left(now)
        ):
            self._reservation = None

    def _first(
        self, queue: Queue, workers: list[Worker], now: float, after: WaitingCall | None = None
    ) -> WaitingCall | None:
        """The next call of a queue that fits on one of these workers."""
        free = [f for w in workers if (f := self._free(w, now)) is not None]
        return queue.first(maximal(free), after)

    def _free(self, worker: Worker, now: float) -> FreeResources | None:
        """What a worker can give to a call that it is not reserved for."""
        if worker.prefetched is not None or worker.cores >= worker.resources.cores:
            return None  # the prefetched call is the next one to start
        free = worker.free(now)
        if self._reservation is not None and self._reservation.worker is worker:
            free = self._reservation.beside(free)
        return free if free.cores > 0 and free.memory >= 0 else None

    def _fitting(self, call: WaitingCall, workers: list[Worker], now: float) -> list[Worker]:
        return [
            w for w in workers if (free := self._free(w, now)) is not None and call.fits([free])
        ]

    def _best(self, call: WaitingCall, workers: list[Worker]) -> Worker:
        if len(workers) == 1:
            return workers[0]
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

    def _prefetch(
        self, workers: list[Worker], queues: list[tuple[Queue, list[Worker]]], now: float
    ) -> Iterator[Start]:
        """Send each busy worker one call more, if calls are so short that the way there counts.

        This takes only the first call of all, which therefore overtakes none, and only if it will
        fit whichever of the worker's calls ends first.
        """
        for worker in workers:
            if worker.prefetched is not None or not worker.running or self._reserves(worker):
                continue
            heads = [(head, usable) for queue, usable in queues if (head := queue.head) is not None]
            if not heads:
                return
            call, usable = min(heads, key=lambda one: one[0].place)
            if not self._is_quick(call.key):
                return
            if worker in usable and worker.fits_next(call.request):
                self.dequeue(call.key)
                worker.prefetched, worker.asked_back_at = call, now
                self._at[call.key] = worker
                yield Start(call.key, worker.name, prefetched=True)
