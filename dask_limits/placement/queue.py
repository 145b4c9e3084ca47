"""A queue of waiting calls in which the first one that fits is found quickly."""

from __future__ import annotations

import itertools
from bisect import bisect_left, insort
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from dask_limits.placement.resources import FreeResources, Request

_BLOCK_SIZE: Final = 64
"""Calls in a block; at most twice as many. With 10,000 waiting calls that all have different
limits, placing the next one after a call has ended takes some 40 us on four workers."""

_numbers = itertools.count()


@dataclass(slots=True, eq=False)
class WaitingCall:
    """A call that waits for a worker.

    Attributes:
        order: Lower goes first; among equals, the one that came first.
        where: Which workers it may run on, in a form that only the caller understands. Calls with
            the same value share a queue.
        place: Its place in the queue, which no other call has.
    """

    key: Hashable
    request: Request
    order: Any
    where: Hashable = None
    place: tuple[Any, int] = field(init=False)

    def __post_init__(self) -> None:
        self.place = self.order, next(_numbers)

    def fits(self, free: Iterable[FreeResources]) -> bool:
        """Whether one of these is enough."""
        return _fits_any(free, self.request)


class Queue:
    """Waiting calls, in order.

    The queue is divided into blocks, each of which knows the least of each resource that its calls
    ask for. A block in which nothing can fit is skipped at once, so thousands of calls with
    different limits cost no more than equal ones.
    """

    def __init__(self) -> None:
        self._blocks: list[_Block] = []

    @property
    def head(self) -> WaitingCall | None:
        """The first call, whether it fits or not."""
        return self._blocks[0].calls[0] if self._blocks else None

    def add(self, call: WaitingCall) -> None:
        """Put a call into its place."""
        if not self._blocks:
            self._blocks.append(_Block([call]))
            return
        at = min(self._block_of(call.place), len(self._blocks) - 1)
        block = self._blocks[at]
        block.add(call)
        if len(block.calls) > 2 * _BLOCK_SIZE:
            half = block.calls[_BLOCK_SIZE:]
            self._blocks[at : at + 1] = [_Block(block.calls[:_BLOCK_SIZE]), _Block(half)]

    def remove(self, call: WaitingCall) -> None:
        """Take out a call that waits here."""
        at = self._block_of(call.place)
        block = self._blocks[at]
        block.remove(call)
        if not block.calls:
            del self._blocks[at]

    def first(
        self, free: Sequence[FreeResources], after: WaitingCall | None = None
    ) -> WaitingCall | None:
        """The first call, behind `after`, for which one of these is enough."""
        if not free:
            return None
        start = 0 if after is None else self._block_of(after.place)
        for block in itertools.islice(self._blocks, start, None):
            if not _fits_any(free, block):
                continue
            for call in block.calls:
                if call.fits(free) and (after is None or call.place > after.place):
                    return call
        return None

    def _block_of(self, place: tuple[Any, int]) -> int:
        """The first block whose last call is not before this place."""
        return bisect_left(self._blocks, place, key=lambda block: block.calls[-1].place)


def _fits_any(free: Iterable[FreeResources], request: Request | _Block) -> bool:
    # A loop instead of any(): most of the time goes here when thousands of calls wait.
    for memory, cores, seconds in free:
        if request.memory <= memory and request.cores <= cores and request.seconds <= seconds:
            return True
    return False


class _Block:
    """Some calls, in order, and the least of each resource that any of them asks for."""

    __slots__ = ("calls", "cores", "memory", "seconds")

    def __init__(self, calls: list[WaitingCall]) -> None:
        self.calls = calls
        self._find_least()

    def _find_least(self) -> None:
        self.memory = min(call.request.memory for call in self.calls)
        self.cores = min(call.request.cores for call in self.calls)
        self.seconds = min(call.request.seconds for call in self.calls)

    def add(self, call: WaitingCall) -> None:
        insort(self.calls, call, key=lambda one: one.place)
        request = call.request
        self.memory = min(self.memory, request.memory)
        self.cores = min(self.cores, request.cores)
        self.seconds = min(self.seconds, request.seconds)

    def remove(self, call: WaitingCall) -> None:
        del self.calls[bisect_left(self.calls, call.place, key=lambda one: one.place)]
        request = call.request
        if not self.calls or request in (self.calls[0].request, self.calls[-1].request):
            return  # most often all calls ask for the same
        if (
            request.memory == self.memory
            or request.cores == self.cores
            or request.seconds == self.seconds
        ):
            self._find_least()
