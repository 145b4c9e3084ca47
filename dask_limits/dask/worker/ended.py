from __future__ import annotations

import threading
import time
from collections import Counter, deque
from collections.abc import Callable
from typing import Any, Final

from dask_limits.dask import ended
from dask_limits.dask.ended import ByFunction, Failure, Slots
from dask_limits.exceptions import CallError
from dask_limits.in_short import with_arguments
from dask_limits.limits import Limits, Outcome, Usage, call_log
from dask_limits.limits.endings import word_of
from dask_limits.limits.packed_outcome import PackedOutcome

_MOST_ROWS: Final = 1000
"""Of so many calls it is kept what they have used until the scheduler asks. Each takes 0.2 KiB."""
_STACKS: Final = 4000  # characters
_NAME: Final = 200


class EndedHere:
    """Tells the scheduler, when it asks, how the calls of a worker have ended and what they used.

    While nobody asks, this costs a call three microseconds: all are counted, and the amounts of the
    last ones are kept.
    """

    def __init__(self, worker: str, send: Callable[[dict[str, Any]], object]) -> None:
        self._worker = worker
        self._send = send
        self._lock = threading.Lock()
        self._n_calls: Counter[tuple[str, str]] = Counter()
        self._slots: Slots = Counter()
        self._slot = 0
        self._rows: deque[tuple[str, Limits, float, float, int, int]] = deque(maxlen=_MOST_ROWS)
        self._failures: deque[Failure] = deque(maxlen=ended.MOST_FAILURES)

    @property
    def handlers(self) -> dict[str, Callable[[], None]]:
        """What the scheduler can send."""
        return {ended.TELL: self.tell}

    def add(self, name: str, arguments: str, outcome: Outcome[Any], limits: Limits) -> None:
        """A call has ended. In any thread. The arguments are needed if it has failed."""
        error = outcome.exception
        self._add(name, arguments, word_of(error), error, outcome.usage, limits)

    def add_packed(self, outcome: PackedOutcome[Any], arguments: str) -> None:
        """The same of one whose value or exception is still pickled."""
        ending, usage = call_log.word_of_packed(outcome), call_log.usage_of(outcome)
        self._add(outcome.name, arguments, ending, outcome.exception, usage, outcome.limits)

    def refused(self, name: str, arguments: str, error: Exception) -> None:
        """A call was refused here."""
        self._add(name, arguments, word_of(error), error, None, Limits())

    def _add(
        self,
        name: str,
        arguments: str,
        ending: str,
        error: BaseException | None,
        usage: Usage | None,
        limits: Limits,
    ) -> None:
        now, name = time.time(), name[:_NAME]
        with self._lock:
            if (slot := ended.slot_of(now)) != self._slot:
                self._slot = slot
                ended.forget_old(self._slots, now)
            self._slots[slot, ending] += 1
            if len(self._n_calls) < _MOST_ROWS or (name, ending) in self._n_calls:
                self._n_calls[name, ending] += 1
            else:
                self._n_calls[ended.OTHERS, ending] += 1
            if usage is not None:
                used = usage.wall_time, usage.cpu_time, usage.peak_memory, usage.num_processes
                self._rows.append((name, limits, *used))
            if isinstance(error, CallError) and ending not in ("raised", "cancelled"):
                line = with_arguments(call_log.in_a_line(error), name, arguments)
                stacks = error.stacks[:_STACKS]
                self._failures.append(Failure(now, name, ending, line, stacks, self._worker))

    def tell(self) -> None:
        """Tell what has come since the last time. Called on the worker's loop."""
        with self._lock:
            n_calls, self._n_calls = self._n_calls, Counter()
            slots, self._slots = self._slots, Counter()
            rows, failures = [*self._rows], [*self._failures]
            self._rows.clear()
            self._failures.clear()
        if not n_calls:
            return
        functions = ByFunction.of(n_calls)
        for name, limits, *used in rows:
            spreads = functions[name].spreads
            for amount, limit in zip(used, ended.AMOUNTS, strict=True):
                spreads[limit].add(amount, getattr(limits, limit))
        self._send(
            {
                "op": ended.ENDED,
                "functions": [*functions.rows()],
                "slots": [(*key, n) for key, n in slots.items()],
                "failures": [tuple(one) for one in failures],
            }
        )
