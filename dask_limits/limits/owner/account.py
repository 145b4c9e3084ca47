"""The account of what calls reserve on this machine: with it, limits never sum up to more.

All calls of this process that name a limit on memory, or cores, take from it, and those that do not
fit wait. Which of them goes next is decided by the code that places calls on workers of Dask; here
there is one worker. What other programs of this user have is one more call that runs there.
"""

from __future__ import annotations

import atexit
import contextlib
import itertools
import os
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Any, Final

from dask_limits.limits.linux import uninterrupted
from dask_limits.limits.owner.capacity import Capacity, capacity_here
from dask_limits.limits.owner.reservation import Reservation
from dask_limits.limits.owner.shared_account import Row, SharedAccount
from dask_limits.placement.policy import Placement
from dask_limits.placement.queue import WaitingCall
from dask_limits.placement.resources import Refusal, Request, WorkerResources, refusal

_MACHINE: Final = "machine"
_OTHERS: Final = "other programs"
LOOK_S: Final = 0.05
"""How often a program whose calls wait looks whether others have given something back. A look takes
some 50 us."""
_NOTHING: Final = Request(cores=0)
_MOST_COMPARED: Final = 100


class Account:
    """One account for all calls of this process, and a row of the one of all programs.

    Its methods can be called from any thread. Ctrl-C may interrupt them anywhere: what is true is
    which reservations are in `_held` and `_waiting`, and if a change of the rest was interrupted,
    the next one makes it anew.
    """

    def __init__(self) -> None:
        self._reset()

    def _reset(self) -> None:
        self._capacity: Capacity | None = None
        self._shared: SharedAccount | None = None
        self._next_try = 0.0  # to open the shared account; seconds of time.monotonic()
        self._lock = threading.Lock()
        self._inside = 0  # the thread that has it
        self._is_whole = True
        self._held: dict[Reservation, None] = {}
        self._waiting: dict[Reservation, WaitingCall] = {}
        self._returned: deque[Reservation] = deque()
        self._memory = self._cores = 0  # that are held
        self._beside = 0  # a claim of another program, and what has started beside it:
        self._memory_beside = self._cores_beside = 0
        self._ticket, self._claimed = 0, _NOTHING  # the claim of this program
        self._placement: Placement | None = None  # while calls wait
        self._next_look = 0.0  # seconds of time.monotonic()

    def forget(self) -> None:
        """Begin without calls in a fork of this process: those are its parent's."""
        if self._shared is not None:
            self._shared.forget()
        self._reset()

    def close(self) -> None:
        """Leave the account of all programs, because this one ends."""
        self._change(lambda _: self._close_shared())

    @property
    def capacity(self) -> Capacity:
        """What there is for all calls together."""
        if self._capacity is None:
            self._capacity = capacity_here()
        return self._capacity

    def refusal(self, request: Request) -> Refusal | None:
        """Why a call can never run; None if it can."""
        capacity = self.capacity
        if request.memory <= capacity.memory and request.cores <= capacity.cores:
            return None
        return refusal(request, [WorkerResources(capacity.memory, capacity.cores)])

    # -- what calls do -----------------------------------------------------------------------

    def take(self, one: Reservation, *, waits: bool = True) -> bool:
        """Reserve, now or when it fits. Whether it is granted now; if not, and it does not wait,
        nothing has changed.
        """
        if not self._change(self._take if waits else self._take_now, one):
            # A signal's handler, or a finalizer, has interrupted this very code. If it waited, it
            # would do so for ever.
            one.is_granted = True
        return one.is_granted

    def give_back(self, one: Reservation) -> None:
        """A call has ended, or is not to run any more. It does no harm to repeat this."""
        self._returned.append(one)
        self._change()

    def withdraw(self, one: Reservation) -> bool:
        """Have a call not wait any more. False if it does not, as it has what it reserves."""
        withdrawn: list[Reservation] = []

        def withdraw(one: Reservation) -> None:
            if one in self._waiting:
                withdrawn.append(one)
                self._returned.append(one)

        self._change(withdraw, one)
        return bool(withdrawn)

    def look(self, *, at_once: bool = False) -> None:
        """Start what fits now, as other programs may have given something back, or a slot."""
        if self._waiting and (at_once or time.monotonic() >= self._next_look):
            self._change(lambda _: self._place())

    @property
    def patience(self) -> float:
        """Seconds after which each of those that wait should look, so that one does soon."""
        return min(LOOK_S * max(len(self._waiting), 1), 1.0)

    # -- how ---------------------------------------------------------------------------------

    def _change(self, change: Callable[[Any], object] | None = None, one: Any = None) -> bool:
        """Change this while no other thread does. False if this thread is doing so already.

        In that case, what was given back is so when the code goes on that was interrupted.
        """
        me = threading.get_ident()
        if self._inside == me and self._lock.locked():
            return False
        with self._lock:
            self._inside = me
            try:
                if not self._is_whole:
                    self._repair()
                self._is_whole = False
                if self._returned:
                    self._drop_returned()
                if change is not None:
                    change(one)
                    while self._returned:
                        self._drop_returned()
                self._is_whole = True
            finally:
                self._inside = 0
        return True

    def _repair(self) -> None:
        """Find everything else anew by what is held and what waits."""
        self._memory = self._cores = 0
        self._placement, self._beside = None, 0
        for one in self._held:
            self._add(one, 1)
            one.is_granted = True
            if self._waiting.pop(one, None) is not None:
                _tell(one)
        self._publish()

    def _add(self, one: Reservation, sign: int) -> None:
        """Count a reservation; not any more, if the sign is negative."""
        memory, cores = sign * one.request.memory, sign * one.request.cores
        self._memory += memory
        self._cores += cores
        if self._beside and one.beside == self._beside:
            self._memory_beside += memory
            self._cores_beside += cores

    def _drop_returned(self) -> None:
        while self._returned:
            one = self._returned.popleft()
            if one in self._held:
                del self._held[one]
                self._add(one, -1)
                if self._placement is not None:
                    self._placement.finish(one)
            elif self._waiting.pop(one, None) and self._placement is not None:
                self._placement.dequeue(one)
            one.is_granted = False
        if self._waiting:
            self._place()
        else:
            self._placement, self._ticket, self._claimed = None, 0, _NOTHING
            self._publish()

    def _take(self, one: Reservation) -> None:
        if self._take_now(one):
            return
        self._waiting[one] = WaitingCall(one, one.request, one.order, one.slots)
        if self._placement is not None:
            self._placement.enqueue(self._waiting[one])
        self._place()

    def _take_now(self, one: Reservation) -> bool:
        """Grant a reservation if it fits now, and nothing else waits here."""
        if self._waiting:
            return False
        request, capacity = one.request, self.capacity
        shared = self._lock_shared()
        try:
            there = self._elsewhere()
            memory = self._memory + there.memory + request.memory
            cores = self._cores + there.cores + request.cores
            if memory > capacity.memory or cores > capacity.cores or not self._grant(one):
                return False
            self._publish()
            return True
        finally:
            if shared is not None:
                shared.unlock()

    def _grant(self, one: Reservation) -> bool:
        """Have a call hold what it reserves, and a slot. False if it has none."""
        slot = [] if one.slots is None else [(one.slots.free.pop,)]
        try:
            uninterrupted.together(*slot, (self._held.__setitem__, one, None))
        except IndexError:
            return False
        one.beside = self._beside
        self._add(one, 1)
        one.is_granted = True
        return True

    def _place(self) -> None:
        """Grant what fits now of what waits."""
        self._next_look = time.monotonic() + LOOK_S
        if self._placement is None:
            self._placement = self._new_placement()
        placement, shared = self._placement, self._lock_shared()
        try:
            if shared is not None:
                shared.void_the_dead()
            placement.finish(_OTHERS)
            placement.resume(WaitingCall(_OTHERS, self._elsewhere(), 0), _MACHINE)
            for start in placement.place(0):
                one: Any = start.key
                if self._grant(one):
                    del self._waiting[one]
                    _tell(one)
                else:  # another call has just taken the last slot
                    placement.finish(one)
                    placement.enqueue(self._waiting[one])
            self._claim()
            self._publish()
        finally:
            if shared is not None:
                shared.unlock()
        if not self._waiting:
            self._placement = None

    def _new_placement(self) -> Placement:
        """The placement of what waits, beside what is held."""
        placement = Placement(is_ready=_is_ready)
        # Half a core more: a worker that has no core free takes no calls, and here some need none.
        resources = WorkerResources(self.capacity.memory, self.capacity.cores + 0.5)
        placement.add(_MACHINE, resources)
        for one in self._held:
            placement.resume(WaitingCall(one, one.request, one.order), _MACHINE)
        for call in self._waiting.values():
            placement.enqueue(call)
        return placement

    # -- other programs ----------------------------------------------------------------------

    def _lock_shared(self) -> SharedAccount | None:
        """Keep other programs from starting calls until it is unlocked. None if there are none."""
        shared = self._shared
        if shared is None or not shared.is_good():
            shared = self._open_shared()
        if shared is not None:
            shared.lock()
        return shared

    def _open_shared(self) -> SharedAccount | None:
        """Open the account of all programs. None where that cannot be: then this one has its own.

        The file may have been removed, or this program may have another user now.
        """
        self._close_shared()
        if (now := time.monotonic()) >= self._next_try:
            self._next_try = now + 1
            with contextlib.suppress(OSError):
                self._shared = SharedAccount(self.capacity)
        return self._shared

    def _close_shared(self) -> None:
        shared, self._shared = self._shared, None
        if shared is not None:
            shared.close()

    def _elsewhere(self) -> Request:
        """What is not there for calls of this program beside those that it has.

        Other programs have it; or it is kept for a call of another program, which has waited for
        longer: calls start beside that one only if together they leave room for it.
        """
        if self._shared is None or not (rows := self._shared.others()):
            self._beside = 0
            return _NOTHING
        memory, cores = sum(row.memory for row in rows), sum(row.cores for row in rows)
        claims = [row for row in rows if row.ticket and not 0 < self._ticket < row.ticket]
        first = min(claims, key=lambda row: row.ticket, default=Row())
        if self._beside != first.ticket:
            self._beside = first.ticket
            self._memory_beside = self._cores_beside = 0
        if first.ticket:
            beside = [row for row in rows if row.backfilled == first.ticket]
            kept = first.claimed_memory + sum(row.backfilled_memory for row in beside)
            memory = max(memory, kept + self._memory_beside - self._memory)
            kept = first.claimed_cores + sum(row.backfilled_cores for row in beside)
            cores = max(cores, kept + self._cores_beside - self._cores)
        return Request(memory, cores)

    def _claim(self) -> None:
        """Claim what the first call needs that waits here, if it could run."""
        waiting = itertools.islice(self._waiting, _MOST_COMPARED)
        ready = (one for one in waiting if _is_ready(one.slots))
        first = min(ready, key=lambda one: one.order, default=None)
        self._claimed = _NOTHING if first is None else first.request
        if first is None:
            self._ticket = 0
        elif not self._ticket and self._shared is not None:
            self._ticket = self._shared.next_ticket()

    def _publish(self) -> None:
        if self._shared is not None:
            self._shared.publish(
                self._memory,
                self._cores,
                self._ticket,
                self._claimed.memory,
                self._claimed.cores,
                self._beside,
                self._memory_beside,
                self._cores_beside,
            )


def _tell(one: Reservation) -> None:
    if one.tell is not None:
        one.tell()


def _is_ready(slots: Any) -> bool:
    """Whether a call could begin there."""
    return slots is None or bool(slots.free)


_account: Final = Account()


def account_here() -> Account:
    """The account of this process."""
    return _account


os.register_at_fork(after_in_child=_account.forget)
atexit.register(_account.close)
