"""Follows the memory of a call: what its processes have beyond what was there before it.

The resident size, which is read at each look, tells how much they have grown. That is too little
where the call writes to pages that its process has in common with the one that it was forked from:
each becomes a page of its own, and none is added. It is too much for pages that several processes
of the call have in common, and for objects that it shares with other calls, which count for none.
So where it decides, the pages themselves are counted.
"""

from __future__ import annotations

import math
import time
from typing import Final, NamedTuple

from dask_limits.limits.linux import proctree
from dask_limits.limits.linux.proctree import Process

_DECIDING_SHARE: Final = 0.05
"""Share of the guardian's time for counting pages of one call if that can decide on a breach. It
takes 0.03 ms for a small process, and 5 ms for each GiB."""
_REPORTING_SHARE: Final = 0.02
"""The same if it only makes the reported figure more exact."""
_EXACT_ENOUGH: Final = 2**20
"""Bytes, and a sixteenth of the peak, by which the reported figure may be wrong."""


class MemoryBefore(NamedTuple):
    """What there was before a call, in the process that runs it and those that exist for that."""

    resident: int  # bytes, as the next two
    own: int  # those of them that no other process had
    anonymous: int  # those of neither files nor shared memory
    faults: int  # page faults


class _Then(NamedTuple):
    """A process at the last count of its pages, or when it was first seen since."""

    resident: int
    faults: int
    own: int  # bytes that count
    anonymous: int
    unknown: int = 0  # bytes that may count, too


class CallMemory:
    """The memory of one call in bytes, as it is seen from outside.

    `shared` are the inodes of the files that its owner has lent it: they do not count.
    """

    def __init__(
        self, before: MemoryBefore, runner: int, limit: float, shared: frozenset[int]
    ) -> None:
        self._before = before
        self._runner = runner  # the pid of the process that runs the function
        self._limit = limit
        self._shared = shared
        self.now = self.peak = 0
        self.most = 0  # that it can have now
        self._then = {runner: _Then(before.resident, before.faults, before.own, before.anonymous)}
        self._in_common = before.resident - before.own
        self._beside = -before.own  # what there is of it beside what its processes own
        self._copied = 0  # bytes of pages that were there before, and are copies by now
        self._ended_at, self._took = -math.inf, 0.0  # seconds; of CPU time

    def look(self, processes: list[Process], now: float) -> None:
        """Take in what was read of its processes."""
        resident = {p.pid: p.resident for p in processes}
        found, unknown, faults = self._beside, 0, 0
        for process in processes:
            then = self._then.get(process.pid)
            if then is None:
                # A fork has what its parent has. How much of that is its own, only pages tell.
                own = max(process.resident - resident.get(process.parent, 0), 0)
                then = _Then(process.resident, 0, own, own, process.resident - own)
                self._then[process.pid] = then
            grown = process.resident - then.resident
            if self._shared:  # it may have memory of its own now in place of what was lent
                grown = max(grown, proctree.anonymous_memory(process.pid) - then.anonymous)
            found += max(then.own + grown, 0)
            unknown += then.unknown
            faults += process.faults - then.faults
        # Each page that was written anew has taken a fault.
        written = min(faults * proctree.PAGE, self._in_common)
        self.most = max(found + unknown + written, 0)
        self.now = max(found, 0)
        # Several may share what they have gained; or it may be what is lent.
        is_exact = len(processes) == 1 and not self._shared
        if self._is_due(now):
            self._count(processes)
            is_exact = True
        if is_exact:
            self.peak = max(self.peak, self.now)

    def _is_due(self, now: float) -> bool:
        """Whether to count the pages now."""
        rest = now - self._ended_at
        if self.most > self._limit:
            return self.now > self._limit or rest * _DECIDING_SHARE >= self._took
        return not self._is_exact_enough and rest * _REPORTING_SHARE >= self._took

    @property
    def _is_exact_enough(self) -> bool:
        return self.most <= self.peak + self.peak / 16 + _EXACT_ENOUGH

    @property
    def is_settled(self) -> bool:
        """Whether to count the pages would tell nothing more, as long as no process runs."""
        return self.most <= self._limit and self._is_exact_enough

    def _count(self, processes: list[Process]) -> None:
        """Count the pages that the call has, shared ones once."""
        cpu_time = time.process_time()
        layout = {p.pid: p.layout for p in processes}.get(self._runner)
        lent = []
        self._then, self._in_common = {}, 0
        total = anonymous = shared = 0
        for process in processes:
            pages = proctree.pages_of(process.pid, self._shared)
            # A fork of the runner has pages in common with it, and with what that is a fork of.
            own = pages.private + (0 if process.layout == layout else pages.share)
            self._then[process.pid] = _Then(pages.resident, process.faults, own, pages.anonymous)
            self._in_common += pages.resident - pages.private - pages.shared
            total += own
            anonymous += pages.anonymous
            shared = max(shared, pages.anonymous - pages.private)
            lent.append(pages.lent)
        found = total - self._before.own
        if len(processes) == 1:
            self._copied = max(found - (anonymous - self._before.anonymous), 0)
        else:
            found = max(found, total + shared - self._before.anonymous + self._copied)
        self.now = max(min(found + _once(lent), self.most), 0)
        self._beside = self.now - total
        self._ended_at = time.monotonic()
        self._took = time.process_time() - cpu_time


def _once(lent: list[int]) -> int:
    """Bytes of memory that processes share, by how much more each has mapped than is its share."""
    most = max(lent)
    # One of two may be no process of the call; those that share much less share something else.
    sharers = max(sum(2 * one > most for one in lent), 2)
    return most * sharers // (sharers - 1)
