"""How well a mixed load fills a Dask cluster: many calls with small memory limits, a few large.

Two workers of 4 GiB and 8 threads each. Every call only sleeps, so this measures placement alone.
The ideal is the time that all calls would take if no memory were ever idle; utilisation is the
ideal divided by the time taken.
"""

from __future__ import annotations

import random
import statistics
import time
from collections import deque
from collections.abc import Callable

from distributed import Client, LocalCluster, as_completed
from rich.console import Console
from rich.table import Table

from dask_limits import LimitsWorkerPlugin, Scheduler, annotate, limit

GIB = 2**30
WORKERS, MEMORY_GIB, THREADS = 2, 4.0, 8
KINDS = [(0.5, 0.5, 120), (3.5, 1.0, 12)]
"""GiB, average seconds, and number of calls."""
ROUNDS = 3

Call = tuple[float, float]


def load() -> list[Call]:
    dice = random.Random(0)
    calls = [
        (gib, seconds * dice.uniform(0.1, 1.9))
        for gib, seconds, number in KINDS
        for _ in range(number)
    ]
    dice.shuffle(calls)
    return calls


def by_limits(client: Client, calls: list[Call]) -> None:
    """Placed by dask_limits."""
    scheduler = Scheduler(client)

    @scheduler.on_start
    def submit() -> None:
        for gib, seconds in calls:
            scheduler.submit(limit(time.sleep, memory=int(gib * GIB)), seconds)

    scheduler.run()


def first_come_first_served(client: Client, calls: list[Call]) -> None:
    """In strict order: a call that fits nowhere blocks all calls behind it."""
    waiting = deque(calls)
    free = dict.fromkeys(client.scheduler_info(n_workers=-1)["workers"], MEMORY_GIB)
    threads = dict.fromkeys(free, THREADS)
    running = {}
    ended = as_completed([])

    def start() -> None:
        while waiting:
            gib, seconds = waiting[0]
            fitting = [at for at in free if free[at] >= gib and threads[at]]
            if not fitting:
                return
            at = min(fitting, key=lambda one: free[one])
            waiting.popleft()
            free[at] -= gib
            threads[at] -= 1
            with annotate(memory=int(gib * GIB)):
                future = client.submit(time.sleep, seconds, workers=[at], pure=False)
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
        [
            client.submit(time.sleep, seconds, resources={"GiB": gib}, pure=False)
            for gib, seconds in calls
        ]
    )


def measure(client: Client, run: Callable[[Client, list[Call]], None]) -> float:
    start = time.perf_counter()
    run(client, load())
    return time.perf_counter() - start


def main() -> None:
    peers = {
        "dask_limits": by_limits,
        "first come, first served": first_come_first_served,
        "plain Dask, resources=": by_resources,
    }
    ideal = sum(gib * seconds for gib, seconds in load()) / (WORKERS * MEMORY_GIB)
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
        figures: dict[str, list[float]] = {name: [] for name in peers}
        for _ in range(ROUNDS):
            for name, run in peers.items():
                figures[name].append(measure(client, run))
    table = Table(
        "", "done after, s", "least", "most", "utilisation of memory",
        title=f"{len(load())} calls of {', '.join(f'{gib} GiB' for gib, *_ in KINDS)};"
        f" ideal {ideal:.2f} s",
    )  # fmt: skip
    for name, values in figures.items():
        median = statistics.median(values)
        cells = [f"{value:.2f}" for value in (median, min(values), max(values))]
        table.add_row(name, *cells, f"{ideal / median:.0%}")
    Console().print(table)


if __name__ == "__main__":
    main()
