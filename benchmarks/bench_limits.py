"""How late limits are, what watching costs, and how long large arguments take."""

from __future__ import annotations

import concurrent.futures
import statistics
import threading
import time
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import pebble
import psutil
import pynisher
from measure import compare
from rich.console import Console
from rich.table import Table

from dask_limits import limit
from dask_limits.limits.owner.guardian import default_guardian

RATE = 1_000_000_000
"""The growth of memory, in bytes per second."""
MEGABYTES = 300


def spin() -> None:
    while True:
        pass


def grow() -> None:
    blocks, block, start = [], 4_000_000, time.perf_counter()
    while True:
        blocks.append(b"x" * block)
        ahead = len(blocks) * block / RATE - (time.perf_counter() - start)
        if ahead > 0:
            time.sleep(ahead)


def ignore(data: Any) -> None:
    pass


def late_ms(call: Callable[[], object], limit_s: float) -> float:
    start = time.perf_counter()
    call()
    return (time.perf_counter() - start - limit_s) * 1000


def by_pynisher(function: Callable[..., object], *args: object, **limits: int) -> None:
    try:
        pynisher.limit(function, **limits)(*args)
    except pynisher.PynisherException:
        pass


def overshoots() -> None:
    table = Table("", "tries", "median", "worst", title="How far a call goes over its limit")

    def row(name: str, figures: Iterable[float], unit: str = "ms") -> None:
        found = list(figures)
        cells = [f"{x:.1f} {unit}" for x in (statistics.median(found), max(found))]
        table.add_row(name, str(len(found)), *cells)

    limit(abs, wall_time=60)(1)  # the first call starts the guardian
    for isolation in ("warm", "fresh"):
        nap = limit(time.sleep, wall_time=0.1, isolation=isolation)
        row(f"wall time, {isolation}", (late_ms(lambda: nap.run(60), 0.1) for _ in range(100)))  # noqa: B023
    with pebble.ProcessPool(1) as pool:
        nap_there = lambda: pool.schedule(time.sleep, args=[60], timeout=0.1).exception()  # noqa: E731
        pool.schedule(abs, args=[1]).result()
        row("wall time, pebble", (late_ms(nap_there, 0.1) for _ in range(20)))
    row(
        "wall time, pynisher",
        (late_ms(lambda: by_pynisher(time.sleep, 60, wall_time=1), 1) for _ in range(3)),
    )
    for isolation in ("warm", "fresh"):
        busy = limit(spin, cpu_time=0.2, isolation=isolation)
        used = (busy.run().usage.cpu_time for _ in range(20))
        row(f"CPU time, {isolation}", (1000 * (cpu_time - 0.2) for cpu_time in used))
    row(
        "CPU time, pynisher",
        (late_ms(lambda: by_pynisher(spin, cpu_time=1), 1) for _ in range(5)),
    )
    for isolation in ("warm", "fresh"):
        greedy = limit(grow, memory=500_000_000, isolation=isolation)
        had = (greedy.run().usage.peak_memory for _ in range(10))
        row(f"memory, {isolation}", ((memory / 500_000_000 - 1) * 100 for memory in had), "%")
    Console().print(table)


def watching() -> None:
    table = Table(
        "calls that sleep", "CPU of the guardian, % of a core", title="What watching costs"
    )
    for calls in (1, 10, 100):
        nap = limit(time.sleep, wall_time=60, cpu_time=60, memory="1 GiB")
        threads = [threading.Thread(target=nap.run, args=[12]) for _ in range(calls)]
        for thread in threads:
            thread.start()
        time.sleep(6)
        connection = default_guardian()._connection
        assert connection is not None
        (guardian,) = psutil.Process(connection.pid).children()
        before = guardian.cpu_times()
        time.sleep(4)
        after = guardian.cpu_times()
        used = after.user + after.system - before.user - before.system
        table.add_row(str(calls), f"{used / 4 * 100:.2f}")
        for thread in threads:
            thread.join()
    Console().print(table)


def transfers() -> None:
    data = np.ones(MEGABYTES * 1_000_000 // 8)
    send, fetch = limit(ignore, wall_time=60), limit(np.ones, wall_time=60)
    under_pynisher = pynisher.limit(ignore, wall_time=60)
    with concurrent.futures.ProcessPoolExecutor(1) as stdlib, pebble.ProcessPool(1) as pool:
        compare(
            f"An array of {MEGABYTES} MB as an argument",
            "ms",
            {
                "dask_limits.limit": lambda: late_ms(lambda: send(data), 0),
                "stdlib pool (no limits)": lambda: late_ms(
                    lambda: stdlib.submit(ignore, data).result(), 0
                ),
                "pebble": lambda: late_ms(lambda: pool.schedule(ignore, args=[data]).result(), 0),
                "pynisher (fork: no copy)": lambda: late_ms(lambda: under_pynisher(data), 0),
            },
        )
        back = pynisher.limit(np.ones, wall_time=60)
        compare(
            f"An array of {MEGABYTES} MB as a result, including making it",
            "ms",
            {
                "dask_limits.limit": lambda: late_ms(lambda: fetch(data.size), 0),
                "stdlib pool (no limits)": lambda: late_ms(
                    lambda: stdlib.submit(np.ones, data.size).result(), 0
                ),
                "pebble": lambda: late_ms(
                    lambda: pool.schedule(np.ones, args=[data.size]).result(), 0
                ),
                "pynisher (fork)": lambda: late_ms(lambda: back(data.size), 0),
            },
        )


if __name__ == "__main__":
    watching()
    overshoots()
    transfers()
