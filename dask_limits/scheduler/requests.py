"""Requests: what a thread asks of a run in another thread, and waits for.

Two threads may ask each other at the same time. So a thread answers requests wherever it waits: for
the next thing to do in one of its runs, and for the answer to a request of its own.

There is no lock here, which a callback, a finalizer or a signal's handler could find held. Whoever
sets one of two things then looks at the other, so one of two threads sees both.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from queue import Empty, SimpleQueue
from typing import Any, Final, Generic, Protocol, TypeVar

from dask_limits.exceptions import SchedulerNotRunningError
from dask_limits.printable import repr_of

R = TypeVar("R")

LONGEST_WAIT_S: Final = 0.5
"""A signal that arrives just before a thread begins to wait for a lock does not interrupt the wait:
its handler, that of Ctrl-C too, runs when the wait ends."""


class TimeIsUpError(SchedulerNotRunningError):
    """The timeout of a run has come while one of its callbacks waited for another run."""


class Answering(Protocol):
    """A run loop: what a request is for."""

    deadline: float | None

    def put(self, thing: object) -> None:
        """Have something done in the thread of the loop."""


class Request(Generic[R]):
    """A call that one thread asks for, and another one makes."""

    def __init__(self, call: Callable[[], R]) -> None:
        self.answered = False
        self.news: SimpleQueue[None] = SimpleQueue()  # wakes the thread that asks
        self._call = call
        self._begun = False
        self._free = iter([True])  # next() is atomic: it is either answered or withdrawn
        self._value: R
        self._error: BaseException | None = None

    def answer(self, refusal: SchedulerNotRunningError | None = None) -> None:
        """Make the call, or refuse to, in the thread that is asked. More calls do nothing.

        What ends the run of that thread, such as Ctrl-C, is raised here.
        """
        if self._begun:  # maybe further down this stack
            return
        try:
            self._begun = True
            if next(self._free, False):
                if refusal is not None:
                    raise refusal
                self._value = self._call()
        except Exception as error:
            self._error = error
        except BaseException as error:
            self._error = SchedulerNotRunningError(f"{repr_of(error)} has ended the run meanwhile")
            raise
        finally:
            self.answered = True
            self.news.put(None)

    def withdraw(self) -> bool:
        """Take it back, in the thread that asks. Return False if the other one has begun it."""
        return next(self._free, False)

    def result(self) -> R:
        """Return or raise what the call has, once it is answered."""
        if self._error is not None:
            raise self._error
        return self._value


class Inbox:
    """The requests to the run loops of one thread.

    A thread has several loops if a callback runs another scheduler, or its event loop runs several.
    """

    def __init__(self) -> None:
        self._requests: dict[Request[Any], Answering] = {}
        self._loops: list[Answering] = []  # those that wait for the next thing to do, now and then
        self._waits: list[SimpleQueue[None]] = []  # those of this thread for others, nested

    @contextmanager
    def answered_in(self, loop: Answering) -> Iterator[None]:
        """Answer requests where this loop waits."""
        self._loops.append(loop)
        try:
            loop.put(self.answer)  # what has come before
            yield
        finally:
            self._loops.remove(loop)

    def ask(self, loop: Answering, call: Callable[[], R], is_closed: Callable[[], bool]) -> R:
        """Have the thread of this inbox make a call, in another thread, and wait for it."""
        request = Request(call)
        try:
            self._requests[request] = loop
            for each in list(self._loops):
                each.put(self.answer)
            for wait in list(self._waits):
                wait.put(None)
            if is_closed() and request.withdraw():  # otherwise refuse() has seen it
                raise has_ended()
            return inbox_of_this_thread().wait_for(request)
        except BaseException:  # Ctrl-C
            request.withdraw()
            raise
        finally:
            self._requests.pop(request, None)

    def answer(self) -> None:
        """Answer all requests, in this thread."""
        for request in list(self._requests):
            request.answer()

    def refuse(self, loop: Answering) -> None:
        """Refuse the requests to a loop that is closed."""
        for request, asked in list(self._requests.items()):
            if asked is loop:
                request.answer(has_ended())

    def wait_for(self, request: Request[R]) -> R:
        """Wait for an answer from another thread, and answer requests to this one meanwhile."""
        self._waits.append(request.news)
        try:
            self.answer()
            while not request.answered:
                try:
                    request.news.get(timeout=self._wait_s(request))
                except Empty:
                    pass
                self.answer()
        finally:
            self._waits.remove(request.news)
        return request.result()

    def _wait_s(self, request: Request[Any]) -> float:
        deadlines = [loop.deadline for loop in self._loops if loop.deadline is not None]
        left_s = min(deadlines, default=float("inf")) - time.monotonic()
        if left_s <= 0 and request.withdraw():
            raise TimeIsUpError("The other run did not take this before the timeout of this run")
        return min(left_s, LONGEST_WAIT_S) if left_s > 0 else LONGEST_WAIT_S


class _OfThread(threading.local):
    def __init__(self) -> None:
        self.inbox = Inbox()


_of_thread = _OfThread()


def inbox_of_this_thread() -> Inbox:
    """The inbox of the thread that calls this."""
    return _of_thread.inbox


def has_ended() -> SchedulerNotRunningError:
    """The error of a request to a run that has ended."""
    return SchedulerNotRunningError(
        "The run has ended, so nothing can be submitted any more. Check scheduler.running() before"
        " you submit."
    )
