"""What a call of this machine holds of its memory and cores while it runs."""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Callable
from typing import Final

from dask_limits.limits.limits import Limits
from dask_limits.placement.resources import Request

numbers: Final = itertools.count()
"""The order of calls: lower goes first."""


def request_of(limits: Limits) -> Request | None:
    """What a call with these limits reserves of this machine; None if nothing.

    Unlike on a worker of Dask, a call that names no cores reserves none: how many of them run is
    up to who starts them. A call in its caller's thread takes what the program itself has.
    """
    global _last
    its, request = _last
    if limits is not its:
        if limits.reserves and limits.isolation != "thread":
            request = Request(limits.memory or 0, limits.cores or 0)
        else:
            request = None
        _last = limits, request
    return request


_last: tuple[Limits, Request | None] = Limits(), None
"""The last limits, which are those of most calls, and what they reserve."""


class Slots:
    """Places for calls of which only so many run at a time: one in `free` for each more."""

    def __init__(self, number: int) -> None:
        self.free: deque[None] = deque([None] * number)


class Reservation:
    """What a call holds, or waits for.

    Attributes:
        slots: Where it is to run, and takes one of them with it; None where any number can.
        tell: Is called when it is granted later, by any thread, which has the account locked. It
            must be set if it waits.
        is_granted: Whether it holds what it asks for.
    """

    __slots__ = ("beside", "is_granted", "order", "request", "slots", "tell")

    def __init__(
        self,
        request: Request,
        tell: Callable[[], object] | None = None,
        slots: Slots | None = None,
        order: int | None = None,
    ) -> None:
        self.request = request
        self.tell = tell
        self.slots = slots
        self.order = next(numbers) if order is None else order
        self.is_granted = False
        self.beside = 0  # the claim of another program that it has started beside
