from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from typing import TypeVar

T = TypeVar("T")


class Requeue(Iterator[T]):
    """An iterator that things can be put back into, at its start, or added to, at its end.

    Items are taken from the iterable as they are needed, so it may be endless. An iterator that
    has ended goes on when something is put into it.

    Args:
        items: What to iterate over.

    Example:
        >>> items = Requeue(range(3))
        >>> first = next(items)
        >>> items.append(8)
        >>> items.requeue(first)
        >>> list(items)
        [0, 1, 2, 8]
    """

    def __init__(self, items: Iterable[T] = ()) -> None:
        self._front: deque[T] = deque()
        self._items = iter(items)
        self._back: deque[T] = deque()

    def __next__(self) -> T:
        if self._front:
            return self._front.popleft()
        for item in self._items:
            return item
        if self._back:
            return self._back.popleft()
        raise StopIteration

    def requeue(self, *items: T) -> None:
        """Put items at the start; of several, the first is the next to come."""
        self._front.extendleft(reversed(items))

    def append(self, *items: T) -> None:
        """Put items at the end."""
        self._back.extend(items)
