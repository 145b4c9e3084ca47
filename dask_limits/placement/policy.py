"""Which waiting call goes to which worker now: limits as reservations. Knows nothing of Dask.

What is promised of calls that run on a worker at one time:

- their memory limits sum up to no more than the worker's memory, their cores to its cores;
- a call with a limit on time starts only where that much time is left;
- a call that fits somewhere is not held up by one before it that fits nowhere, but for the one
  worker that is being cleared for such a call;
- the first call that fits nowhere claims the worker where it will fit soonest. From then on that
  worker takes only what fits beside it, so it starts when those that ran there are done, at the
  latest.
"""

from __future__ import annotations

import heapq
import itertools
import math
from collections.abc import Callable, Container, Hashable, Iterator
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

from dask_limits.placement.queue import Call, Line, Offer, Request
from dask_limits.placement.resources import Room, Worker

_RECALL_S: Final = 0.1
"""How long a call that was sent ahead waits before one asks for it back, to run it elsewhere. Less
asks for many that are about to run; more lets them wait behind calls that take long."""


class Start(NamedTuple):
    """A call, and the worker that it goes to now; `ahead` if it is to wait there for its turn."""

    key: Hashable
    worker: str
    ahead: bool = False


class Placement:
    """Says which waiting call goes to which worker.

    Args:
        allowed: The workers that calls with this `where` may run on; None for all.
        cost: What it costs to run a call on a worker, for calls that care: of those that fit, one
            with the least is taken. Among equals it is the one that the call fills best.
        quick: Whether a call is so short that a worker had better have the next one already.

    Example:
        >>> placement = Placement()
        >>> placement.add("w", Room(memory=100, cores=4))
        >>> for number, memory in enumerate([60, 60, 30]):
        ...     placement.wait(Call(f"call-{number}", Request(memory), order=number))
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
        quick: Callable[[Hashable], bool] = lambda key: False,
    ) -> None:
        self._allowed = allowed
        self._cost = cost
        self._quick = quick
        self._workers: dict[str, Worker] = {}
        self._lines: dict[Hashable, Line] = {}
        self._waiting: dict[Hashable, Call] = {}
        self._at: dict[Hashable, Worker] = {}
        self._claim: tuple[Call, Worker] | None = None
        self._turns = itertools.count(1)

    # -- what there is -----------------------------------------------------------------------

    @property
    def waiting(self) -> dict[Hashable, Call]:
        """The calls that wait for room, by key."""
        return self._waiting

    def worker_of(self, key: Hashable) -> str | None:
        """The worker that a call is with."""
        worker = self._at.get(key)
        return None if worker is None else worker.name

    def is_ahead(self, key: Hashable) -> bool:
        """Whether a call waits at its worker for its turn."""
        worker = self._at.get(key)
        return worker is not None and worker.ahead is not None and worker.ahead.key == key

    def since(self, key: Hashable) -> float | None:
        """Since when there is room for a call at its worker; None if it waits there."""
        worker = self._at.get(key)
        return None if worker is None else worker.since.get(key)

    def is_too_late(self, name: str, now: float) -> bool:
        """Whether a worker runs nothing, and what waits would fit but for the time it has left."""
        worker = self._workers[name]
        room = worker.room
        if not worker.is_open or worker.running or room.ends_at == math.inf:
            return False
        when_new = Offer(room.memory, room.cores, room.longest)
        return any(
            line.first([when_new]) is not None
            for where, line in self._lines.items()
            for allowed in [self._allowed(where)]
            if allowed is None or name in allowed
        )

    def room(self, name: str) -> Room | None:
        """What a worker has."""
        return self._workers[name].room if name in self._workers else None

    def rooms(self) -> dict[str, Room]:
        """What all workers have."""
        return {worker.name: worker.room for worker in self._workers.values()}

    def calls_at(self, name: str) -> list[Hashable]:
        """The calls that are with a worker."""
        worker = self._workers.get(name)
        if worker is None:
            return []
        return [*worker.running, *([worker.ahead.key] if worker.ahead else [])]

    # -- what happens ------------------------------------------------------------------------

    def add(self, name: str, room: Room) -> None:
        """A worker has come, or has another room than before."""
        if name in self._workers:
            self._workers[name].room = room
        else:
            self._workers[name] = Worker(name, room)

    def remove(self, name: str) -> None:
        """A worker has gone, and with it what ran there."""
        worker = self._workers.pop(name, None)
        if worker is None:
            return
        for key in [key for key, at in self._at.items() if at is worker]:
            del self._at[key]
        if self._claim is not None and self._claim[1] is worker:
            self._claim = None

    def set_open(self, name: str, is_open: bool) -> None:
        """Say whether a worker takes calls; those that it has it keeps."""
        worker = self._workers[name]
        worker.is_open = is_open
        if not is_open and self._claim is not None and self._claim[1] is worker:
            self._drop_claim()

    def wait(self, call: Call) -> None:
        """A call can run as soon as there is room."""
        self.leave(call.key)
        self._waiting[call.key] = call
        if call.where not in self._lines:
            self._lines[call.where] = Line()
        self._lines[call.where].add(call)

    def leave(self, key: Hashable) -> None:
        """A call waits no more, if it did: it is not wanted, or it starts."""
        call = self._waiting.pop(key, None)
        if call is None:
            return
        line = self._lines[call.where]
        line.remove(call)
        if not line:
            del self._lines[call.where]
        if self._claim is not None and self._claim[0] is call:
            self._drop_claim()

    def finish(self, key: Hashable, now: float = 0) -> None:
        """A call is with its worker no more, in whichever way; it may have been with none."""
        worker = self._at.pop(key, None)
        if worker is None:
            return
        if worker.ahead is not None and worker.ahead.key == key:
            worker.ahead = None
            return
        worker.give_back(key)
        if worker.ahead is not None:
            # It has begun there already, or is about to: it fits, whichever call was the first
            # to end.
            worker.take(worker.ahead, now)
            worker.ahead = None

    def give_cores(self, key: Hashable) -> None:
        """A call that runs needs its cores no more."""
        worker = self._at[key]
        if key in worker.running:
            asked = worker.running[key]
            worker.cores -= asked.cores
            worker.running[key] = Request(asked.memory, 0, asked.seconds)

    # -- what is to be done ------------------------------------------------------------------

    def place(self, now: float) -> Iterator[Start]:
        """The calls that go to a worker now, in order. Each is with its worker when it is given.

        Args:
            now: Seconds, by the clock of `Room.ends_at`.
        """
        workers = [worker for worker in self._workers.values() if worker.is_open]
        if self._claim is not None:
            yield from self._start_claimer(workers, now)
        heads = [
            _Search(line, [w for w in workers if allowed is None or w.name in allowed])
            for where, line in list(self._lines.items())
            for allowed in [self._allowed(where)]
        ]
        lines = heads.copy()
        for search in heads:
            self._look_on(search, now)
        heads = [search for search in heads if search.found is not None]
        heapq.heapify(heads)
        while heads:
            search = heads[0]
            call = search.found
            assert call is not None
            fitting = self._fitting(call, search.workers, now)
            if fitting:
                if self._claim is None and self._claim_before(call, lines, now):
                    continue  # some of these workers may be for another now
                worker = self._best(call, fitting)
                self._begin(call, worker, now)
                yield Start(call.key, worker.name)
                search.found = None
            self._look_on(search, now)
            if search.found is None:
                heapq.heappop(heads)
            else:
                heapq.heapreplace(heads, search)
        yield from self._send_ahead(workers, lines, now)

    def recall(self, now: float) -> list[Start]:
        """Calls that wait at a worker for their turn, and could run on another one now."""
        found = []
        for worker in self._workers.values():
            call = worker.ahead
            if call is None or now < worker.ahead_since + _RECALL_S:
                continue
            worker.ahead_since = now  # to ask again if it has no effect, and not to ask always
            allowed = self._allowed(call.where)
            others = [
                other
                for other in self._workers.values()
                if other.is_open and (allowed is None or other.name in allowed)
            ]
            if self._fitting(call, others, now):
                found.append(Start(call.key, worker.name))
        return found

    def has_ahead(self) -> bool:
        """Whether there is a call that waits at a worker for its turn."""
        return any(worker.ahead is not None for worker in self._workers.values())

    # -- how ---------------------------------------------------------------------------------

    def _begin(self, call: Call, worker: Worker, now: float) -> None:
        claimed = self._claim is not None and self._claim[1] is worker
        is_claimer = self._claim is not None and self._claim[0] is call
        self.leave(call.key)
        worker.take(call, now)
        worker.turn = next(self._turns)
        self._at[call.key] = worker
        if claimed and not is_claimer:
            worker.beside.add(call.key)

    def _look_on(self, search: _Search, now: float) -> None:
        """Find the next call of a line that fits, behind those that have been looked at."""
        offers = [o for w in search.workers if (o := self._offer(w, now)) is not None]
        search.found = search.line.first(_largest(offers), after=search.after)
        if search.found is not None:
            search.after = search.found

    def _offer(self, worker: Worker, now: float) -> Offer | None:
        """What a worker could give to a call now, if that does not hold the claim."""
        if worker.ahead is not None:
            return None
        cores = worker.room.cores - worker.cores
        memory = worker.room.memory - worker.memory
        if self._claim is not None and self._claim[1] is worker:
            # Nothing of what it is being cleared for.
            asked = self._claim[0].request
            beside = [worker.running[key] for key in worker.beside]
            cores = min(cores, worker.room.cores - asked.cores - sum(b.cores for b in beside))
            memory = min(memory, worker.room.memory - asked.memory - sum(b.memory for b in beside))
        return Offer(memory, cores, worker.time_left(now)) if cores > 0 and memory >= 0 else None

    def _fitting(self, call: Call, workers: list[Worker], now: float) -> list[Worker]:
        if self._claim is not None and self._claim[0] is call:
            return [worker for worker in workers if worker.fits(call.request, now)]
        return [w for w in workers if (o := self._offer(w, now)) is not None and call.fits([o])]

    def _best(self, call: Call, workers: list[Worker]) -> Worker:
        if len(workers) == 1:
            return workers[0]
        # The one that it fills best: so the largest rooms stay for the largest calls.
        return min(
            workers,
            key=lambda worker: (
                self._cost(call.key, worker.name),
                worker.room.memory - worker.memory,
                worker.cores,
                # Among equals, the one that was given none for the longest time: Dask waits 5 ms
                # between two messages to one worker, and the last call's end was just one.
                worker.turn,
            ),
        )

    # -- the claim ---------------------------------------------------------------------------

    def _start_claimer(self, workers: list[Worker], now: float) -> Iterator[Start]:
        assert self._claim is not None
        call, claimed = self._claim
        allowed = self._allowed(call.where)
        usable = [w for w in workers if allowed is None or w.name in allowed]
        fitting = self._fitting(call, usable, now)
        if fitting:
            worker = self._best(call, fitting)
            self._begin(call, worker, now)
            yield Start(call.key, worker.name)
        elif claimed not in usable or call.request.seconds > claimed.time_left(now):
            self._drop_claim()

    def _claim_before(self, call: Call, lines: list[_Search], now: float) -> bool:
        """Let the first call that fits nowhere claim a worker, before this later one starts."""
        first: tuple[Call, Worker] | None = None
        for search in lines:
            head = search.line.head
            if head is None or head.place >= call.place:
                continue
            found = self._first_that_could(search, call, now)
            if found is not None and (first is None or found[0].place < first[0].place):
                first = found
        if first is None:
            return False
        self._claim = first
        first[1].beside.clear()
        return True

    def _first_that_could(
        self, search: _Search, before: Call, now: float
    ) -> tuple[Call, Worker] | None:
        """The first of a line that would fit if a worker ran nothing else, and that worker."""
        workers = search.workers
        rooms = [Offer(w.room.memory, w.room.cores, w.time_left(now)) for w in workers]
        call = search.line.first(_largest(rooms))
        if call is None or call.place >= before.place:
            return None
        could = [w for w, room in zip(workers, rooms, strict=True) if call.fits([room])]
        return call, min(could, key=lambda worker: worker.until_free(call.request, now))

    def _drop_claim(self) -> None:
        assert self._claim is not None
        self._claim[1].beside.clear()
        self._claim = None

    # -- calls that are sent ahead -----------------------------------------------------------

    def _send_ahead(
        self, workers: list[Worker], lines: list[_Search], now: float
    ) -> Iterator[Start]:
        """Give each busy worker one more, where calls are so short that its way would count.

        Only what will fit whichever of its calls ends first, and only who is first of all: it
        passes nobody.
        """
        for worker in workers:
            if worker.ahead is not None or not worker.running:
                continue
            if self._claim is not None and self._claim[1] is worker:
                continue
            first = min(
                (search for search in lines if search.line.head is not None),
                key=lambda search: search.line.head.place,  # type: ignore[union-attr]
                default=None,
            )
            if first is None:
                return
            call = first.line.head
            assert call is not None
            if not self._quick(call.key):
                return
            if worker in first.workers and worker.fits_next(call.request):
                self.leave(call.key)
                worker.ahead, worker.ahead_since = call, now
                self._at[call.key] = worker
                yield Start(call.key, worker.name, ahead=True)


@dataclass(eq=False)
class _Search:
    """How far one line has been looked through."""

    line: Line
    workers: list[Worker]
    found: Call | None = None
    after: Call | None = None

    def __lt__(self, other: _Search) -> bool:
        assert self.found is not None and other.found is not None
        return self.found.place < other.found.place


def _largest(offers: list[Offer]) -> list[Offer]:
    """Those that no other one is at least as good as: a call fits one of these, or none."""
    found: list[Offer] = []
    for memory, cores, seconds in sorted(set(offers), reverse=True):
        if not any(m >= memory and c >= cores and s >= seconds for m, c, s in found):
            found.append(Offer(memory, cores, seconds))
    return found
