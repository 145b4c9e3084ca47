"""What has become of limited calls, on its way from workers to those who look at them all together.

Nothing is sent while nobody looks: who looks asks each worker, which tells what has come since it
was asked last. What a worker keeps until then is bounded, and so is what the scheduler keeps.
"""

from __future__ import annotations

import bisect
import itertools
import math
from collections import Counter
from collections.abc import Iterable
from typing import Any, Final, NamedTuple, Self, TypeAlias

TELL: Final = "dask-limits-tell-ended"
"""The message by which the scheduler asks a worker."""
ENDED: Final = "dask-limits-ended"
"""The message by which it answers."""
AMOUNTS: Final = ("wall_time", "cpu_time", "memory", "num_processes")
"""What a call uses, by the names of the limits on it."""
SLOT_S: Final = 10
"""Seconds for which the calls that end are counted together."""
KEPT_S: Final = 3600
"""For how long it is known when calls have ended."""
MOST_FUNCTIONS: Final = 100
OTHERS: Final = "(others)"
"""The name of all functions that come after so many."""
MOST_FAILURES: Final = 10
"""How many calls are known by themselves that neither returned, nor raised, nor were cancelled."""
_ZERO: Final = -(10**6)  # the bin of nothing
_BINS: Final = 8  # for each power of two: an amount is known to 5 %

Slots: TypeAlias = Counter[tuple[int, str]]
"""How many calls ended in a slot of time, by ending. Slots are numbered from 1970."""


class Failure(NamedTuple):
    """A call that neither returned, nor raised, nor was cancelled.

    The `message` is a line; it and the stacks have what the call and its function have chosen.
    """

    at: float  # seconds since 1970
    function: str
    ending: str
    message: str
    stacks: str
    worker: str  # its name; empty where it came to none


class Spread:
    """How an amount is spread over calls.

    Attributes:
        largest: The largest amount.
        nearest: The amount that was the largest part of its limit, and that limit; None without.

    Example:
        >>> spread = Spread()
        >>> for amount in range(1, 101):
        ...     spread.add(amount, limit=200)
        >>> 48 < spread.quantile(0.5) < 53, spread.largest, spread.nearest
        (True, 100, (100, 200))
    """

    def __init__(self) -> None:
        self.largest = 0.0
        self.nearest: tuple[float, float] | None = None
        self._bins: Counter[int] = Counter()

    def add(self, amount: float, limit: float | None) -> None:
        """Add a call."""
        self._bins[math.floor(math.log2(amount) * _BINS) if amount > 0 else _ZERO] += 1
        self._add_extremes(amount, None if limit is None else (amount, limit))

    def _add_extremes(self, largest: float, nearest: tuple[float, float] | None) -> None:
        self.largest = max(self.largest, largest)
        if nearest is not None and (self.nearest is None or _share(nearest) > _share(self.nearest)):
            self.nearest = nearest

    def quantile(self, part: float) -> float:
        """The amount that so large a part of the calls did not exceed; 0 without any call."""
        return self.quantiles(part)[0]

    def quantiles(self, *parts: float) -> list[float]:
        """Several of these, in ascending order."""
        bins = sorted(self._bins)
        up_to = list(itertools.accumulate(map(self._bins.__getitem__, bins)))
        found = []
        for part in parts:
            at = bisect.bisect_left(up_to, part * up_to[-1]) if up_to else 0
            known = at < len(bins) and bins[at] > _ZERO
            found.append(min(2 ** ((bins[at] + 0.5) / _BINS), self.largest) if known else 0.0)
        return found

    @property
    def row(self) -> tuple[Any, ...]:
        """What to send of it."""
        return dict(self._bins), self.largest, self.nearest

    def add_row(self, row: tuple[Any, ...]) -> None:
        """Add what another one has sent."""
        bins, largest, nearest = row
        self._bins.update(bins)
        self._add_extremes(largest, None if nearest is None else tuple(nearest))


def _share(nearest: tuple[float, float]) -> float:
    return nearest[0] / nearest[1]


class Figures:
    """The calls of one function: how they ended, and how what they used is spread."""

    def __init__(self) -> None:
        self.endings: Counter[str] = Counter()
        self.spreads = {name: Spread() for name in AMOUNTS}


class ByFunction(dict[str, Figures]):
    """The calls of all functions, by the names of these."""

    def __missing__(self, name: str) -> Figures:
        if len(self) < MOST_FUNCTIONS or name == OTHERS:
            self[name] = Figures()
            return self[name]
        return self[OTHERS]

    def rows(self) -> Iterable[tuple[Any, ...]]:
        """What to send of them."""
        for name, figures in self.items():
            yield name, dict(figures.endings), [one.row for one in figures.spreads.values()]

    @classmethod
    def of(cls, n_calls: Counter[tuple[str, str]]) -> Self:
        """Those of which it is known how many ended in which way."""
        found = cls()
        for (name, ending), n in n_calls.items():
            found[name].endings[ending] += n
        return found

    def add_rows(self, rows: Iterable[tuple[Any, ...]]) -> None:
        """Add what others have sent."""
        for name, endings, spreads in rows:
            figures = self[name]
            figures.endings.update(endings)
            for spread, row in zip(figures.spreads.values(), spreads, strict=True):
                spread.add_row(row)


def slot_of(at: float) -> int:
    """The slot of a time in seconds since 1970."""
    return int(at // SLOT_S)


def forget_old(slots: Slots, now: float) -> None:
    """Leave out the slots that are older than `KEPT_S`."""
    oldest = slot_of(now - KEPT_S)
    for key in [key for key in slots if key[0] < oldest]:
        del slots[key]
