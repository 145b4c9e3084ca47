from __future__ import annotations

import pickle
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from dask_limits.dask.batch import BatchOutcome
from dask_limits.limits import CancelToken
from dask_limits.limits.packed_outcome import PackedOutcome

RunOne = Callable[[int, CancelToken], PackedOutcome[Any]]


class BatchRun:
    """The calls of one task, which run one after the other. A task of a graph is a single one.

    They run in one thread, and the loop of the worker may cancel some, or take what has not begun
    and what has ended. There is no lock: whoever takes something has it.

    Attributes:
        numbers: The calls.
    """

    def __init__(self, numbers: Iterable[int]) -> None:
        self.numbers = list(numbers)
        self._tokens = {number: CancelToken() for number in self.numbers}
        self._waiting = deque(self.numbers)
        self._ended: dict[int, PackedOutcome[Any]] = {}
        self._began_at: float | None = None
        self.cancelled = False

    def token(self, number: int) -> CancelToken:
        """What ends one of the calls."""
        return self._tokens[number]

    def run(self, run_one: RunOne) -> BatchOutcome:
        """Run the calls that nobody takes meanwhile. The outcome has what nobody has taken."""
        self._began_at = time.monotonic()
        n_run = 0
        while self._waiting and not self.cancelled:
            try:
                number = self._waiting.popleft()
            except IndexError:  # taken meanwhile
                break
            self._ended[number] = run_one(number, self._tokens[number])
            n_run += 1
        seconds = (time.monotonic() - self._began_at) / max(n_run, 1)
        return BatchOutcome(dict(self._take_ended()), seconds)

    def runs_for(self) -> float:
        """For how many seconds it has run; 0 if it waits to be admitted."""
        return 0.0 if self._began_at is None else time.monotonic() - self._began_at

    def report(self) -> dict[str, Any]:
        """Let no further call begin; return what others are to know, and what has ended so far.

        This is for a batch that takes longer than meant. Its remaining call goes on.
        """
        if len(self.numbers) == 1:
            return {}
        given_back = list(self._take_waiting())
        ended = dict(self._take_ended())
        left = [n for n in self.numbers if n not in ended and n not in given_back]
        self.numbers = left
        outcome = BatchOutcome(ended, self.runs_for() / (len(ended) + 1))
        return {
            "left": left,
            "given_back": given_back,
            "outcome": pickle.dumps(outcome, pickle.HIGHEST_PROTOCOL),
        }

    def cancel(self, numbers: Iterable[int] | None = None) -> None:
        """End these calls, or all, whether they run or wait."""
        if numbers is None:
            self.cancelled = True
        for number in self._tokens if numbers is None else numbers:
            if (token := self._tokens.get(number)) is not None:  # else it never came here
                token.cancel()

    def _take_waiting(self) -> Iterator[int]:
        while True:
            try:
                yield self._waiting.popleft()
            except IndexError:
                return

    def _take_ended(self) -> Iterator[tuple[int, PackedOutcome[Any]]]:
        while True:
            try:
                yield self._ended.popitem()
            except KeyError:
                return
