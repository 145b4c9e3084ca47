from __future__ import annotations

import time
from collections import Counter
from dataclasses import dataclass
from operator import itemgetter
from typing import Final

from dask_limits.dask.ended import Failure, slot_of
from dask_limits.dask.running import Row
from dask_limits.dask.scheduler.cluster import Cluster, TrackedWorker
from dask_limits.dask.scheduler.page import columns
from dask_limits.dask.scheduler.page.columns import Columns
from dask_limits.dask.scheduler.running import RunningOnCluster

_EVERY_S: Final = 0.9
"""How old what is shown may be when somebody looks. Each looks once a second."""


@dataclass(frozen=True, eq=False)
class Shown:
    """What the page shows at one time, to all who look.

    Attributes:
        calls: The calls that run; the columns may have less.
        workers: The tracked workers.
        n_on: How many calls run on each worker, by its name.
        endings: How many calls have ended in which way.
    """

    calls: list[Row]
    workers: list[TrackedWorker]
    n_waiting: int
    n_on: Counter[str]
    slots: Columns
    endings: Counter[str]
    functions: Columns
    failures: tuple[Failure, ...]


class Watch:
    """Looks at the limited calls of a cluster, at most once a second, and only if someone asks."""

    def __init__(self, cluster: Cluster, running: RunningOnCluster) -> None:
        self._cluster = cluster
        self._running = running
        self._next = 0.0  # seconds of time.monotonic()
        self._shown: Shown | None = None
        self._functions = columns.FunctionColumns()
        self._slots: tuple[tuple[int, int], Columns] | None = None

    def latest(self) -> Shown:
        """What there is to see now, or a moment ago."""
        now = time.monotonic()
        if self._shown is None or now >= self._next:
            self._next = now + _EVERY_S
            self._shown = self._look()
        return self._shown

    def _look(self) -> Shown:
        cluster, calls = self._cluster, self._running.rows()
        cluster.ended.look()
        endings: Counter[str] = Counter()
        for figures in cluster.ended.functions.values():
            endings.update(figures.endings)
        running = Counter(map(itemgetter(2), calls))
        waiting = cluster.waiting(running)
        return Shown(
            calls=calls,
            workers=[*cluster.workers.values()],
            n_waiting=len(cluster.placement.waiting),
            n_on=Counter(map(itemgetter(3), calls)),
            slots=self._slots_at(time.time()),
            endings=endings,
            functions=self._functions.of(cluster.ended.functions, waiting, running),
            failures=tuple(cluster.ended.failures),
        )

    def _slots_at(self, now: float) -> Columns:
        """When calls have ended: made anew when time goes on by a slot, or calls have ended."""
        slots = self._cluster.ended.slots
        version = slot_of(now), slots.total()
        if self._slots is None or self._slots[0] != version:
            self._slots = version, columns.of_slots(slots, now)
        return self._slots[1]
