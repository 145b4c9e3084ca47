"""Submits a call for each of many items, as fast as calls end."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any, Final

from dask_limits.exceptions import SchedulerNotRunningError
from dask_limits.executors import Future

_WINDOW_S: Final = 0.1
"""As many calls are in flight as have ended in the last window, so that executors always have some
to take, however short these are. A larger value holds more items in memory."""
_LEAST_FOR_EACH: Final = (
    2  # calls in flight for each one that can run at a time: one runs, one waits
)
_AHEAD_S: Final = 0.2
"""How long the calls in flight are to take each place, so that there are some to go together in a
batch of Dask while another one runs."""
_MOST_FOR_EACH: Final = 100
_WEIGHT: Final = 0.1  # of the last call, in the mean of their lengths
_END: Final = object()


class Feed:
    """Submits calls of items, so that at most so many of them are not done.

    `most` is None to go by how fast they end, and `places` tells how many can run at a time.
    """

    def __init__(
        self,
        items: Iterator[Any],
        submit: Callable[[Any], Future[Any] | None],
        most: int | None,
        places: Callable[[], int],
    ) -> None:
        self._items = items
        self._submit = submit
        self._most = most
        self._places = places
        self._in_flight: set[Future[Any]] = set()
        self._window_ends = 0.0  # seconds of time.monotonic()
        self._ended = self._ended_before = 0  # calls, in this window and the last one
        self._seconds = 1.0  # that a call takes: one is as good as any that is long
        self.is_used_up = False

    def note_end(self, future: Future[Any]) -> None:
        """Note that a call has ended and its events were emitted, if it is one of these."""
        if future in self._in_flight:
            self._in_flight.remove(future)
            self._ended += 1
            if (usage := future.usage) is not None:
                self._seconds += _WEIGHT * (usage.wall_time - self._seconds)

    def refill(self, goes_on: Callable[[], bool]) -> None:
        """Submit as many calls as there is room for, while the run goes on; none after one that a
        plugin drops.

        Raises:
            Exception: what the items raise. There are no more then.
        """
        while self.has_room() and goes_on():
            try:
                item = next(self._items, _END)
            except BaseException:
                self.is_used_up = True
                raise
            if item is _END:
                self.is_used_up = True
                return
            try:
                future = self._submit(item)
            except SchedulerNotRunningError:  # it was stopped meanwhile
                self.is_used_up = True
                return
            if future is None:
                return  # a plugin may drop all: the run goes on with other things in between
            self._in_flight.add(future)

    def has_room(self) -> bool:
        """Whether another call may be submitted."""
        return not self.is_used_up and len(self._in_flight) < self._room()

    def _room(self) -> int:
        if self._most is not None:
            return self._most
        now = time.monotonic()
        if now >= self._window_ends:
            self._window_ends = now + _WINDOW_S
            self._ended_before, self._ended = self._ended, 0
        for_each = min(max(_AHEAD_S / max(self._seconds, 1e-6), _LEAST_FOR_EACH), _MOST_FOR_EACH)
        return max(int(for_each * self._places()), self._ended_before, self._ended)

    def stop(self) -> None:
        """Submit no more."""
        self.is_used_up = True
        if (close := getattr(self._items, "close", None)) is not None:  # of a generator
            close()


class Feeds:
    """The feeds of a run, as long as they are not used up."""

    def __init__(self) -> None:
        self._feeds: list[Feed] = []

    def __bool__(self) -> bool:
        return bool(self._feeds)

    def add(self, feed: Feed) -> None:
        """Take a feed, which is refilled from the next step of the run on."""
        self._feeds.append(feed)

    def note_end(self, future: Future[Any]) -> None:
        """Note that a call has ended and its events were emitted."""
        for feed in self._feeds:
            feed.note_end(future)

    def have_room(self) -> bool:
        """Whether another call may be submitted."""
        return any(feed.has_room() for feed in self._feeds)

    def refill(self, guard: Callable[..., None], goes_on: Callable[[], bool]) -> None:
        """Submit what there is room for. `guard` calls what may raise, and handles that."""
        for feed in self._feeds.copy():
            guard(feed.refill, goes_on)
            if feed.is_used_up:
                self._feeds.remove(feed)

    def stop(self, guard: Callable[..., None]) -> None:
        """Submit no more."""
        feeds, self._feeds = self._feeds, []
        for feed in feeds:
            guard(feed.stop)
