"""Submits a call for each of many items, as fast as calls end."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sized
from typing import Any, Final

from dask_limits.exceptions import SchedulerNotRunningError
from dask_limits.executors import Future
from dask_limits.executors.in_flight import InFlight

_END: Final = object()


class Feed:
    """Submits calls of items, so that at most so many of them are not done.

    `most` is None to go by how fast they end, and `places` tells how many can run at a time.

    Attributes:
        n_left: How many items are still to be taken; None if that is not known.
        may_go_on: Whether it has submitted fewer calls than there is room for.
    """

    def __init__(
        self,
        items: Iterator[Any],
        submit: Callable[[Any], Future[Any] | None],
        most: int | None,
        places: Callable[[], int],
        n_items: int | None = None,
    ) -> None:
        self.n_left = n_items
        self._items = items
        self._submit = submit
        self._most = most
        self._places = places
        self._in_flight: set[Future[Any]] = set()
        self._size = InFlight()
        self.is_used_up = False
        self.may_go_on = True

    def note_end(self, future: Future[Any]) -> None:
        """Note that a call has ended and its events were emitted, if it is one of these."""
        if future in self._in_flight:
            self._in_flight.remove(future)
            self._size.note_end(future.usage)

    def refill(self, goes_on: Callable[[], bool]) -> None:
        """Submit as many calls as there is room for, while the run goes on; none after one that a
        plugin drops.

        Raises:
            Exception: what the items raise. There are no more then.
        """
        self.may_go_on = True
        most = self._size.most(self._places()) if self._most is None else self._most
        while not self.is_used_up and len(self._in_flight) < most:
            if not goes_on():
                return
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
            if self.n_left:
                self.n_left -= 1
            if future is None:
                return  # a plugin may drop all: the run goes on with other things in between
            self._in_flight.add(future)
        self.may_go_on = False

    def stop(self) -> None:
        """Submit no more."""
        self.is_used_up = True
        if (close := getattr(self._items, "close", None)) is not None:  # of a generator
            close()


def zipped(
    submit: Callable[..., Future[Any] | None], items: Iterable[Any], *others: Iterable[Any]
) -> tuple[Iterator[Any], Callable[[Any], Future[Any] | None], int | None]:
    """The items of a `Feed`, what submits a call of one, and how many there are, if that is known.

    With other iterables, an item has one of each of them, as with the built-in `map`.
    """
    lengths = [_length(one) for one in (items, *others)]
    n_items = None if None in lengths else min(one for one in lengths if one is not None)
    if others:
        return zip(items, *others, strict=False), lambda item: submit(*item), n_items
    return iter(items), submit, n_items


def _length(items: Iterable[object]) -> int | None:
    try:
        return len(items) if isinstance(items, Sized) else None
    except Exception:  # of a user's class, or more than there are numbers for
        return None


class Feeds:
    """The feeds of a run, as long as they are not used up."""

    def __init__(self) -> None:
        self._feeds: list[Feed] = []
        self._have_lengths: bool | None = None  # all that there were; None if there was none

    def __bool__(self) -> bool:
        return bool(self._feeds)

    def add(self, feed: Feed) -> None:
        """Take a feed, which is refilled from the next step of the run on."""
        self._feeds.append(feed)
        self._have_lengths = self._have_lengths is not False and feed.n_left is not None

    def n_left(self) -> int | None:
        """How many items are still to be taken; None if that is not known, or there were none."""
        return sum(feed.n_left or 0 for feed in self._feeds) if self._have_lengths else None

    def note_end(self, future: Future[Any]) -> None:
        """Note that a call has ended and its events were emitted."""
        for feed in self._feeds:
            feed.note_end(future)

    def may_go_on(self) -> bool:
        """Whether further calls may be submitted although none has ended."""
        return any(feed.may_go_on for feed in self._feeds)

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
