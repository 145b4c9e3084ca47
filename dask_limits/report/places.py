"""Where the calls of a report could run: its workers, or this machine."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Place:
    """A worker, or this machine: how many calls of one core, and bytes for their memory limits.

    `memory` is None if nothing limits them.
    """

    cores: int
    memory: int | None = None

    def fit(self, memory: int | None, cores: int | None) -> int:
        """How many calls that reserve this fit beside each other."""
        n = self.cores // (cores or 1)
        return n if memory is None or self.memory is None else min(n, self.memory // memory)


@dataclass(frozen=True)
class WorkerChange:
    """A worker is there from now on, in seconds since 1970; it has gone if it has no place.

    Without an address, all have gone.
    """

    at: float
    address: str = ""
    place: Place | None = None


def workers_over_time(
    changes: Iterable[WorkerChange],
) -> Iterator[tuple[float, Mapping[str, Place]]]:
    """Which workers, by address, were there from which time on. It is one dict, which changes."""
    there: dict[str, Place] = {}
    for change in changes:
        if change.place is not None:
            there[change.address] = change.place
        elif change.address:
            there.pop(change.address, None)
        else:
            there.clear()
        yield change.at, there


def places_at_most(changes: Iterable[WorkerChange], slots: int) -> list[Place]:
    """The workers at the time when they had the most cores; else this machine.

    That runs so many calls at a time; if it is not known, there are no places.
    """
    most: list[Place] = []
    for _, there in workers_over_time(changes):
        if sum(place.cores for place in there.values()) > sum(place.cores for place in most):
            most = list(there.values())
    if most or not slots:
        return most
    from dask_limits.limits.owner.capacity import capacity_here  # with the batch systems

    return [Place(slots, capacity_here().memory)]
