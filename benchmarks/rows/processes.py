"""Many calls on this machine's processes."""

from __future__ import annotations

import itertools
import queue
import resource
import time
from concurrent.futures import FIRST_COMPLETED, Executor, Future, ProcessPoolExecutor, wait
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from benchmarks.functions import echo, spin
from benchmarks.row import Measure, Peer, Row, at_least, at_most
from benchmarks.timing import Isolation, Pace, limited, limits, paced, seconds
from dask_limits import PynisherPlugin, Scheduler

IN_FLIGHT = 32
WARM_UP = 100


def facade(size: int) -> float:
    return limited(Scheduler.with_processes(2), Pace(size, IN_FLIGHT), echo).per_second


def facade_without_limits(size: int) -> float:
    return paced(Scheduler.with_processes(2), Pace(size, IN_FLIGHT), echo, []).per_second


def facade_on_pool(size: int) -> float:
    with ProcessPoolExecutor(2) as pool:
        return paced(Scheduler(pool), Pace(size, IN_FLIGHT), echo, []).per_second


def loop(executor: Executor, pace: Pace) -> float:
    """What one would write by hand."""
    numbers = pace.numbers()
    pending: set[Future[Any]] = set()
    while True:
        for number in itertools.islice(numbers, pace.in_flight - len(pending)):
            pending.add(executor.submit(echo, number))
        if not pending:
            return pace.per_second
        done, pending = wait(pending, return_when=FIRST_COMPLETED)
        for future in done:
            future.result()
            pace.note_result()


def loop_on_pool(size: int) -> float:
    with ProcessPoolExecutor(2) as pool:
        return loop(pool, Pace(size, IN_FLIGHT))


def callbacks_on_pool(size: int) -> float:
    """The same without `wait`, which looks at all futures each time."""
    done: queue.SimpleQueue[Future[Any]] = queue.SimpleQueue()
    pace = Pace(size, IN_FLIGHT)
    with ProcessPoolExecutor(2) as pool:
        for submitted, number in enumerate(pace.numbers()):
            if submitted >= pace.in_flight:
                done.get().result()
                pace.note_result()
            pool.submit(echo, number).add_done_callback(done.put)
        for _ in range(pace.in_flight):
            done.get().result()
            pace.note_result()
    return pace.per_second


def amltk(size: int) -> float:
    import amltk.scheduling

    scheduler = amltk.scheduling.Scheduler.with_processes(2)
    return paced(scheduler, Pace(size, IN_FLIGHT), echo, []).per_second


