"""Limits on Dask, beside plain Dask, on two workers: calls per second, and cancelling."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

from distributed import Client, Future, LocalCluster
from measure import compare

from dask_limits import LimitsWorkerPlugin, annotate, limit
from dask_limits.executors.dask.executor import DaskExecutor

CALLS = 500
CANCELS = 30


def increment(number: int) -> int:
    return number + 1


def rate(run: Callable[[range], list[int]]) -> Callable[[], float]:
    def measure() -> float:
        start = time.perf_counter()
        assert len(run(range(CALLS))) == CALLS
        taken = time.perf_counter() - start
        time.sleep(0.3)  # until the scheduler has forgotten these
        return CALLS / taken

    return measure


def main() -> None:
    with (
        LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=":0") as cluster,
        Client(cluster) as client,
    ):
        without_plugin(client)
        with DaskExecutor(client) as executor:
            many_at_once(client, executor)
            one_after_the_other(client, executor)
        cancelling(client)


def mapped(client: Client) -> Callable[[range], list[int]]:
    return lambda numbers: client.gather(client.map(increment, numbers, pure=False))


def annotated(client: Client) -> Callable[[range], list[int]]:
    def run(numbers: range) -> list[int]:
        with annotate(memory="1 GiB", wall_time=60):
            futures = client.map(increment, numbers, pure=False)
        return client.gather(futures)

    return run


def without_plugin(client: Client) -> None:
    def registered(yes: bool) -> float:
        if yes:
            client.register_plugin(LimitsWorkerPlugin())
        figure = rate(mapped(client))()
        if yes:
            client.unregister_worker_plugin(LimitsWorkerPlugin.name)
        return figure

    rate(mapped(client))()
    compare(
        f"{CALLS} trivial tasks without limits",
        "tasks/s",
        {
            "plain workers": lambda: registered(False),
            "workers with LimitsWorkerPlugin": lambda: registered(True),
        },
        rounds=10,
    )


def many_at_once(client: Client, executor: DaskExecutor) -> None:
    limited = limit(increment, memory="1 GiB", wall_time=60)
    list(executor.map(limited, range(100)))
    compare(
        f"{CALLS} trivial calls on two Dask workers of one thread",
        "calls/s",
        {
            "client.map": rate(mapped(client)),
            "client.map, annotated": rate(annotated(client)),
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


def one_after_the_other(client: Client, executor: DaskExecutor) -> None:
    limited = limit(increment, memory="1 GiB", wall_time=60)

    def submit_annotated(number: int) -> int:
        with annotate(memory="1 GiB", wall_time=60):
            future = client.submit(increment, number, pure=False)
        return int(future.result())

    compare(
        "50 trivial calls, each submitted when the previous one is done",
        "calls/s",
        {
            "client.submit": one_by_one(lambda i: client.submit(increment, i, pure=False).result()),
            "client.submit, annotated": one_by_one(submit_annotated),
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


def sleep_long(pid_file: Path) -> None:
    pid_file.write_text(f"{os.getpid()}\n")
    time.sleep(60)


def cancelling(client: Client) -> None:
    (worker, _) = client.scheduler_info(n_workers=-1)["workers"]

    def next_task() -> Future:
        return client.submit(os.getpid, pure=False, workers=[worker])

    def trivial() -> float:
        start = time.perf_counter()
        next_task().result()
        return 1000 * (time.perf_counter() - start)

    def cancelled(until: Callable[[int, Future], object]) -> float:
        with TemporaryDirectory() as directory:
            file = Path(directory, "pid")
            with annotate(wall_time=60):
                running = client.submit(sleep_long, file, pure=False, workers=[worker])
            while not file.exists() or not file.read_text():
                time.sleep(0.01)
            following = next_task()
            time.sleep(0.05)  # until the worker has it
            start = time.perf_counter()
            running.cancel()
            until(int(file.read_text()), following)
            taken = time.perf_counter() - start
            following.result()
            return 1000 * taken

    def gone(pid: int, _: Future) -> None:
        while Path(f"/proc/{pid}").exists():
            time.sleep(0.0005)

    compare(
        f"{CANCELS} running calls that are cancelled",
        "ms",
        {
            "a trivial task, from submit to result": trivial,
            "cancel() to process gone": lambda: cancelled(gone),
            "cancel() to next task done": lambda: cancelled(lambda _, task: task.result()),
        },
        rounds=CANCELS,
    )


if __name__ == "__main__":
    main()
