from __future__ import annotations

import itertools
import threading
from bisect import insort
from dataclasses import dataclass, field, replace
from typing import Any, Final

from dask_limits.placement.resources import Request

_PATIENCE: Final = 10
"""How many calls may overtake one that came before them and does not fit yet. With more, a large
call waits longer; with fewer, more of the worker is unused meanwhile."""


class AdmissionControl:
    """Lets calls of one worker start only when what they reserve is free.

    It has how much memory is free (infinity if nothing limits it) and reserved, in bytes.

    This keeps the limits within what the worker has, whatever arrives there: the scheduler sends
    only what will fit, but it may hear of an end before the processes are gone, and some versions
    of Dask do not let it choose workers at all. Calls are admitted in order; a call that does not
    fit yet may be overtaken a few times.

    Example:
        >>> admission = AdmissionControl(memory=100, cores=4)
        >>> first = admission.reserve(Request(60), order=1)
        >>> second = admission.reserve(Request(60), order=2)
        >>> first.is_granted, second.is_granted
        (True, False)
        >>> admission.release(first)
        >>> second.wait()
        True
    """

    def __init__(self, memory: float, cores: float) -> None:
        self._lock = threading.Lock()
        self.free_memory = memory
        self.reserved_memory = 0
        self._free_cores = cores
        self._waiting: list[Reservation] = []

    def reserve(self, request: Request, order: Any) -> Reservation:
        """Ask for a reservation, which is granted now or later. A lower order goes first."""
        reservation = Reservation(request, (order, next(_numbers)))
        with self._lock:
            insort(self._waiting, reservation, key=lambda one: one.place)
            self._grant()
        return reservation

    def release(self, reservation: Reservation) -> None:
        """A call has ended, or is not to start any more. It does no harm to repeat this."""
        with self._lock:
            if reservation.is_granted:
                self._reserve(-reservation.request.memory)
                self._free_cores += reservation.request.cores
            elif reservation in self._waiting:
                self._waiting.remove(reservation)
            reservation.is_granted = False
            reservation.decided.set()
            self._grant()

    def release_cores(self, reservation: Reservation) -> None:
        """A running call needs its cores no more, because it has called Dask's `secede`."""
        with self._lock:
            if reservation.is_granted:
                self._free_cores += reservation.request.cores
                reservation.request = replace(reservation.request, cores=0)
                self._grant()

    def _reserve(self, memory: int) -> None:
        self.free_memory -= memory
        self.reserved_memory += memory

    def _grant(self) -> None:
        overtaken: list[Reservation] = []
        for reservation in self._waiting.copy():
            if any(one.n_overtaken >= _PATIENCE for one in overtaken):
                return
            request = reservation.request
            if request.memory <= self.free_memory and request.cores <= self._free_cores:
                self._reserve(request.memory)
                self._free_cores -= request.cores
                self._waiting.remove(reservation)
                reservation.is_granted = True
                reservation.decided.set()
                for one in overtaken:
                    one.n_overtaken += 1
            else:
                overtaken.append(reservation)


_numbers = itertools.count()


@dataclass(eq=False)
class Reservation:
    """What a call holds of its worker, or waits to hold."""

    request: Request
    place: tuple[Any, int]
    n_overtaken: int = 0
    is_granted: bool = False  # whether the call holds it now
    decided: threading.Event = field(default_factory=threading.Event)  # granted or withdrawn

    def wait(self) -> bool:
        """Wait until it is granted; False if it was withdrawn."""
        self.decided.wait()
        return self.is_granted
