"""Ways to measure that rows share."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any, Final, Literal

from dask_limits import PynisherPlugin, Scheduler

Isolation = Literal["clean", "warm", "fresh", "thread"]
LIMITS: Final[Any] = {"wall_time": 60, "memory": "1 GiB"}
"""Of a limited call."""


def seconds(call: Callable[[], object]) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def each_us(call: Callable[[], object], times: int) -> float:
    """Microseconds of each of so many calls, one after the other, once they are warm."""
    for _ in range(1 + times // 10):
        call()
    start = time.perf_counter()
    for _ in range(times):
        call()
    return (time.perf_counter() - start) / times * 1e6


class Pace:
    """How long calls take that are kept in flight: from the end of the warm-up to the last result.

    Args:
        calls: How many there are to measure. A tenth as many, and as many as are in flight, come
            before these.
        in_flight: How many.
    """

    def __init__(self, calls: int, in_flight: int) -> None:
        self.calls, self.in_flight = calls, in_flight
        self._warm_up = in_flight + calls // 10
        self._done = 0
        self._start = self._end = 0.0

    def numbers(self) -> Iterator[int]:
        """What to submit: all numbers, one after the other."""
        return iter(range(self._warm_up + self.calls))

    def note_result(self) -> None:
        self._done += 1
        if self._done == self._warm_up:
            self._start = time.perf_counter()
        self._end = time.perf_counter()

    @property
    def seconds(self) -> float:
        """Of all calls after the warm-up."""
        assert self._done == self._warm_up + self.calls
        return self._end - self._start

    @property
    def per_second(self) -> float:
        return self.calls / self.seconds


def limits(isolation: Isolation = "clean") -> list[PynisherPlugin]:
    """The plugins of a task whose calls have limits."""
    return [PynisherPlugin(walltime_limit=60, memory_limit="1 GiB", isolation=isolation)]


def paced(
    scheduler: Any, pace: Pace, function: Callable[..., object], plugins: Any, *args: object
) -> Pace:
    """Run calls through our scheduler, or amltk's: each result submits the next, as in a search.

    Without `args`, each call has its number.
    """
    task = scheduler.task(function, plugins=plugins)
    numbers = pace.numbers()

    def submit_next(*_: object) -> None:
        if (number := next(numbers, None)) is not None:
            task.submit(*(args or (number,)))

    def note(*_: object) -> None:
        pace.note_result()
        submit_next()

    scheduler.on_start(submit_next, repeat=pace.in_flight)
    task.on_result(note)
    scheduler.run()
    return pace


def limited(scheduler: Scheduler, pace: Pace, function: Callable[..., object], *args: Any) -> Pace:
    """Run calls with limits."""
    return paced(scheduler, pace, function, limits(), *args)
