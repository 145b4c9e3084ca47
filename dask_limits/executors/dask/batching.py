"""Which calls wait for others, and how many of them go to a worker together.

Short calls go in batches: sending a task through Dask takes as much time as running ten of them.
How long the calls of a kind take is measured. As long as it is not known they go one by one, as do
long ones. A batch has no more than its share of the calls of its kind, so that none of the workers
is idle while others have many. So that there are batches when calls are submitted one by one, each
when another one is done, calls wait here while all workers have some of their kind.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Hashable, Iterable, Iterator
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from dask_limits.executors.dask.submissions import Submission

_BATCH_S: Final = 0.075
"""How long a batch is meant to take. A worker gives back the rest of one that takes 0.1 s."""
_SIZES: Final = sorted({1, *(2**n for n in range(12)), *(3 * 2**n for n in range(10))})
"""How many calls a batch may have: 1, 2, 3, 4, 6, 8, 12, 16, ... Dask keeps account of tasks by
their names, which have the number: these are few."""
_BATCH_BYTES: Final = 2**20
"""The most bytes of a batch: larger calls gain nothing from going together."""
_AHEAD: Final = 1.5
"""How many tasks of a kind are at the workers for each of their cores: one that runs, and one that
is there when that ends."""
_HOLD_S: Final = 0.1
"""How long calls wait while no task of their kind ends: something else keeps the workers busy."""
_HOLD_UNKNOWN_S: Final = 1.0
"""The same as long as it is not known how long they take: the first one may start a process."""
_MOST_KINDS: Final = 1000
"""How many kinds are remembered whose calls are all done."""


class _Kind:
    """The calls of a function with the same limits."""

    def __init__(self) -> None:
        self.waiting: deque[Submission] = deque()
        self.n_calls = 0  # that were sent and are not done
        self.n_tasks = 0  # that they are
        self.seconds: float | None = None  # that a call takes
        self.moved_at = -math.inf  # when one of the tasks ended, or the first one was sent

    @property
    def most(self) -> int:
        """How many calls make a full batch."""
        return 1 if self.seconds is None else _size(_BATCH_S / max(self.seconds, 1e-6))


class Batching:
    """Divides calls into batches.

    Attributes:
        cores: How many calls can run at a time on the cluster. While it is 0, nothing waits.
    """

    def __init__(self) -> None:
        self.cores = 0
        self._kinds: dict[Hashable, _Kind] = {}
        self._waiting: dict[Hashable, _Kind] = {}  # those of which calls wait

    def add(self, calls: Iterable[Submission], now: float) -> None:
        """Calls are to be sent."""
        for call in calls:
            kind = self._kinds.get(call.kind)
            if kind is None:
                kind = self._kinds[call.kind] = _Kind()
                self._forget_some()
            if not kind.waiting:
                self._waiting[call.kind] = kind
                if not kind.n_tasks:
                    kind.moved_at = now
            kind.waiting.append(call)

    def take(self, now: float) -> Iterator[list[Submission]]:
        """The batches to send now. They count as sent."""
        for key, kind in list(self._waiting.items()):
            yield from self._take(kind, now)
            if not kind.waiting:
                del self._waiting[key]

    def _take(self, kind: _Kind, now: float) -> Iterator[list[Submission]]:
        is_held_for = _HOLD_UNKNOWN_S if kind.seconds is None else _HOLD_S
        may_hold = self.cores > 0 and now < kind.moved_at + is_held_for
        while kind.waiting:
            most = kind.most if self.cores else 1
            n_all = len(kind.waiting) + kind.n_calls
            share = _size(math.ceil(n_all / (_AHEAD * max(self.cores, 1))))
            n = min(most, share)
            if may_hold and kind.n_tasks >= self.cores and not self._is_worth_it(kind, n, most):
                return
            batch = list(_taken(kind.waiting, _size(min(n, len(kind.waiting)))))
            if batch:
                kind.n_tasks += 1
                kind.n_calls += len(batch)
                yield batch

    def _is_worth_it(self, kind: _Kind, n: int, most: int) -> bool:
        """Whether to send a batch of up to n calls although each core has a task of this kind."""
        if kind.seconds is not None and 1 < n == most:
            return len(kind.waiting) >= n
        return kind.n_tasks < _AHEAD * self.cores and len(kind.waiting) >= n

    def ended(self, kind: Hashable, n_calls: int, seconds: float | None, now: float) -> None:
        """A task has ended. Its calls took so long each, if that is known."""
        one = self._kinds.get(kind)
        if one is None:
            return
        one.n_tasks -= 1
        one.n_calls -= n_calls
        one.moved_at = now
        if seconds is not None:
            self.took(kind, seconds)

    def took(self, kind: Hashable, seconds: float) -> None:
        """Some calls have taken so long each."""
        if (one := self._kinds.get(kind)) is not None:
            one.seconds = seconds if one.seconds is None else (one.seconds + seconds) / 2

    def look_at(self, now: float) -> float | None:
        """In how many seconds to look again, whatever happens; None if nothing waits."""
        if not self._waiting:
            return None
        holds = (
            one.moved_at + (_HOLD_UNKNOWN_S if one.seconds is None else _HOLD_S)
            for one in self._waiting.values()
        )
        return max(min(holds) - now, 0.001)

    def clear(self) -> None:
        """Forget what waits: it is lost."""
        self._waiting.clear()
        self._kinds.clear()

    def _forget_some(self) -> None:
        if len(self._kinds) > _MOST_KINDS:
            for key, kind in list(self._kinds.items()):
                if not (kind.waiting or kind.n_tasks):
                    del self._kinds[key]
                    if len(self._kinds) <= _MOST_KINDS // 2:
                        return


def _size(most: float) -> int:
    """The largest size of a batch that is no more than this; 1 at least."""
    return max((n for n in _SIZES if n <= most), default=1)


def _taken(waiting: deque[Submission], most: int) -> Iterator[Submission]:
    """Take calls from those that wait, as many as may go together. Those that are done go too."""
    n = size = 0
    while waiting and n < most:
        size += waiting[0].packed.data.nbytes
        if n and size > _BATCH_BYTES:
            return
        call = waiting.popleft()
        if not call.future.done():
            n += 1
            yield call
