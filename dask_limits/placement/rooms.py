"""The workers, and which of them have room: of a thousand, few are looked at for each call."""

from __future__ import annotations

import itertools
from collections.abc import Container, Iterator, Mapping
from dataclasses import dataclass

from dask_limits.placement.resources import FreeResources
from dask_limits.placement.workers import Worker


@dataclass(slots=True)
class Room:
    """What each of some workers can give to a call: they all have the same.

    Attributes:
        without: One of them that is kept for another call.
    """

    free: FreeResources
    workers: Mapping[str, Worker]
    without: Worker | None = None

    def __contains__(self, name: str) -> bool:
        return name in self.workers and (self.without is None or self.without.name != name)

    def first(self, n: int) -> Iterator[Worker]:
        """Those that have had this room for the longest time, so many at most."""
        there = (worker for worker in self.workers.values() if worker is not self.without)
        return itertools.islice(there, n)


class Workers:
    """All workers, in groups. `sort` puts one into its group again whenever it has changed.

    Attributes:
        by_name: All of them.
        full: Those that take calls, have no core free and none that waits there for its turn.
        prefetching: Those that have one that waits there, those first whose call was asked back
            before.
    """

    def __init__(self) -> None:
        self.by_name: dict[str, Worker] = {}
        self.full: dict[str, Worker] = {}
        self.prefetching: dict[str, Worker] = {}
        self._with_room: dict[FreeResources, dict[str, Worker]] = {}  # seconds: until when
        self._room_of: dict[str, FreeResources] = {}

    def sort(self, worker: Worker) -> None:
        """Put a worker where it belongs now."""
        name = worker.name
        self._take_out(name)
        if worker.prefetched is not None:
            self.prefetching[name] = worker
        elif worker.is_open:
            free = worker.free(0)
            if free.cores <= 0:
                self.full[name] = worker
            elif free.memory >= 0:
                self._with_room.setdefault(free, {})[name] = worker
                self._room_of[name] = free

    @property
    def have_room(self) -> bool:
        """Whether any worker can take a call now."""
        return bool(self._with_room)

    def remove(self, name: str) -> None:
        """A worker is not there any more."""
        self._take_out(name)
        del self.by_name[name]

    def _take_out(self, name: str) -> None:
        self.full.pop(name, None)
        self.prefetching.pop(name, None)
        if (free := self._room_of.pop(name, None)) is not None:
            group = self._with_room[free]
            del group[name]
            if not group:
                del self._with_room[free]

    def open(self, allowed: Container[str] | None) -> list[Worker]:
        """Those of these workers, None for all, that take calls, whether they have room or not."""
        return [
            worker
            for worker in self.by_name.values()
            if worker.is_open and (allowed is None or worker.name in allowed)
        ]

    def rooms(self, allowed: Container[str] | None, now: float) -> Iterator[Room]:
        """What there is on these workers, None for all."""
        for (memory, cores, until), group in self._with_room.items():
            if allowed is not None:
                group = {name: worker for name, worker in group.items() if name in allowed}
            if group:
                yield Room(FreeResources(memory, cores, until - now), group)
