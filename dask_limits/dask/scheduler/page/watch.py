from __future__ import annotations

import time
from collections import Counter
from dataclasses import dataclass
from typing import Final

from dask_limits.dask.ended import Failure
from dask_limits.dask.scheduler.cluster import Cluster
from dask_limits.dask.scheduler.page import columns
from dask_limits.dask.scheduler.page.columns import Columns
from dask_limits.dask.scheduler.running import RunningOnCluster

_EVERY_S: Final = 0.9
"""How old what is shown may be when somebody looks. Each looks once a second."""


@dataclass(frozen=True, eq=False)
class Shown:
    """What the page shows at one time, to all who look.

    Attributes:
        n_running: How many calls run; the columns may have less.
        endings: How many calls have ended in which way.
    """

    n_running: int
    n_waiting: int
    running: Columns
    workers: Columns
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
        n_running = Counter(worker for _, _, _, worker, _, _ in calls)
        return Shown(
            n_running=len(calls),
            n_waiting=len(cluster.placement.waiting),
            running=columns.of_running(calls),
            workers=columns.of_workers(cluster.workers.values(), n_running),
            slots=columns.of_slots(cluster.ended.slots, time.time()),
            endings=endings,
            functions=columns.of_functions(cluster.ended.functions),
            failures=tuple(cluster.ended.failures),
        )
