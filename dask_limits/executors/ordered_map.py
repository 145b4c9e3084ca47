"""Results of a function for many items, in their order, as `concurrent.futures` has them."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any, Final, Generic, TypeVar

from dask_limits.executors.in_flight import InFlight
from dask_limits.future import Future

R = TypeVar("R")

_MOST_AHEAD: Final = 10_000  # results that wait for an earlier one


class OrderedMap(Generic[R]):
    """Submits a call for each item, when there is room for it.

    Items are taken in the thread that asks for results, and by `submit_all`.

    Attributes:
        is_used_up: Whether no more calls are submitted.
    """

    def __init__(
        self,
        items: Iterator[tuple[Any, ...]],
        submit: Callable[..., Future[R]],
        places: int,
        least: int,
    ) -> None:
        self._items = items
        self._submit = submit
        self._places = places
        self._least = least
        self._size = InFlight()
        self._futures: deque[Future[R]] = deque()  # of which nobody has had the result
        self._in_flight: set[Future[R]] = set()
        self._has_room = threading.Event()
        self._filling = threading.RLock()
        self._taking = 0  # the thread that takes an item
        self._awaited: Future[R] | None = None  # which tells when it has ended
        self._error: Exception | None = None  # that an item has raised
        self.is_used_up = False

    def results(self, deadline: float | None) -> Iterator[R]:
        """Yield the results; `deadline` is in seconds of `time.monotonic()`.

        An error ends this, as `close()` does: the other calls are cancelled then.

        Raises:
            TimeoutError: when the deadline is over.
            Exception: what a call raises, or an item.
        """
        try:
            while True:
                self.fill()
                if not self._futures:
                    self.raise_error()
                    return
                if self.is_used_up or self._futures[0].done():
                    yield self._next_result(deadline)
                else:
                    self._wait_for_room(deadline)
        finally:
            self.stop()
            # The callbacks of futures have this, and the executor has it until its next map.
            self._futures.clear()
            self._items, self._awaited = iter(()), None

    def _next_result(self, deadline: float | None) -> R:
        """Return the next result; nothing here has it any more."""
        left = None if deadline is None else deadline - time.monotonic()
        result = self._futures[0].result(left)
        self._futures.popleft()
        self._awaited = None
        return result

    def _wait_for_room(self, deadline: float | None) -> None:
        """Wait until the next result is there, or another call can be submitted."""
        left = None if deadline is None else deadline - time.monotonic()
        if self._awaited is not self._futures[0]:
            self._awaited = self._futures[0]
            self._awaited.add_done_callback(lambda _: self._has_room.set())
        if not self._has_room.wait(left):
            raise TimeoutError

    def fill(self) -> None:
        """Submit calls while there is room, for results that somebody waits for."""
        with self._filling:
            self._has_room.clear()
            while self._may_submit():
                ahead = len(self._futures)
                if ahead > _MOST_AHEAD or (ahead > self._most() and self._futures[0].done()):
                    return  # they are not wanted so soon
                self._submit_next()

    def submit_all(self) -> None:
        """Submit the other calls too, whoever wants their results.

        In the handler of a signal that has interrupted an item, there are no others.
        """
        if self._taking == threading.get_ident():
            self._end()
        while not self.is_used_up:
            with self._filling:
                self._has_room.clear()
                while self._may_submit():
                    self._submit_next()
            self._has_room.wait(0.1)

    def _may_submit(self) -> bool:
        return not self.is_used_up and len(self._in_flight) < self._most()

    def _most(self) -> int:
        return max(self._size.most(self._places), self._least)

    def _submit_next(self) -> None:
        try:
            self._taking = threading.get_ident()
            arguments = next(self._items, None)
        except Exception as error:
            arguments, self._error = None, error
        finally:
            self._taking = 0
        if arguments is None or self.is_used_up:  # the handler of a signal may have ended this
            self._end()
            return
        future = self._submit(*arguments)
        self._futures.append(future)
        self._in_flight.add(future)
        future.add_done_callback(self._note_end)  # nothing that has the future: no circle

    def _note_end(self, future: Any) -> None:
        self._in_flight.discard(future)
        self._size.note_end(future.usage)
        if 2 * len(self._in_flight) < self._most():
            self._has_room.set()

    def _end(self) -> None:
        self.is_used_up = True
        self._has_room.set()

    def raise_error(self) -> None:
        """Raise what an item has raised, if one has."""
        error, self._error = self._error, None
        if error is not None:
            raise error

    def stop(self) -> None:
        """Submit no more, and cancel the calls whose results nobody has had."""
        self._end()
        for future in self._futures.copy():
            future.cancel()
