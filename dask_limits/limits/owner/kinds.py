"""How long calls of each kind take, as they have taken so far."""

from __future__ import annotations

import math
from collections.abc import Hashable
from typing import Final

_GROUP_S: Final = 0.005
"""How long the calls of a group may take together, as they have taken so far. A larger value saves
some more of what it costs to send them, and leaves more calls to be given back by a long one."""
_TRIP_S: Final = 0.0001  # what a call takes beside its function
_WEIGHT: Final = 0.3  # of the last group, in how long calls of its kind take
_LIGHT_S: Final = 0.002
"""Seconds that the steps of a call may take in the thread of all calls. Those of a call with large
arguments take longer, and the other calls wait: so after two such calls, the next ones of their
kind have threads of their own. One alone may have waited for a processor, or for the interpreter.
"""
_HEAVY_CALLS: Final = 16
"""So many of the next ones. With a larger value it takes longer to find that they are light now."""
_MOST: Final = 200  # kinds of calls to remember, before all are forgotten


class Kinds:
    """Remembers how long calls of each kind take, and the steps on their way."""

    def __init__(self) -> None:
        self._seconds: dict[Hashable, float] = {}
        self._slow: set[Hashable] = set()  # of which the last steps have taken long
        self._heavy: dict[Hashable, int] = {}  # of which so many of the next ones have threads

    def group_size(self, kind: Hashable) -> int:
        """How many calls of a kind may go to a process together; one if none is known."""
        if kind in self._heavy:
            return 1
        return max(1, int(_GROUP_S / self._seconds.get(kind, math.inf)))

    def is_heavy(self, kind: Hashable) -> bool:
        """Whether the next call of a kind is to have a thread of its own."""
        left = self._heavy.pop(kind, 0)
        if left > 1:
            self._heavy[kind] = left - 1
        return left > 0

    def note(self, kind: Hashable, calls: int, seconds: float, steps: float) -> None:
        """Note how long so many calls have taken, and the steps on their way, in all."""
        if steps <= _LIGHT_S * max(calls, 1):
            self._slow.discard(kind)
        elif kind in self._slow:
            self._heavy[kind] = _HEAVY_CALLS
        else:
            self._slow.add(kind)
        if calls:
            now = seconds / calls + _TRIP_S
            before = self._seconds.get(kind, now)
            self._seconds[kind] = before + _WEIGHT * (now - before)
        if len(self._seconds) > _MOST:
            for known in (self._seconds, self._slow, self._heavy):
                known.clear()
