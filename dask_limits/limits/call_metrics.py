"""Counts calls of this process, for `/metrics`."""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from typing import Final

from dask_limits.limits.outcome import Usage

_MOST_FUNCTIONS: Final = 100
"""Functions with figures of their own; those that come later share the name `OTHERS`. Each takes
some 40 time series of Prometheus."""
OTHERS: Final = "(others)"
WALL_TIMES: Final = (0.001, 0.01, 0.1, 1.0, 10.0, 60.0, 600.0, 3600.0, 36000.0)
"""Bounds of the histogram of wall times, in seconds."""
PEAK_MEMORIES: Final = tuple(2.0**n for n in (20, 24, 27, 28, 29, 30, 31, 32, 33, 34, 36, 38))
"""Bounds of the histogram of peak memory, in bytes: 1 MiB to 256 GiB."""


class Histogram:
    """How many values there were up to each bound, and their sum."""

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)  # the last is of those above all bounds
        self.sum = 0.0

    def add(self, value: float) -> None:
        """Count a value."""
        self.counts[bisect_left(self.bounds, value)] += 1
        self.sum += value

    def buckets(self) -> list[tuple[str, float]]:
        """How many were no more than each bound, as Prometheus has it.

        Example:
            >>> histogram = Histogram((1.0, 10.0))
            >>> for value in (0.5, 1, 2, 20):
            ...     histogram.add(value)
            >>> histogram.buckets()
            [('1.0', 2), ('10.0', 3), ('+Inf', 4)]
        """
        names = [*map(str, self.bounds), "+Inf"]
        sums, total = [], 0
        for count in self.counts:
            total += count
            sums.append(total)
        return list(zip(names, sums, strict=True))


class CallMetrics:
    """What has become of the limited calls of this process.

    Attributes:
        ended: How many have ended, by function and ending.
        wall_times: Histograms by function.
        peak_memories: The same.
        reruns: How many calls ran again because something that ran them was lost.
    """

    def __init__(self) -> None:
        self.ended: Counter[tuple[str, str]] = Counter()
        self.wall_times: dict[str, Histogram] = {}
        self.peak_memories: dict[str, Histogram] = {}
        self.reruns = 0
        self._names: set[str] = set()

    # There is no lock, which a signal's handler could find held: with two threads at this, a count
    # may be lost now and then.

    def note(self, name: str, ending: str, usage: Usage | None) -> None:
        """A call has ended; None if it has not run."""
        if name not in self._names:
            name = self._named(name)
        self.ended[name, ending] += 1
        if usage is not None:
            self.wall_times[name].add(usage.wall_time)
            self.peak_memories[name].add(usage.peak_memory)

    def _named(self, name: str) -> str:
        """A new function's name, or that of all others."""
        if len(self._names) >= _MOST_FUNCTIONS:
            name = OTHERS
        self.wall_times.setdefault(name, Histogram(WALL_TIMES))
        self.peak_memories.setdefault(name, Histogram(PEAK_MEMORIES))
        self._names.add(name)
        return name


_kept: CallMetrics | None = None


def keep() -> CallMetrics:
    """Count calls from now on."""
    global _kept
    if _kept is None:
        _kept = CallMetrics()
    return _kept


def kept() -> CallMetrics | None:
    """What is counted; None if nobody asks for it."""
    return _kept
