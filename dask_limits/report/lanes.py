"""Calls of a worker that run at one time, drawn below each other."""

from __future__ import annotations

import heapq
from collections import defaultdict
from collections.abc import Iterable
from typing import Final, NamedTuple

_MEASURED_S: Final = 0.005
"""The times of two calls of one process, one after the other, may overlap by so much."""


class Bar(NamedTuple):
    """A call, or several short ones with the same ending, in seconds since 1970."""

    worker: str
    started: float
    ended: float
    ending: str


class Lane(NamedTuple):
    """Calls of a worker that do not overlap."""

    worker: str
    bars: list[Bar]


def lanes_of(bars: Iterable[Bar], least: float) -> list[Lane]:
    """Divide calls into lanes, as few as there can be, by worker in the order of their names.

    Calls of a lane with one ending that begin within the `least` time that is seen become one.
    """
    by_worker = defaultdict(list)
    for bar in bars:
        by_worker[bar.worker].append(bar)
    found = []
    for worker in sorted(by_worker):
        lanes: list[dict[tuple[str, int], Bar]] = []
        free: list[tuple[float, int]] = []  # when a lane is free, and its number
        for bar in sorted(by_worker[worker]):
            if free and free[0][0] <= bar.started + _MEASURED_S:
                _, n = heapq.heappop(free)
            else:
                n = len(lanes)
                lanes.append({})
            heapq.heappush(free, (bar.ended, n))
            place = bar.ending, int(bar.started / max(least, 1e-9))
            other = lanes[n].get(place)
            if other is None or other.ended < bar.ended:
                lanes[n][place] = bar if other is None else other._replace(ended=bar.ended)
        found += [Lane(worker, list(lane.values())) for lane in lanes]
    return found
