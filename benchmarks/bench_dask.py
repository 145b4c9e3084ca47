"""Calls a second through the Dask executor, beside the bare client, on a cluster of two workers."""

from __future__ import annotations

import time
from collections.abc import Callable

from distributed import Client, LocalCluster
from measure import compare

from dask_limits import limit
from dask_limits.executors.dask import DaskExecutor

CALLS = 500


def increment(number: int) -> int:
    return number + 1


def rate(run: Callable[[range], list[int]]) -> Callable[[], float]:
    def measure() -> float:
        start = time.perf_counter()
        assert len(run(range(CALLS))) == CALLS
        taken = time.perf_counter() - start
        time.sleep(0.3)  # the scheduler forgets these before the next come
        return CALLS / taken

    return measure


def main() -> None:
    with (
        LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=":0") as cluster,
        Client(cluster) as client,
        DaskExecutor(client) as executor,
    ):
        limited = limit(increment, memory="1 GiB", wall_time=60)
        client.gather(client.map(increment, range(-100, 0)))
        list(executor.map(limited, range(100)))
        compare(
            f"{CALLS} trivial calls on two Dask workers of one thread",
            "calls/s",
            {
                "client.map": rate(lambda n: client.gather(client.map(increment, n, pure=False))),
                "client.submit": rate(
                    lambda n: client.gather([client.submit(increment, i, pure=False) for i in n])
                ),
                "client.get_executor": rate(
                    lambda n: list(client.get_executor(pure=False).map(increment, n))
                ),
                "DaskExecutor": rate(lambda n: list(executor.map(increment, n))),
                "DaskExecutor, limited": rate(lambda n: list(executor.map(limited, n))),
            },
        )
        compare(
            "50 trivial calls, each submitted when the one before is done",
            "calls/s",
            {
                "client.submit": one_by_one(
                    lambda i: client.submit(increment, i, pure=False).result()
                ),
                "DaskExecutor": one_by_one(lambda i: executor.submit(increment, i).result()),
                "DaskExecutor, limited": one_by_one(lambda i: executor.submit(limited, i).result()),
            },
            rounds=3,
        )


def one_by_one(call: Callable[[int], int]) -> Callable[[], float]:
    def measure() -> float:
        start = time.perf_counter()
        for number in range(50):
            call(number)
        return 50 / (time.perf_counter() - start)

    return measure


if __name__ == "__main__":
    main()
