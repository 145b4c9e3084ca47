"""How well a mixed load fills a Dask cluster: many calls with small memory limits, a few large.

Two workers of 4 GiB and 8 threads each. Every call only sleeps, so this measures placement alone.
The ideal is the time that all calls would take if no memory were ever idle.
"""

from __future__ import annotations

import random
import time
from collections import deque
from collections.abc import Callable

from distributed import Client, LocalCluster, as_completed

from benchmarks.row import Measure, Peer, Row
from benchmarks.timing import seconds
from dask_limits import LimitsWorkerPlugin, Scheduler, annotate, limit

GIB = 2**30
WORKERS, MEMORY_GIB, THREADS = 2, 4.0, 8
KINDS = [(0.5, 0.5, 120), (3.5, 1.0, 12)]
"""GiB, average seconds, and number of calls of each kind."""

Call = tuple[float, float]


def load(percent: int) -> list[Call]:
    dice = random.Random(0)
    calls = [
        (gib, average * dice.uniform(0.1, 1.9))
        for gib, average, number in KINDS
        for _ in range(number * percent // 100)
    ]
    dice.shuffle(calls)
    return calls


def by_limits(client: Client, calls: list[Call]) -> None:
    """Placed by dask_limits."""
    scheduler = Scheduler(client)

    @scheduler.on_start
    def submit() -> None:
        for gib, nap in calls:
            scheduler.submit(limit(time.sleep, memory=int(gib * GIB)), nap)

    scheduler.run()


def in_order(client: Client, calls: list[Call]) -> None:
    """First come, first served: a call that fits nowhere blocks all calls behind it."""
    waiting = deque(calls)
    free = dict.fromkeys(client.scheduler_info(n_workers=-1)["workers"], MEMORY_GIB)
    threads = dict.fromkeys(free, THREADS)
    running = {}
    ended = as_completed([])

    def start() -> None:
        while waiting:
            gib, nap = waiting[0]
            fitting = [at for at in free if free[at] >= gib and threads[at]]
            if not fitting:
                return
            at = min(fitting, key=lambda one: free[one])
            waiting.popleft()
            free[at] -= gib
            threads[at] -= 1
            with annotate(memory=int(gib * GIB)):
                future = client.submit(time.sleep, nap, workers=[at], pure=False)
            running[future] = gib, at
            ended.add(future)

    start()
    for future in ended:
        gib, at = running.pop(future)
        free[at] += gib
        threads[at] += 1
        start()


def by_resources(client: Client, calls: list[Call]) -> None:
    """Placed by Dask, by its abstract resources."""
    client.gather(
        [client.submit(time.sleep, nap, resources={"GiB": gib}, pure=False) for gib, nap in calls]
    )


def measure(run: Callable[[Client, list[Call]], None]) -> Measure:
    def of(percent: int) -> float:
        with (
            LocalCluster(
                n_workers=WORKERS,
                threads_per_worker=THREADS,
                memory_limit=f"{MEMORY_GIB} GiB",
                resources={"GiB": MEMORY_GIB},
                dashboard_address=":0",
            ) as cluster,
            Client(cluster) as client,
        ):
            client.register_plugin(LimitsWorkerPlugin())
            with annotate(memory="0.5 GiB"):  # starts what is started on first use
                client.gather(client.map(time.sleep, [0.1] * 2 * WORKERS * THREADS, pure=False))
            return seconds(lambda: run(client, load(percent)))

    return of


IDEAL = sum(gib * nap for gib, nap in load(100)) / (WORKERS * MEMORY_GIB)

ROWS = (
    Row(
        "packing",
        f"{len(load(100))} calls of {' and '.join(f'{gib} GiB' for gib, *_ in KINDS)}"
        " on two workers of 4 GiB",
        "s",
        measure(by_limits),
        full=100,
        tiny=10,
        peers=(
            Peer("ideal", "the ideal, no memory is ever idle", IDEAL),
            Peer("in-order", "in strict order", measure(in_order)),
            Peer("resources", "Dask's resources=", measure(by_resources)),
        ),
        rounds=3,
    ),
)
