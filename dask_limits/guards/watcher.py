"""The thread that watches all guards of the process."""

from __future__ import annotations

import _thread
import math
import os
import queue
import threading
import time
from typing import Final

from dask_limits.guards.entry import inside

_LINGER_S: Final = 0.1
"""How long the thread stays when it is idle: starting one takes as long as 20 short blocks."""
_LONGEST_SLEEP_S: Final = 3600.0


class Watcher:
    """Sleeps until the next guard is due, handles it, and ends when there is none.

    Threads that enter and leave take no lock, which an interrupt could leave locked. They ring a
    bell if the watcher would sleep for too long.
    """

    def __init__(self) -> None:
        self.wakes_at = math.inf  # while it is awake, so that a thread that enters rings
        self._bell: queue.SimpleQueue[None] = queue.SimpleQueue()
        self._emptied = False
        self.running = False  # its thread may be about to end

    def attend(self, due: float) -> None:
        """Watch an entry, which is in `inside` already."""
        if not self.running:
            self.running = True  # only one thread gets here: no other runs between test and set
            try:
                # Not by threading.Thread: its start() takes locks and registers the thread, and the
                # guard that is being entered may interrupt it in the middle of that.
                _thread.start_new_thread(self._run, ())
            except RuntimeError:  # no more threads can be started
                self.running = False
                raise
        elif due < self.wakes_at:
            self._bell.put(None)

    def all_have_left(self) -> None:
        """Note that no entry is left for the moment."""
        self._emptied = True
        if self.wakes_at > time.monotonic() + _LINGER_S:
            self._bell.put(None)

    def _run(self) -> None:
        try:
            while True:
                self._watch()
                self.running = False
                # A thread may have entered that still saw it running.
                if not inside or self.running:
                    return
                self.running = True
        except BaseException:
            self.running = False
            raise

    def _watch(self) -> None:
        """Watch until there has been nothing to watch for a while."""
        idle_since = None
        while True:
            self.wakes_at = math.inf
            while not self._bell.empty():  # one look answers all of them
                self._bell.get()
            due = self._see_to_all()
            now = time.monotonic()
            if due is None:
                if idle_since is None:
                    idle_since = now
                elif now - idle_since >= _LINGER_S:
                    return
                due = idle_since + _LINGER_S
            else:
                idle_since = None
                if self._emptied:  # probably a loop of short blocks: spare them the bell
                    due = min(due, now + _LINGER_S)
            self._emptied = False
            self.wakes_at = due
            try:
                self._bell.get(timeout=min(max(due - time.monotonic(), 0), _LONGEST_SLEEP_S))
            except queue.Empty:
                pass

    def _see_to_all(self) -> float | None:
        """Interrupt all that are due. Returns when the next one will be; None if there is none."""
        next_due = math.inf
        for entry in list(inside):
            now = time.monotonic()
            if entry.due <= now:
                # When the interpreter begins to shut down, the main thread counts as ended, but
                # still runs the functions that are registered with atexit.
                thread = entry.thread
                if not thread.is_alive() and thread is not threading.main_thread():
                    # It left a generator suspended in the block. A new thread may have its number.
                    entry.left = True
                    inside.pop(entry, None)
                    continue
                error = entry.look(now)
                if error is not None:
                    entry.send(error, now)
            next_due = min(next_due, entry.due)
        return next_due if inside else None


watcher: Final = Watcher()


def _forget_all() -> None:
    """In a forked child: guards stay with the parent, as alarms do (alarm(2))."""
    for entry in list(inside):
        entry.address.value = 0
        entry.signalled = False
    inside.clear()
    Watcher.__init__(watcher)


os.register_at_fork(after_in_child=_forget_all)
