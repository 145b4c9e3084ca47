"""Counts what is told of each call."""

from __future__ import annotations

import itertools
import time
from collections import Counter
from concurrent.futures import Future
from typing import Any, Final, NamedTuple

from benchmarks.soak.calls import Item
from benchmarks.soak.mix import OF_A_KILL, is_as_meant
from dask_limits import Scheduler

MOST_SHOWN: Final = 20
_DONE, _ENDED, _TASKS_DONE, _TASKS_ENDED, _CANCELLED = 1, 2, 4, 8, 16
_WHOLE: Final = {
    _DONE | _ENDED | _TASKS_DONE | _TASKS_ENDED,
    _ENDED | _TASKS_ENDED | _CANCELLED,
}
"""What is told of a call that has ended, and of one that was cancelled."""


class Took(NamedTuple):
    """Seconds, and those of CPU time of this process: these hardly depend on what else runs."""

    wall_s: float
    cpu_s: float


class Told:
    """What has been told of each call, by its number: that it is done, and how it ended, by the
    events of the scheduler and by those of its task, each once.

    Attributes:
        wrong: What should not be, in words.
        items: What each call was given that is not done.
        n_told: How many calls are.
        ends: How many calls have ended how.
        n_killed: How many calls ended because something was killed.
    """

    def __init__(self, most: int) -> None:
        self._seen = bytearray(most)  # all of it now, so that it does not grow
        self.wrong: list[str] = []
        self.items: dict[Future[Any], Item] = {}
        self.n_told = self.n_killed = self.n_reruns = 0
        self.ends: Counter[str] = Counter()
        self._numbers = itertools.count()
        self._stamps: dict[int, Took] = {}

    def listen(self, scheduler: Scheduler, tasks: list[Any]) -> None:
        scheduler.on_future_done(lambda future: self._note(future, _DONE))
        scheduler.on_future_result(lambda future, _: self._note(future, _ENDED))
        scheduler.on_future_exception(lambda future, _: self._note(future, _ENDED))
        scheduler.on_future_cancelled(lambda future: self._note(future, _ENDED | _CANCELLED))
        for task in tasks:
            task.on_submitted(self.submitted)
            task.on_rerun(self._rerun)
            task.on_done(lambda future: self._note(future, _TASKS_DONE))
            task.on_result(lambda future, _: self._end(future))
            task.on_exception(lambda future, _: self._end(future))
            task.on_cancelled(self._end)

    def submitted(self, future: Future[Any], item: Item) -> None:
        self.items[future] = item
        if self._seen[item.number]:
            self._complain(f"{item} was submitted after it had ended")

    def _note(self, future: Future[Any], what: int) -> None:
        if (item := self.items.get(future)) is None:
            self._complain(f"a call was told again, or never submitted: {future}")
        elif self._seen[item.number] & what:
            self._complain(f"{name(item)} was told twice")
        else:
            self._seen[item.number] |= what

    def _end(self, future: Future[Any]) -> None:
        """The last event of a call."""
        self._note(future, _TASKS_ENDED)
        if (item := self.items.pop(future, None)) is None:
            return
        self.n_told += 1
        if self.n_told in self._stamps:
            self._stamps[self.n_told] = Took(time.perf_counter(), time.process_time())
        error = None if future.cancelled() else future.exception()
        end = "cancelled" if future.cancelled() else type(error).__name__ if error else "result"
        self.ends[end] += 1
        if self._seen[item.number] not in _WHOLE:
            self._complain(f"{name(item)} ended, and not all was told: {self._seen[item.number]}")
        if is_as_meant(item, future):
            return
        if isinstance(error, OF_A_KILL):
            self.n_killed += 1
        else:
            self._complain(f"{name(item)} ended with {error!r:.300}")

    def _rerun(self, future: Future[Any], *_: object) -> None:
        self.n_reruns += 1
        if future not in self.items:
            self._complain(f"a call runs again that has ended: {future}")

    def check_all(self, n_submitted: int) -> None:
        """The run is over: each call was told."""
        for number in range(n_submitted):
            if self._seen[number] not in _WHOLE:
                self._complain(f"call {number} was told of by {self._seen[number]:05b} only")
        if self.items:
            self._complain(f"{len(self.items)} calls are not done")

    def _complain(self, text: str) -> None:
        if len(self.wrong) < MOST_SHOWN:
            self.wrong.append(text)

    # -- how quick -----------------------------------------------------------------------------

    def stamp_next(self, skipped: int, calls: int) -> tuple[int, int]:
        """Note when so many calls were told that come after so many others."""
        first = self.n_told + skipped
        between = (first, first + calls)
        self._stamps |= dict.fromkeys(between, Took(0, 0))
        return between

    def took(self, between: tuple[int, int]) -> Took:
        """From the one call to the other, as they were told."""
        first, last = (self._stamps[n] for n in between)
        return Took(last.wall_s - first.wall_s, last.cpu_s - first.cpu_s)


def name(item: Item) -> str:
    return f"call {item.number} ({item.kind})"
