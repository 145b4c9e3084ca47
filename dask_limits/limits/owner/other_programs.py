"""What other programs of this user have of the machine, and what one has to leave to them."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from typing import Final

from dask_limits.limits.owner.capacity import Capacity
from dask_limits.limits.owner.reservation import Reservation
from dask_limits.limits.owner.shared_account import Row, SharedAccount
from dask_limits.placement.resources import Request

NOTHING: Final = Request(cores=0)
_TRY_S: Final = 1.0  # how often to try to open the shared account where that has failed


class OtherPrograms:
    """The side of one program's account that looks at those of the others.

    Where there can be no account of all programs, there are no others.
    """

    def __init__(self, capacity: Callable[[], Capacity]) -> None:
        self._capacity = capacity
        self._shared: SharedAccount | None = None
        self._next_try = 0.0  # seconds of time.monotonic()
        self._ticket, self._claimed = 0, NOTHING  # the claim of this program
        self.beside = 0  # the claim of another one, and what has started here beside it:
        self._memory_beside = self._cores_beside = 0

    def is_alone(self) -> bool:
        """Whether no other program is there. If one comes, it sees what this one holds."""
        return self._shared is not None and self._shared.is_alone()

    def hold(self, memory: int, cores: int) -> None:
        """Tell the others what this program holds, where nothing else has changed."""
        if self._shared is not None:
            self._shared.hold(memory, cores)

    def lock(self) -> None:
        """Keep other programs from starting calls, until `unlock`.

        The file of the account is opened anew if it was removed, or if this program has another
        user now.
        """
        if self._shared is not None and not self._shared.is_good():
            self.leave()
        if self._shared is None and (now := time.monotonic()) >= self._next_try:
            self._next_try = now + _TRY_S
            with contextlib.suppress(OSError):
                self._shared = SharedAccount(self._capacity())
        if self._shared is not None:
            self._shared.lock()

    def unlock(self) -> None:
        """Let them go on."""
        if self._shared is not None:
            self._shared.unlock()

    def void_the_dead(self) -> None:
        """Forget programs that have ended. It is locked."""
        if self._shared is not None:
            self._shared.void_the_dead()

    def have(self, memory: int, cores: int) -> Request:
        """What is not there for calls of this program, which holds so much. It is locked.

        Other programs hold it; or it is kept for a call of another program, which has waited for
        longer: calls start beside that one only if together they leave room for it.
        """
        if self._shared is None or not (rows := self._shared.others()):
            self.beside = 0
            return NOTHING
        claims = [row for row in rows if row.ticket and not 0 < self._ticket < row.ticket]
        first = min(claims, key=lambda row: row.ticket, default=Row())
        if self.beside != first.ticket:
            self.beside = first.ticket
            self._memory_beside = self._cores_beside = 0
        their_memory, their_cores = sum(row.memory for row in rows), sum(row.cores for row in rows)
        if first.ticket:
            beside = [row for row in rows if row.backfilled == first.ticket]
            kept = first.claimed_memory + sum(row.backfilled_memory for row in beside)
            their_memory = max(their_memory, kept + self._memory_beside - memory)
            kept = first.claimed_cores + sum(row.backfilled_cores for row in beside)
            their_cores = max(their_cores, kept + self._cores_beside - cores)
        return Request(their_memory, their_cores)

    def count(self, one: Reservation, sign: int) -> None:
        """Count what a call holds that has started beside a claim; not any more, if negative."""
        if self.beside and one.beside == self.beside:
            self._memory_beside += sign * one.request.memory
            self._cores_beside += sign * one.request.cores

    def claim(self, request: Request | None) -> None:
        """Claim what the first call needs that waits here; None if none does. It is locked."""
        self._claimed = request or NOTHING
        if request is None:
            self._ticket = 0
        elif not self._ticket and self._shared is not None:
            self._ticket = self._shared.next_ticket()

    def tell(self, memory: int, cores: int) -> None:
        """Tell the others what this program holds, and what it claims."""
        if self._shared is not None:
            self._shared.hold(memory, cores)
            self._shared.claim(
                self._ticket,
                self._claimed.memory,
                self._claimed.cores,
                self.beside,
                self._memory_beside,
                self._cores_beside,
            )

    def leave(self) -> None:
        """Leave the account of all programs."""
        shared, self._shared = self._shared, None
        if shared is not None:
            shared.close()
        self._ticket = self.beside = 0  # of that file

    def forget(self) -> None:
        """Do the same in a fork of this program, whose account is not this one's."""
        shared, self._shared = self._shared, None
        if shared is not None:
            shared.forget()
