"""Limits on a LocalCluster of two workers with a thread each."""

from __future__ import annotations

import contextlib
import os
import statistics
import time
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from distributed import Client, Future, LocalCluster, as_completed

from benchmarks.functions import echo
from benchmarks.row import Peer, Row, at_least, at_most
from benchmarks.timing import Pace, each_us, limited, seconds
from dask_limits import LimitsWorkerPlugin, Scheduler, annotate

IN_FLIGHT = 64
ARRAYS = 4


@contextlib.contextmanager
def client_of_two(*, plugin: bool = False) -> Iterator[Client]:
    with (
        LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=":0") as cluster,
        Client(cluster) as client,
    ):
        if plugin:
            client.register_plugin(LimitsWorkerPlugin())
        yield client


def with_limits() -> contextlib.AbstractContextManager[None]:
    return annotate(wall_time=60, memory="1 GiB")


def facade(size: int, *, batch: bool = True) -> float:
    with client_of_two() as client:
        scheduler = Scheduler.with_dask(client, batch=batch)
        return limited(scheduler, Pace(size, IN_FLIGHT), echo).per_second


def map_all(client: Client, calls: int) -> float:
    """Have them submitted at once, as is quickest; calls per second."""

    def run(number: int) -> None:
        client.gather(client.map(echo, range(number), pure=False))

    run(IN_FLIGHT + calls // 10)
    return calls / seconds(lambda: run(calls))


def client_map(size: int, *, plugin: bool = False) -> float:
    with client_of_two(plugin=plugin) as client:
        return map_all(client, size)


def client_loop(size: int) -> float:
    """Have as many in flight as we do, each submitted when another one is done."""
    with client_of_two() as client:
        pace = Pace(size, IN_FLIGHT)
        numbers = pace.numbers()
        first = client.map(echo, list(islice(numbers, IN_FLIGHT)), pure=False)
        running = as_completed(first, with_results=True)
        for done in running.batches():
            for _ in done:
                pace.note_result()
            if further := list(islice(numbers, len(done))):
                running.update(client.map(echo, further, pure=False))
        return pace.per_second


def annotated_map(size: int) -> float:
    with client_of_two(plugin=True) as client, with_limits():
        return map_all(client, size)


def one_by_one(size: int, *, annotated: bool) -> float:
    with client_of_two(plugin=annotated) as client:

        def call() -> None:
            with with_limits() if annotated else contextlib.nullcontext():
                future = client.submit(echo, 1, pure=False)
            future.result()

        return each_us(call, size) / 1000


def calls_of_20_ms(size: int) -> float:
    """Milliseconds for each call, as a worker sees it."""
    with client_of_two() as client:
        pace = limited(Scheduler(client), Pace(size, IN_FLIGHT), time.sleep, 0.02)
        return pace.seconds / size * 2 * 1000


def array_limited(megabytes: int) -> float:
    """Seconds for an array to go to a call and to come back, once it is warm."""
    array = np.ones(megabytes * 125_000)
    with client_of_two() as client:
        pace = Pace(ARRAYS, in_flight=1)
        return limited(Scheduler(client), pace, echo, array).seconds / ARRAYS


def array_plain(megabytes: int) -> float:
    array = np.ones(megabytes * 125_000)
    with client_of_two() as client:

        def call() -> None:
            client.submit(echo, array, pure=False).result()

        return each_us(call, ARRAYS) / 1e6


def sleep_long(pid_file: Path) -> None:
    pid_file.write_text(f"{os.getpid()}\n")
    time.sleep(60)


def cancelled(size: int, until: Callable[[int, Future], object]) -> float:
    """Milliseconds from the cancel of a running call, the median of so many."""
    with client_of_two(plugin=True) as client, TemporaryDirectory() as folder:
        worker = next(iter(client.scheduler_info(n_workers=-1)["workers"]))

        def one(file: Path) -> float:
            with annotate(wall_time=60):
                running = client.submit(sleep_long, file, pure=False, workers=[worker])
            while not file.exists() or not file.read_text():
                time.sleep(0.01)
            following = client.submit(os.getpid, pure=False, workers=[worker])
            time.sleep(0.05)  # until the worker has it
            start = time.perf_counter()
            running.cancel()
            until(int(file.read_text()), following)
            taken = time.perf_counter() - start
            following.result()
            return taken * 1000

        return statistics.median(one(Path(folder, str(number))) for number in range(size))


def gone(pid: int, _: Future) -> None:
    while Path(f"/proc/{pid}").exists():
        time.sleep(0.0005)


def next_done(_: int, following: Future) -> None:
    following.result()


ROWS = (
    Row(
        "dask",
        "calls through a Scheduler, 64 in flight, limited",
        "calls/s",
        facade,
        full=1500,
        quick=500,
        peers=(
            Peer("map", "client.map of all at once, no limits", client_map, at_least(5)),
            Peer("annotated", "client.map, annotated with limits", annotated_map),
            Peer("loop", "client.map, 64 in flight, no limits", client_loop),
        ),
    ),
    Row(
        "dask-no-batches",
        "calls through a Scheduler, 64 in flight, limited, without batches",
        "calls/s",
        lambda size: facade(size, batch=False),
        full=1500,
        quick=500,
        peers=(
            Peer("map", "client.map of all at once, no limits", client_map, at_least(0.95)),
            Peer("loop", "client.map, 64 in flight, no limits", client_loop, at_least(0.95)),
        ),
    ),
    Row(
        "dask-plugin",
        "client.map without limits, LimitsWorkerPlugin registered",
        "calls/s",
        lambda size: client_map(size, plugin=True),
        full=1500,
        peers=(Peer("map", "client.map on plain workers", client_map),),
        rounds=3,
    ),
    Row(
        "dask-one",
        "client.submit, one at a time, annotated",
        "ms",
        lambda size: one_by_one(size, annotated=True),
        full=50,
        peers=(Peer("plain", "no limits", lambda n: one_by_one(n, annotated=False)),),
        rounds=3,
    ),
    Row(
        "dask-20ms",
        "calls that sleep for 20 ms, 64 in flight, limited",
        "ms",
        calls_of_20_ms,
        full=400,
        quick=150,
        peers=(Peer("ideal", "the ideal", 20.0, at_most(1.1)),),
    ),
    Row(
        "dask-array",
        "an array of {size} MB as argument and as result, limited",
        "s",
        array_limited,
        full=100,
        quick=100,
        peers=(Peer("plain", "client.submit, no limits", array_plain, at_least(0.9)),),
    ),
    Row(
        "dask-cancel",
        "from cancel() of a running call to the end of its process",
        "ms",
        lambda size: cancelled(size, gone),
        full=30,
        peers=(Peer("next", "to the result of the next task", lambda n: cancelled(n, next_done)),),
        rounds=3,
    ),
)
