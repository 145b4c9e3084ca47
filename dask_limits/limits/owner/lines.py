"""Calls of a dispatcher that wait for what they reserve."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from typing import Generic, TypeVar

from dask_limits.limits.owner.account import Account
from dask_limits.limits.owner.group import Call
from dask_limits.limits.owner.reservation import Reservation, Slots
from dask_limits.placement.resources import Request

C = TypeVar("C", bound=Call)


class Line(Generic[C]):
    """Calls that reserve the same, in order.

    The first one waits for that and the others for their turn: so of however many calls few wait
    in the account, and those that come from a line can go together.
    """

    def __init__(self, request: Request, calls: Iterable[C]) -> None:
        self.request = request
        self.calls = deque(calls)
        self.asked: Reservation | None = None  # of the first one, until it can begin

    def drop_cancelled(self) -> None:
        """Have the first one be one that is not cancelled."""
        while self.calls and self.calls[0].cancel.cancelled:
            self.calls.popleft()

    def take_reservation(self) -> Reservation | None:
        """What the first one has got. A line that kept it would be kept by it, with its calls."""
        reservation, self.asked = self.asked, None
        return reservation


class Lines(Generic[C]):
    """All lines of a dispatcher. One thread uses them, and any may call `wake`.

    Attributes:
        granted: Those whose first call can begin now: it has what it reserves, and a slot.
    """

    def __init__(self, account: Account, slots: Slots, wake: Callable[[], object]) -> None:
        self._account = account
        self._slots = slots
        self._wake = wake
        self._by_request: dict[Request, Line[C]] = {}
        self.granted: deque[Line[C]] = deque()

    def __bool__(self) -> bool:
        return bool(self._by_request)

    def reserve(self, request: Request, calls: list[C]) -> Reservation | None:
        """Reserve for calls that go together, with a slot. None if they wait in their line."""
        line = self._by_request.get(request)
        if line is None:
            line = Line(request, calls)
            if self._ask(line):
                return line.take_reservation()
            self._by_request[request] = line
        elif line.calls and calls[0].order < line.calls[0].order:  # they were given back
            line.calls.extendleft(reversed(calls))
        else:
            line.calls.extend(calls)
        return None

    def _ask(self, line: Line[C]) -> bool:
        def tell() -> None:
            self.granted.append(line)
            self._wake()

        line.asked = Reservation(line.request, tell, self._slots, line.calls[0].order)
        return self._account.take(line.asked)

    def go_on(self, line: Line[C]) -> None:
        """After calls of a line have begun, have the next one wait."""
        line.drop_cancelled()
        if not line.calls:
            del self._by_request[line.request]
        elif self._ask(line):
            self.granted.append(line)

    def drop_cancelled(self) -> None:
        """Have the account forget lines whose calls are all cancelled."""
        for line in list(self._by_request.values()):
            line.drop_cancelled()
            if not line.calls and (line.asked is None or self._account.withdraw(line.asked)):
                del self._by_request[line.request]  # else it is among those that are granted

    def take_all(self) -> list[C]:
        """Empty all lines."""
        calls = [call for line in self._by_request.values() for call in line.calls]
        for line in self._by_request.values():
            line.calls.clear()
        self.drop_cancelled()
        return calls
