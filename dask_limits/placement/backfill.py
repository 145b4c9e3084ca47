"""Backfilling: how a large call gets its turn while small ones keep coming.

The first call that fits nowhere reserves the worker where it will fit soonest. From then on other
calls start there only if they fit beside it.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable
from dataclasses import dataclass, field
from typing import TypeVar

from dask_limits.placement.queue import Queue, WaitingCall
from dask_limits.placement.resources import FreeResources, maximal
from dask_limits.placement.workers import Worker

T = TypeVar("T")


@dataclass(eq=False)
class BackfillReservation:
    """A call that fits nowhere now, and the worker that is being cleared for it."""

    call: WaitingCall
    worker: Worker
    backfilled: set[Hashable] = field(default_factory=set)  # have started there since, and run

    def beside(self, free: FreeResources) -> FreeResources:
        """What the worker can give to other calls, of what is free there."""
        request, resources = self.call.request, self.worker.resources
        backfilled = [self.worker.running[key] for key in self.backfilled]
        memory = resources.memory - request.memory - sum(one.memory for one in backfilled)
        cores = resources.cores - request.cores - sum(one.cores for one in backfilled)
        return FreeResources(min(free.memory, memory), min(free.cores, cores), free.seconds)


def reservation_before(
    call: WaitingCall,
    queues: Iterable[tuple[Queue, T]],
    workers_of: Callable[[T], list[Worker]],
    now: float,
) -> BackfillReservation | None:
    """A reservation for the first call before this one that would fit on an empty worker.

    This call fits now, and none of those before it does. Of what
    comes with a queue, `workers_of` makes the workers that its calls may run on.
    """
    found: BackfillReservation | None = None
    for queue, allowed in queues:
        before = call if found is None else found.call
        if queue.head is None or queue.head.place >= before.place:
            continue
        workers = workers_of(allowed)
        empty = [
            FreeResources(w.resources.memory, w.resources.cores, w.resources.time_left(now))
            for w in workers
        ]
        first = queue.first(maximal(empty))
        if first is None or first.place >= before.place:
            continue
        request = first.request
        fitting = [w for w, free in zip(workers, empty, strict=True) if first.fits([free])]
        worker = min(fitting, key=lambda worker: worker.until_free(request, now))
        found = BackfillReservation(first, worker)
    return found