def amltk_with_limits(size: int) -> float:
    import amltk.scheduling
    from amltk.scheduling.plugins.pynisher import PynisherPlugin as TheirPlugin

    scheduler = amltk.scheduling.Scheduler.with_processes(2)
    plugin = TheirPlugin(memory_limit=(4, "gb"), walltime_limit=(60, "s"))
    return paced(scheduler, Pace(1 + size // 50, IN_FLIGHT), echo, plugin).per_second


def ray_loop(size: int) -> float:
    import ray

    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False)
    call, pace = ray.remote(echo), Pace(size // 2, IN_FLIGHT)
    numbers = pace.numbers()
    pending = [call.remote(number) for number in itertools.islice(numbers, IN_FLIGHT)]
    while pending:
        done, pending = ray.wait(pending)
        ray.get(done)
        for _ in done:
            pace.note_result()
        pending += [call.remote(number) for number in itertools.islice(numbers, len(done))]
    return pace.per_second


def parsl_loop(size: int) -> float:
    from parsl import Config
    from parsl.concurrent import ParslPoolExecutor
    from parsl.executors import HighThroughputExecutor

    with TemporaryDirectory() as folder:
        workers = HighThroughputExecutor(max_workers_per_node=2, address="127.0.0.1")
        config = Config([workers], run_dir=folder, usage_tracking=0)
        with ParslPoolExecutor(config) as pool:
            return loop(pool, Pace(size // 4, IN_FLIGHT))


def mapped(size: int) -> float:
    scheduler = Scheduler.with_processes(2)
    task = scheduler.task(echo, plugins=limits())
    pace = Pace(size, IN_FLIGHT)
    scheduler.on_start(lambda: scheduler.map(task, pace.numbers()))
    task.on_result(lambda *_: pace.note_result())
    scheduler.run()
    return pace.per_second


def joblib_one_by_one(size: int) -> float:
    from joblib import Parallel, delayed

    pace = Pace(size, IN_FLIGHT)
    parallel = Parallel(2, batch_size=1, pre_dispatch=IN_FLIGHT, return_as="generator_unordered")
    for _ in parallel(delayed(echo)(number) for number in pace.numbers()):
        pace.note_result()
    return pace.per_second


def all_waiting(size: int) -> tuple[float, float]:
    """CPU time of the driver in us, and its memory in KiB, of each of many calls at one time."""
    scheduler = Scheduler.with_processes(2)
    task = scheduler.task(echo, plugins=limits())
    figures: list[float] = []

    def submit(calls: int) -> None:
        for number in range(calls):
            task.submit(number)

    @task.on_result
    def note(*_: object) -> None:
        done = task.event_counts[task.RESULT]
        if done == WARM_UP:
            before = resident_kib()
            figures.append(time.process_time())
            submit(size)
            figures.append(resident_kib() - before)
        elif done == WARM_UP + size:
            figures.append(time.process_time())

    scheduler.on_start(lambda: submit(WARM_UP))
    scheduler.run()
    start, memory, end = figures
    return (end - start) / size * 1e6, memory / size


def resident_kib() -> float:
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize() / 1024


def naps(size: int) -> float:
    scheduler = Scheduler.with_processes(size // 4)
    # All at once fit into the memory of a small machine, of which they reserve their limits.
    plugin = PynisherPlugin(walltime_limit=60, memory_limit="100 MiB")
    task = scheduler.task(time.sleep, plugins=plugin)
    scheduler.on_start(lambda: [task.submit(0.5) for _ in range(size)] and None)
    return seconds(scheduler.run)


def cold(size: int) -> float:
    """Milliseconds until the first of so many results."""
    start, first = time.perf_counter(), []
    scheduler = Scheduler.with_processes(2)
    task = scheduler.task(echo, plugins=limits())
    scheduler.on_start(lambda: task.submit(1) and None, repeat=size)
    task.on_result(lambda *_: first.append(time.perf_counter()))
    scheduler.run()
    return (first[0] - start) * 1000


def cold_pool(size: int) -> float:
    start = time.perf_counter()
    with ProcessPoolExecutor(2) as pool:
        futures = [pool.submit(echo, 1) for _ in range(size)]
        wait(futures, return_when=FIRST_COMPLETED)
        return (time.perf_counter() - start) * 1000


def calls_of_50_ms(isolation: Isolation) -> Measure:
    """Milliseconds for each call, as a core sees it."""

    def measure(size: int) -> float:
        scheduler = Scheduler.with_processes(2, preload=["sklearn.ensemble"])
        plugins = limits(isolation=isolation)
        return paced(scheduler, Pace(size, 2), spin, plugins, 0.05).seconds / size * 2 * 1000

    return measure


ROWS = (
    Row(
        "facade",
        "calls through a Scheduler, two processes, 32 in flight, limited",
        "calls/s",
        facade,
        full=8000,
        quick=3000,
        peers=(
            Peer("pool", "a loop over ProcessPoolExecutor(2)", loop_on_pool, at_least(1.5)),
            Peer("callbacks", "that loop with callbacks and a queue", callbacks_on_pool),
            Peer("amltk", "amltk's with_processes, no limits", amltk, at_least(2.5)),
            Peer("amltk-limits", "amltk with its PynisherPlugin", amltk_with_limits, at_least(60)),
            Peer("ray", "Ray, two CPUs, a ray.wait loop, no limits", ray_loop, at_least(8)),
            Peer("parsl", "the loop over Parsl's HTEX, two workers, no limits", parsl_loop),
            Peer("unlimited", "itself without limits", facade_without_limits),
            Peer("on-pool", "itself on a ProcessPoolExecutor, no limits", facade_on_pool),
        ),
    ),
    Row(
        "map",
        "Scheduler.map of {size:,} limited calls, two processes",
        "calls/s",
        mapped,
        full=100_000,
        quick=5000,
        peers=(Peer("joblib", "joblib's loky, batch_size=1", joblib_one_by_one, at_least(5)),),
        rounds=3,
    ),
    Row(
        "waiting",
        "CPU time of the driver a call, {size:,} waiting",
        "us",
        lambda size: all_waiting(size)[0],
        full=100_000,
        quick=20_000,
        peers=(
            Peer("2000", "2,000 waiting", lambda n: all_waiting(min(n, 2000))[0], at_most(1.2)),
        ),
        rounds=3,
    ),
    Row(
        "waiting-memory",
        "memory of the driver a call, {size:,} waiting",
        "KiB",
        lambda size: all_waiting(size)[1],
        full=100_000,
        quick=20_000,
        goal=at_most(2),
        rounds=1,
    ),
    Row(
        "naps",
        "{size} naps of 0.5 s, four to each limited process",
        "s",
        naps,
        full=256,
        quick=256,
        tiny=8,
        peers=(Peer("ideal", "the ideal", 2.0, at_most(1.1)),),
        rounds=3,
    ),
    Row(
        "cold",
        "first result of a cold with_processes(2), limited",
        "ms",
        cold,
        full=2,
        quick=2,
        peers=(Peer("pool", "a cold ProcessPoolExecutor(2)", cold_pool, at_most(1.5)),),
    ),
    Row(
        "clean",
        "calls of 50 ms in clean processes, scikit-learn preloaded, two at a time",
        "ms",
        calls_of_50_ms("clean"),
        full=100,
        quick=40,
        peers=(
            Peer("ideal", "the ideal", 50.0, at_most(1.06)),
            Peer("warm", "in warm processes", calls_of_50_ms("warm")),
        ),
    ),
)
