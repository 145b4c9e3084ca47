"""The account of what calls reserve on this machine: with it, limits never sum up to more.

All calls of this process that name a limit on memory, or cores, take from it, and those that do not
fit wait. Which of them goes next is decided by the code that places calls on workers of Dask; here
there is one worker. What other programs of this user have is one more call that runs there.
"""

from __future__ import annotations

import atexit
import itertools
import os
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Any, Final

from dask_limits.limits.linux import uninterrupted
from dask_limits.limits.owner.capacity import Capacity, capacity_here
from dask_limits.limits.owner.other_programs import OtherPrograms
from dask_limits.limits.owner.reservation import Reservation
from dask_limits.placement.policy import Placement
from dask_limits.placement.queue import WaitingCall
from dask_limits.placement.resources import Refusal, Request, WorkerResources, refusal

LOOK_S: Final = 0.05
"""How often a program whose calls wait looks whether others have given something back. A look takes
some 50 us."""
_MACHINE: Final = "machine"
_OTHERS: Final = "other programs"
_MOST_COMPARED: Final = 100


class Account:
    """One account for all calls of this process, and its part of that of all programs.

    Its methods can be called from any thread. Ctrl-C may interrupt them anywhere: what is true is
    which reservations are in `_held` and `_waiting`, and if a change of the rest was interrupted,
    the next one makes it anew.
    """

    def __init__(self) -> None:
        self._reset()

    def _reset(self) -> None:
        self._capacity: Capacity | None = None
        self._others = OtherPrograms(lambda: self.capacity)
        self._lock = threading.Lock()
        self._inside = 0  # the thread that has it
        self._is_whole = True
        self._held: dict[Reservation, None] = {}
        self._waiting: dict[Reservation, WaitingCall] = {}
        self._returned: deque[Reservation] = deque()
        self._memory = self._cores = 0  # that are held
        self._placement: Placement | None = None  # while calls wait
        self._next_look = 0.0  # seconds of time.monotonic()

    def forget(self) -> None:
        """Begin without calls in a fork of this process: those are its parent's."""
        self._others.forget()
        self._reset()

    def close(self) -> None:
        """Leave the account of all programs, because this one ends."""
        self._change(lambda _: self._others.leave())

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
        if self._take_quickly(one):
            return True
        if not self._change(self._take if waits else self._take_now, one):
            # A signal's handler, or a finalizer, has interrupted this very code. If it waited, it
            # would do so for ever.
            one.is_granted = True
        return one.is_granted

    def give_back(self, one: Reservation) -> None:
        """A call has ended, or is not to run any more. It does no harm to repeat this."""
        if not self._drop_quickly(one):
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

    # -- the quick way: nothing waits, and no other program is there ---------------------------

    def _take_quickly(self, one: Reservation) -> bool:
        """Grant a reservation if that is simple."""
        me, request, capacity = threading.get_ident(), one.request, self._capacity
        if capacity is None or self._inside == me:
            return False
        with self._lock:
            self._inside = me
            try:
                memory, cores = self._memory + request.memory, self._cores + request.cores
                is_simple = self._is_simple() and self._others.is_alone()
                if not is_simple or memory > capacity.memory or cores > capacity.cores:
                    return False
                if one.slots is not None:
                    one.slots.free.pop()
                self._is_whole = False
                self._held[one] = None
                self._memory, self._cores, one.is_granted = memory, cores, True
                self._others.hold(memory, cores)
                self._is_whole = True
            except IndexError:  # there is no slot any more
                return False
            finally:
                self._inside = 0
        # To leave the lock is a barrier: a program that has come now sees this one, or is seen.
        if not self._others.is_alone():
            self._change(self._check, one)
        return one.is_granted

    def _check(self, one: Reservation) -> None:
        """Take back what was granted while no other program was seen, if one is there."""
        capacity = self.capacity
        self._others.lock()
        try:
            there = self._others.have(self._memory, self._cores)
            memory, cores = self._memory + there.memory, self._cores + there.cores
            if memory > capacity.memory or cores > capacity.cores:
                self._returned.append(one)
                if one.slots is not None:
                    one.slots.free.append(None)
        finally:
            self._others.unlock()

    def _drop_quickly(self, one: Reservation) -> bool:
        """Take back a reservation if that is simple."""
        me, request = threading.get_ident(), one.request
        if self._inside == me:
            return False
        with self._lock:
            self._inside = me
            try:
                if not self._is_simple() or one not in self._held:
                    return False
                memory, cores = self._memory - request.memory, self._cores - request.cores
                self._is_whole = False
                del self._held[one]
                self._memory, self._cores, one.is_granted = memory, cores, False
                self._others.hold(memory, cores)
                self._is_whole = True
            finally:
                self._inside = 0
        return True

    def _is_simple(self) -> bool:
        return self._is_whole and not (self._waiting or self._returned or self._others.beside)

    # -- how else ------------------------------------------------------------------------------

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
        self._placement, self._others.beside = None, 0
        for one in self._held:
            self._add(one, 1)
            one.is_granted = True
            if self._waiting.pop(one, None) is not None:
                _tell(one)
        self._others.tell(self._memory, self._cores)

    def _add(self, one: Reservation, sign: int) -> None:
        """Count a reservation; not any more, if the sign is negative."""
        self._memory += sign * one.request.memory
        self._cores += sign * one.request.cores
        self._others.count(one, sign)

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
            self._placement = None
            self._others.claim(None)
            self._others.tell(self._memory, self._cores)

    def _take(self, one: Reservation) -> None:
        if self._take_now(one):
            return
        self._waiting[one] = WaitingCall(one, one.request, one.order, one.slots)
        if self._placement is not None:
            self._placement.enqueue(self._waiting[one])
        self._place(asking=one)

    def _take_now(self, one: Reservation) -> bool:
        """Grant a reservation if it fits now, and nothing else waits here."""
        if self._waiting:
            return False
        request, capacity = one.request, self.capacity
        self._others.lock()
        try:
            there = self._others.have(self._memory, self._cores)
            memory = self._memory + there.memory + request.memory
            cores = self._cores + there.cores + request.cores
            if memory > capacity.memory or cores > capacity.cores or not self._grant(one):
                return False
            self._others.tell(self._memory, self._cores)
            return True
        finally:
            self._others.unlock()

    def _grant(self, one: Reservation) -> bool:
        """Have a call hold what it reserves, and a slot. False if it has none."""
        slot = [] if one.slots is None else [(one.slots.free.pop,)]
        try:
            uninterrupted.together(*slot, (self._held.__setitem__, one, None))
        except IndexError:
            return False
        one.beside = self._others.beside
        self._add(one, 1)
        one.is_granted = True
        return True

    def _place(self, asking: Reservation | None = None) -> None:
        """Grant what fits now of what waits. The one that asks now is not told."""
        self._next_look = time.monotonic() + LOOK_S
        if self._placement is None:
            self._placement = self._new_placement()
        placement, others = self._placement, self._others
        others.lock()
        try:
            others.void_the_dead()
            placement.finish(_OTHERS)
            there = others.have(self._memory, self._cores)
            placement.resume(WaitingCall(_OTHERS, there, 0), _MACHINE)
            for start in placement.place(0):
                one: Any = start.key
                if self._grant(one):
                    del self._waiting[one]
                    if one is not asking:
                        _tell(one)
                else:  # another call has just taken the last slot
                    placement.finish(one)
                    placement.enqueue(self._waiting[one])
            others.claim(self._first_that_waits())
            others.tell(self._memory, self._cores)
        finally:
            others.unlock()
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

    def _first_that_waits(self) -> Request | None:
        """What the first call needs that waits, of those that could run."""
        waiting = itertools.islice(self._waiting, _MOST_COMPARED)
        ready = (one for one in waiting if _is_ready(one.slots))
        first = min(ready, key=lambda one: one.order, default=None)
        return None if first is None else first.request


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
