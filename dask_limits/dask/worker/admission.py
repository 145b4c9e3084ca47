from __future__ import annotations

import itertools
import threading
from bisect import insort
from typing import Any, Final

from dask_limits.placement.queue import Request

_PATIENCE: Final = 10
"""How many calls may pass one that came before them, and does not fit yet. More lets a large one
wait longer, less leaves more of the worker unused meanwhile."""


class Gate:
    """Lets calls of one worker start only when what they reserve is free.

    This is what holds the promise, whatever arrives at the worker: the scheduler sends what will
    fit, but it may hear of an end before the processes are gone, and it may not place calls at
    all. Calls enter in order; those that fit pass those that do not, some times.

    Args:
        memory: Bytes; infinity if nothing limits them.
        cores: How many.

    Example:
        >>> gate = Gate(memory=100, cores=4)
        >>> first, second = gate.ask(Request(60), order=1), gate.ask(Request(60), order=2)
        >>> first.entered, second.entered
        (True, False)
        >>> gate.leave(first)
        >>> second.wait()
        True
    """

    def __init__(self, memory: float, cores: int) -> None:
        self.memory = memory
        self.cores = cores
        self._lock = threading.Lock()
        self._free_memory = memory
        self._free_cores = cores
        self._waiting: list[Ticket] = []

    def ask(self, request: Request, order: Any) -> Ticket:
        """Ask for a call to be let in.

        Args:
            request: What it reserves.
            order: Less goes first.
        """
        ticket = Ticket(request, order)
        with self._lock:
            insort(self._waiting, ticket, key=lambda one: one.place)
            self._let_in()
        return ticket

    def leave(self, ticket: Ticket) -> None:
        """A call has ended, or does not want in any more. Once more does no harm."""
        with self._lock:
            if ticket.entered:
                self._free_memory += ticket.request.memory
                self._free_cores += ticket.request.cores
            elif not ticket.is_done:
                self._waiting.remove(ticket)
            ticket.done(entered=False)
            self._let_in()

    def give_cores(self, ticket: Ticket) -> None:
        """A call that runs needs its cores no more, as Dask's `secede` says."""
        with self._lock:
            if ticket.entered:
                self._free_cores += ticket.request.cores
                ticket.request = Request(ticket.request.memory, 0)
                self._let_in()

    def _let_in(self) -> None:
        passed: list[Ticket] = []
        for ticket in self._waiting.copy():
            asked = ticket.request
            if asked.memory <= self._free_memory and asked.cores <= self._free_cores:
                self._free_memory -= asked.memory
                self._free_cores -= asked.cores
                self._waiting.remove(ticket)
                ticket.done(entered=True)
                for one in passed:
                    one.passed_by += 1
            else:
                passed.append(ticket)
            if ticket.passed_by >= _PATIENCE:
                return


_numbers = itertools.count()


class Ticket:
    """A call that is in, or waits to be let in.

    Attributes:
        entered: Whether it is in.
    """

    def __init__(self, request: Request, order: Any) -> None:
        self.request = request
        self.place = order, next(_numbers)
        self.passed_by = 0
        self.entered = False
        self._done = threading.Event()

    @property
    def is_done(self) -> bool:
        """Whether it waits no more."""
        return self._done.is_set()

    def done(self, *, entered: bool) -> None:
        """Called by the gate alone."""
        self.entered = entered
        self._done.set()

    def wait(self) -> bool:
        """Wait until it is let in; False if it does not want in any more."""
        self._done.wait()
        return self.entered
