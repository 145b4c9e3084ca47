"""Tasks per second through a scheduler, beside the bare executor, on two processes or workers."""

from __future__ import annotations

import concurrent.futures
import itertools
import time
from collections.abc import Callable
from concurrent.futures import FIRST_COMPLETED, Executor, Future, wait

import distributed
from measure import compare

from dask_limits import PynisherPlugin, Scheduler

_IN_FLIGHT = 32


def echo(x: int) -> int:
    return x


def through_facade(scheduler: Scheduler, calls: int, *, limited: bool) -> Callable[[], float]:
    """Keep some calls in flight: each result submits the next call, as in a search."""
    numbers: itertools.count[int] = itertools.count()
    plugins = [PynisherPlugin(walltime_limit=60, memory_limit="1 GiB")] if limited else []
    task = scheduler.task(echo, plugins=plugins)
    at_start: list[float] = []

    def submit_next(*_: object) -> None:
        if (number := next(numbers)) < calls:
            task.submit(number)

    scheduler.on_start(lambda: at_start.append(time.perf_counter()))
    scheduler.on_start(submit_next, repeat=_IN_FLIGHT)
    task.on_result(submit_next)

    def measure() -> float:
        nonlocal numbers
        numbers = itertools.count()
        scheduler.run()
        return calls / (time.perf_counter() - at_start[-1])

    return measure


def bare(executor: Executor, calls: int) -> Callable[[], float]:
    """The same loop on a bare executor."""

    def measure() -> float:
        start = time.perf_counter()
        numbers = iter(range(calls))
        pending: set[Future[int]] = set()
        while True:
            for number in itertools.islice(numbers, _IN_FLIGHT - len(pending)):
                pending.add(executor.submit(echo, number))
            if not pending:
                return calls / (time.perf_counter() - start)
            _, pending = wait(pending, return_when=FIRST_COMPLETED)

    return measure


def main() -> None:
    with concurrent.futures.ProcessPoolExecutor(2) as pool:
        compare(
            "Two processes, 32 calls in flight",
            "tasks/s",
            {
                "ProcessPoolExecutor": bare(pool, 4000),
                "Scheduler.with_processes, no limits": through_facade(
                    Scheduler.with_processes(2), 4000, limited=False
                ),
                "Scheduler.with_processes, limits": through_facade(
                    Scheduler.with_processes(2), 4000, limited=True
                ),
                "Scheduler(ProcessPoolExecutor)": through_facade(
                    Scheduler(pool), 4000, limited=False
                ),
            },
        )
    with distributed.Client(n_workers=2, threads_per_worker=1, dashboard_address=":0") as client:

        def all_at_once() -> float:
            start = time.perf_counter()
            client.gather(client.map(echo, range(500), pure=False))
            return 500 / (time.perf_counter() - start)

        compare(
            "A LocalCluster of two workers",
            "tasks/s",
            {
                "client.map of all": all_at_once,
                "client.get_executor, 32 in flight": bare(client.get_executor(pure=False), 500),
                "Scheduler(client), no limits": through_facade(
                    Scheduler(client), 500, limited=False
                ),
                "Scheduler(client), limits": through_facade(Scheduler(client), 500, limited=True),
            },
        )


if __name__ == "__main__":
    main()
