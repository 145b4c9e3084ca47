"""Ends what calls have left, and lets their resource trackers do their work first.

Semaphores, shared memory and folders of multiprocessing and joblib outlive the processes that made
them. Their resource tracker removes them when nobody is left who holds its pipe: so it is spared
when all others are killed. A call can disguise a process of its own as a tracker: so only what runs
when the call ends is spared, and only for some time.
"""

from __future__ import annotations

import math
import signal
from collections.abc import Iterable
from typing import Final

from dask_limits.limits.linux import proctree

TRACKER_WAIT_S: Final = 3.0
"""How long a resource tracker may take. It takes some 30 ms, of which most is Python's own end; but
a folder of many GiB on a slow disk takes longer, and so do processes with much memory to end."""


class Leftovers:
    """Ends processes that fall to this one as children, when what started them has ended."""

    def __init__(self, *, all_end: bool = False) -> None:
        """`all_end` says that every call ends now."""
        self._all_ended_at = proctree.seconds_since_boot() if all_end else -math.inf
        self._ended_at: dict[int, float] = {}  # by session: each task process has its own

    def note_end(self, sessions: Iterable[int]) -> None:
        """Note that the call ends whose processes, as far as we know, are in these sessions."""
        now = proctree.seconds_since_boot()
        recent = {s: at for s, at in self._ended_at.items() if now < at + TRACKER_WAIT_S}
        self._ended_at = recent | dict.fromkeys(sessions, now)

    def end(self, pids: Iterable[int]) -> None:
        """End these processes and everything below them, except trackers that have time left."""
        now, found = proctree.seconds_since_boot(), list(pids)
        for pid in found:
            process = proctree.read_process(pid)
            if process is None or not proctree.may_be_resource_tracker(pid):
                proctree.kill_tree(pid)
                continue
            found += proctree.children_of(pid)  # it has none, except if it is about to end
            ended_at = self._ended_at.get(process.session, self._all_ended_at)
            if process.started > ended_at or now > ended_at + TRACKER_WAIT_S:
                proctree.send_signal(pid, signal.SIGKILL)
