"""The task processes that wait for calls."""

from __future__ import annotations

import contextlib
import math
import resource
import threading
import time
import weakref
from collections import defaultdict, deque
from collections.abc import Callable
from typing import Final

from dask_limits.limits.owner.hold import Hold
from dask_limits.limits.owner.lease import Lease
from dask_limits.limits.owner.use import Use

_MOST_FUNCTIONS: Final = 50
"""Functions with idle clean processes, each of which has some 4 MiB of its own and an open file
here. With a smaller value, programs that call many functions in turn start more processes."""
_FILES_SHARE: Final = 4
"""At most one of so many of the files that this process may open is for such a function."""
_ROOM_WAIT_S: Final = 2.0
"""How long to ask for a process again after idle ones were ended to make room. They take some ms,
on a busy machine more."""
_TIDYING_S: Final = 1.0
"""How often, at most, to look for task processes that have ended while they were idle."""


class IdleProcesses:
    """Idle task processes, by what they are used for; `drop` ends one.

    There is no lock, but where room is made, see `Connection`.
    """

    def __init__(self, drop: Callable[[Hold], None]) -> None:
        # Weak, as it is a method of what has this: a circle of the two would keep the memory and
        # the file of a lost guardian until the garbage collector finds it.
        self._weak_drop = weakref.WeakMethod(drop)
        self.by_use: dict[Use, deque[Lease]] = defaultdict(deque)
        self._most_functions = _most_functions()
        self._next_tidying = 0.0  # seconds of time.monotonic()
        self._making_room = threading.RLock()
        self._made_room_at = -math.inf  # seconds of time.monotonic()

    def _drop(self, hold: Hold) -> None:
        if (drop := self._weak_drop()) is not None:
            drop(hold)

    def take(self, use: Use, hold: Hold) -> None:
        """Have this hold one that is fit for this use. An `IndexError` if there is none."""
        hold.take_idle(self.by_use[use])

    def add(self, use: Use, hold: Hold) -> None:
        """Take the one that is held. Those of the functions that came first may have to end."""
        idle = self.by_use[use]
        hold.make_idle(idle)
        if self.by_use.get(use) is not idle:  # no call will look there
            self._drop_all(idle)
        elif len(self.by_use) > self._most_functions:
            functions = [use for use in list(self.by_use) if not use.is_kept]
            for oldest in functions[: -self._most_functions]:
                self._drop_all(self.by_use.pop(oldest, deque()))

    def tidy_up(self) -> None:
        """Release those that have ended, and may never be looked at again."""
        if time.monotonic() < self._next_tidying:
            return
        self._next_tidying = time.monotonic() + _TIDYING_S
        self._most_functions = _most_functions()
        for use, idle in list(self.by_use.items()):
            for lease in idle.copy():
                if lease.has_ended:
                    hold = Hold()
                    with contextlib.suppress(ValueError):
                        hold.take_from_idle(idle, lease)
                        self._drop(hold)
            if not idle:
                self.by_use.pop(use, None)

    def make_room(self) -> bool:
        """End all: they have rows, files and processes. Whether to ask for a process again soon.

        That is so for some time: it takes them time to end, and the answer may be that to a
        question of another call, which has asked before.
        """
        with self._making_room:
            if self.drop_all():
                self._made_room_at = time.monotonic()
            elif time.monotonic() > self._made_room_at + _ROOM_WAIT_S:
                return False
        return True

    def drop_all(self) -> bool:
        """End all. Whether there were any."""
        had_some = [self._drop_all(idle) for idle in list(self.by_use.values())]
        return any(had_some)

    def _drop_all(self, idle: deque[Lease]) -> bool:
        hold, had_some = Hold(), bool(idle)
        with contextlib.suppress(IndexError):
            while True:
                hold.take_idle(idle)
                self._drop(hold)
        return had_some


def _most_functions() -> int:
    """How many functions may have idle processes."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return max(1, min(_MOST_FUNCTIONS, soft // _FILES_SHARE))
