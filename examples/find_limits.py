"""Find the memory limit that the calls of a function need.

Each call begins with a low limit. One that goes over it runs again with twice as much, and in the
end this says which limit would have been enough for all. Put your own function in place of `work`,
and run it with

    python examples/find_limits.py 10 20 40 80 --first 16MiB
"""

from __future__ import annotations

import argparse
from typing import Any

from dask_limits import PynisherPlugin, Retry, Scheduler
from dask_limits.units import format_bytes

TO_SPARE = 4 / 3
"""Calls do not take exactly the same each time."""


def work(size: int) -> int:
    """Take so many MiB of memory: a stand-in for your function."""
    return len(b"x" * size * 2**20)


def peaks(sizes: list[int], first: str) -> dict[int, int]:
    """Run a call for each size, and return the bytes that each had at most."""
    scheduler = Scheduler.with_processes()
    limits = PynisherPlugin(memory=first, wall_time="10 m")
    task = scheduler.task(work, plugins=[limits, Retry(max_retries=10, memory_factor=2)])
    size_of: dict[Any, int] = {}
    found: dict[int, int] = {}

    @scheduler.on_start
    def begin() -> None:
        scheduler.map(task, sizes)

    @task.on_submitted
    def note(future: Any, size: int) -> None:
        size_of[future] = size

    @task.on_result
    def keep(future: Any, _: int) -> None:
        size, peak = size_of[future], future.usage.peak_memory
        found[size] = peak
        print(f"work({size}) had {format_bytes(peak)}, in attempt {future.attempts}")

    scheduler.run()
    return found


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("sizes", type=int, nargs="+", help="the arguments of the calls")
    parser.add_argument("--first", default="16MiB", help="the limit of the first attempts")
    options = parser.parse_args()
    most = max(peaks(options.sizes, options.first).values())
    print(f"memory={format_bytes(round(most * TO_SPARE))!r} would be enough, with some to spare")
