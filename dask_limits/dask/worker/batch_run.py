from __future__ import annotations

import pickle
import time
from collections import deque
from collections.abc import Callable, Collection, Iterable, Iterator
from functools import partial
from itertools import islice
from typing import Any, Final, TypeAlias

from dask_limits.dask.batch import BatchOutcome, has_failed
from dask_limits.dask.packed_call import PackedCall
from dask_limits.limits import CancelToken, Limits
from dask_limits.limits.call_log import Place
from dask_limits.limits.ipc import messages
from dask_limits.limits.ipc.progress_values import Tell
from dask_limits.limits.owner.group import Call, Group
from dask_limits.limits.owner.steps import Steps, drive
from dask_limits.limits.packed_outcome import PackedOutcome

RunsAgain: TypeAlias = Callable[[int, PackedOutcome[Any]], bool]
TellProgress: TypeAlias = Callable[[int, bytes], object]

_FIRST_GROUP: Final = 4
"""Calls that go to a task process together before it is known how long they take."""
_GROUP_S: Final = 0.01
"""How long those of a group may take. What is in a group cannot be told or given back in between;
it ends, or comes back, by itself."""


class _Numbered(Call):
    """A call that tells its run when it begins, and when it has ended."""

    def __init__(self, run: BatchRun, number: int, tell: Tell | None, *call: Any) -> None:
        super().__init__(*call)
        self.on_progress = tell
        self._run = run
        self.number = number

    def begin(self) -> None:
        """See `Call`."""
        self._run.last_begun = self.number

    def end(self, outcome: PackedOutcome[Any]) -> None:
        """See `Call`."""
        self._run.end(self.number, outcome)

    def in_short(self) -> str:
        """See `Call`. They are pickled."""
        return self.fn.arguments if isinstance(self.fn, PackedCall) else super().in_short()


class BatchRun:
    """The calls of one task, which run one after the other. A task of a graph is a single one.

    They run in one thread, and the loop of the worker may cancel some, or take what has not begun
    and what has ended. There is no lock: whoever takes something has it.

    Attributes:
        numbers: The calls.
        tokens: What ends each of them, those too that were taken.
        last_begun: The one that began last; they begin in order, but for those that run again.
    """

    def __init__(self, numbers: Iterable[int], place: Place | None = None) -> None:
        self.numbers = list(numbers)
        self._place = place
        self.tokens = {number: CancelToken() for number in self.numbers}
        self._waiting = deque(self.numbers)
        self._ended: dict[int, PackedOutcome[Any]] = {}
        self._began_at: float | None = None
        self._group: Collection[Call] = ()
        self._n_ended = self._n_failed = 0
        self._runs_again: RunsAgain = lambda *_: False
        self.last_begun: int | None = None
        self.cancelled = False

    def run(
        self,
        calls: Callable[[int], tuple[Callable[..., Any], tuple[Any, ...]]],
        limits: Limits,
        steps: Callable[[Group[Any]], Steps[None]],
        runs_again: RunsAgain,
        tell: TellProgress | None = None,
    ) -> BatchOutcome:
        """Run the calls that nobody takes meanwhile. The outcome has what nobody has taken.

        `calls` has the function and the arguments of each. One that has ended may run again. What
        they report of their progress goes to `tell`.
        """
        self._began_at = time.monotonic()
        self._runs_again = runs_again
        most = _FIRST_GROUP
        while not self.cancelled and (numbers := [*islice(self._take_waiting(), most)]):
            group = Group([self._call(n, *calls(n), limits, tell) for n in numbers], self._return)
            if not group.calls[0].shares:
                group.give_back_after(1)
            self._group = group.calls
            drive(steps(group))
            self._return(group.calls)
            self._group = ()
            most = max(1, min(int(_GROUP_S / self._seconds()), messages.MOST_CALLS))
        return self._outcome(dict(self._take_ended()), self._seconds())

    def _outcome(self, ended: dict[int, PackedOutcome[Any]], seconds: float) -> BatchOutcome:
        return BatchOutcome(ended, seconds, place=self._place, n_failed=self._n_failed)

    def _call(
        self,
        number: int,
        fn: Callable[..., Any],
        args: tuple[Any, ...],
        limits: Limits,
        tell: TellProgress | None,
    ) -> _Numbered:
        of_this = None if tell is None else partial(tell, number)
        return _Numbered(self, number, of_this, fn, args, {}, limits, self.tokens[number])

    def _seconds(self) -> float:
        """How long a call takes on average."""
        return self.runs_for() / max(self._n_ended, 1)

    def end(self, number: int, outcome: PackedOutcome[Any]) -> None:
        """Note how a call has ended. It may run again."""
        if self._runs_again(number, outcome):
            self._waiting.appendleft(number)
        else:
            self._ended[number] = outcome
            self._n_ended += 1
            self._n_failed += has_failed(outcome)

    def _return(self, calls: Iterable[_Numbered]) -> None:
        """Have these calls wait again, before the others."""
        self._waiting.extendleft(call.number for call in reversed([*calls]))

    @property
    def may_get_some_back(self) -> bool:
        """Whether calls lie ready behind one that runs: if it takes long, they soon come back."""
        return len(self._group) > 1

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
        outcome = self._outcome(ended, self.runs_for() / (len(ended) + 1))
        return {
            "left": left,
            "given_back": given_back,
            "outcome": pickle.dumps(outcome, pickle.HIGHEST_PROTOCOL),
        }

    def cancel(self, numbers: Iterable[int] | None = None) -> None:
        """End these calls, or all, whether they run or wait."""
        if numbers is None:
            self.cancelled = True
        for number in self.tokens if numbers is None else numbers:
            if (token := self.tokens.get(number)) is not None:  # else it never came here
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
