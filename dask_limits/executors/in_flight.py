"""How many calls to have submitted at a time, of more than should lie in memory."""

from __future__ import annotations

import time
from typing import Final

from dask_limits.limits import Usage

_WINDOW_S: Final = 0.1
"""As many calls are in flight as have ended in the last window, so that executors always have some
to take, however short these are. A larger value holds more items in memory."""
_LEAST_FOR_EACH: Final = 2
"""Calls in flight for each one that can run at a time: one runs, one waits."""
_AHEAD_S: Final = 0.2
"""How long the calls in flight are to take each place, so that there are some to go together in a
batch of Dask while another one runs."""
_MOST_FOR_EACH: Final = 100
_WEIGHT: Final = 0.1  # of the last call, in the mean of their lengths


class InFlight:
    """Decides how many calls are to be in flight, by how long they take and how fast they end."""

    def __init__(self) -> None:
        self._window_ends = 0.0  # seconds of time.monotonic()
        self._ended = self._ended_before = 0  # calls, in this window and the last one
        self._seconds = 1.0  # that a call takes: one is as good as any that is long

    def note_end(self, usage: Usage | None) -> None:
        """Note that a call has ended; None if it has not run."""
        self._ended += 1
        if usage is not None:
            self._seconds += _WEIGHT * (usage.wall_time - self._seconds)

    def most(self, places: int) -> int:
        """How many calls there are to be, of which so many can run at a time."""
        now = time.monotonic()
        if now >= self._window_ends:
            self._window_ends = now + _WINDOW_S
            self._ended_before, self._ended = self._ended, 0
        for_each = min(max(_AHEAD_S / max(self._seconds, 1e-6), _LEAST_FOR_EACH), _MOST_FOR_EACH)
        return max(int(for_each * places), self._ended_before, self._ended)
