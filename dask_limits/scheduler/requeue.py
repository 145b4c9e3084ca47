from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from typing import TypeVar

T = TypeVar("T")


class Requeue(Iterator[T]):
    """An iterator to which items can be added, at its start or at its end.

    It takes items from the iterable only when they are needed, so the iterable may be infinite.
    When it is exhausted, adding an item makes it go on.

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
        """Add items at the start. The first of them comes next."""
        self._front.extendleft(reversed(items))

    def append(self, *items: T) -> None:
        """Add items at the end."""
        self._back.extend(items)
