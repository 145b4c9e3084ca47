"""How far calls go over their limits, and what watching them costs."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

import psutil

from benchmarks.functions import grow, spin
from benchmarks.row import Peer, Row, at_most
from benchmarks.timing import Isolation, seconds
from dask_limits import limit

GROWTH = 1_000_000_000
"""Bytes per second."""
MEMORY = 500_000_000


def worst(call: Callable[[], float], tries: int) -> float:
    call()  # the first starts what there is to start
    return max(call() for _ in range(tries))


def late_ms(call: Callable[[], object], limit_s: float) -> float:
    return (seconds(call) - limit_s) * 1000


def wall_time(size: int, isolation: Isolation = "clean") -> float:
    nap = limit(time.sleep, wall_time=0.1, isolation=isolation)
    return worst(lambda: late_ms(lambda: nap.run(60), 0.1), size)


def wall_time_of_pebble(size: int) -> float:
    import pebble

    with pebble.ProcessPool(1) as pool:

        def nap() -> None:
            pool.schedule(time.sleep, args=[60], timeout=0.1).exception()

        return worst(lambda: late_ms(nap, 0.1), 1 + size // 5)


def of_pynisher(function: Callable[..., object], *args: object, **limits: int) -> float:
    """Milliseconds over a limit of a second."""
    import pynisher

    def call() -> None:
        try:
            pynisher.limit(function, context="fork", **limits)(*args)
        except pynisher.PynisherException:
            pass

    return late_ms(call, 1)


def cpu_time(size: int, isolation: Isolation = "clean") -> float:
    busy = limit(spin, cpu_time=0.2, isolation=isolation)
    return worst(lambda: (busy.run().usage.cpu_time - 0.2) * 1000, size)


def memory(size: int, isolation: Isolation = "clean") -> float:
    greedy = limit(grow, memory=MEMORY, isolation=isolation)
    return worst(lambda: (greedy.run(GROWTH).usage.peak_memory / MEMORY - 1) * 100, size)


def watching(milliseconds: int, calls: int) -> float:
    """What our processes take while calls sleep, in percent of a core, the driver included."""
    nap = limit(time.sleep, wall_time=60, cpu_time=60, memory="1 GiB")
    for _ in range(calls):
        threading.Thread(target=nap.run, args=[50], daemon=True).start()
    time.sleep(milliseconds * 1.5 / 1000)  # after five seconds, calls are looked at more rarely
    before = cpu_seconds()
    time.sleep(milliseconds / 1000)
    return (cpu_seconds() - before) / milliseconds * 1000 * 100


def cpu_seconds() -> float:
    """Of this process and all below it."""
    here = psutil.Process()
    times = [process.cpu_times() for process in (here, *here.children(recursive=True))]
    return sum(one.user + one.system for one in times)


ROWS = (
    Row(
        "overshoot-wall",
        "wall time over its limit, worst of {size}",
        "ms",
        wall_time,
        full=100,
        quick=10,
        goal=at_most(20),
        peers=(
            Peer("fresh", 'isolation="fresh"', lambda n: wall_time(n, "fresh")),
            Peer("pebble", "pebble, worst of a fifth as many", wall_time_of_pebble),
            Peer("pynisher", "pynisher, once", lambda n: of_pynisher(time.sleep, 60, wall_time=1)),
        ),
        rounds=1,
    ),
    Row(
        "overshoot-cpu",
        "CPU time over its limit, worst of {size}",
        "ms",
        cpu_time,
        full=100,
        quick=5,
        goal=at_most(30),
        peers=(
            Peer("fresh", 'isolation="fresh"', lambda n: cpu_time(n, "fresh")),
            Peer("pynisher", "pynisher, once", lambda n: of_pynisher(spin, cpu_time=1)),
        ),
        rounds=1,
    ),
    Row(
        "overshoot-memory",
        "memory that grows by 1 GB/s over its limit of 500 MB, worst of {size}",
        "%",
        memory,
        full=100,
        quick=3,
        tiny=1,
        goal=at_most(3),
        peers=(Peer("fresh", 'isolation="fresh"', lambda n: memory(n, "fresh")),),
        rounds=1,
    ),
    Row(
        "watching-1",
        "watching one call that sleeps",
        "% of a core",
        lambda size: watching(size, 1),
        full=4000,
        quick=4000,
        tiny=10,
        goal=at_most(0.5),
        rounds=3,
    ),
    Row(
        "watching-100",
        "watching 100 calls that sleep",
        "% of a core",
        lambda size: watching(size, 100),
        full=4000,
        quick=4000,
        tiny=10,
        goal=at_most(4),
        rounds=3,
    ),
)
