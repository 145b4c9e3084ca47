"""Calls that go to a task process in one request, and run there one after the other."""

from __future__ import annotations

import errno
import functools
from collections import deque
from collections.abc import Callable, Iterable
from typing import Any, Final, Generic, TypeVar

from dask_limits.in_short import arguments_in_short
from dask_limits.limits import call_log, trace_context
from dask_limits.limits.cancel import CancelToken
from dask_limits.limits.in_place import name_of
from dask_limits.limits.ipc import payload, pickling
from dask_limits.limits.ipc.by_value import CallPickler
from dask_limits.limits.ipc.payload import Payload
from dask_limits.limits.ipc.progress_values import Tell
from dask_limits.limits.limits import Limits
from dask_limits.limits.outcome import Outcome
from dask_limits.limits.owner.answers import Outcomes
from dask_limits.limits.owner.recurring import recurring
from dask_limits.limits.owner.use import Use
from dask_limits.limits.packed_outcome import PackedOutcome
from dask_limits.placement.resources import Request

_MOST_BYTES: Final = 64 * 1024
"""Of the pickles of a group: a message has room for twice as much."""
_NO_ROOM: Final = {errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOSPC}
_NOT_PACKED: Final = Payload()


class Call:
    """One call, until its outcome is known.

    Attributes:
        sent: What is needed to unpickle the outcome; None if nobody here does.
        on_progress: What takes the values that it reports; None if nobody asks for them.
        carrier: The trace that it is part of; None if there is none.
        outcome: How it has ended, if it has.
        reserves: What it is to reserve before it begins; None if nothing, or if it has done so.
        order: Those with a lower one go first.
    """

    reserves: Request | None = None
    order = 0

    def __init__(
        self,
        fn: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        limits: Limits,
        cancel: CancelToken | None = None,
        sent: dict[int, Any] | None = None,
        on_progress: Tell | None = None,
    ) -> None:
        self.fn, self.args, self.kwargs = fn, args, kwargs
        self.limits = limits
        self._use: Use | None = None
        self.cancel = cancel or CancelToken()
        self.sent = sent
        self.on_progress = on_progress
        self.carrier = trace_context.carrier()
        self.request = _NOT_PACKED
        self.outcome: PackedOutcome[Any] | None = None

    @property
    def use(self) -> Use:
        """What its process is used for."""
        if self._use is None:
            self._use = Use.of(self.fn, self.limits)
        return self._use

    @property
    def outcomes(self) -> Outcomes:
        """Makes its outcome."""
        return Outcomes(name_of(self.fn), self.limits)

    def begin(self) -> None:
        """Take that it may run from now on."""

    def end(self, outcome: PackedOutcome[Any]) -> None:
        """Take its outcome."""
        self.outcome = outcome

    def take(self, outcome: Outcome[Any]) -> None:
        """Take its outcome, where it has run in this process."""
        self.end(PackedOutcome.of(outcome, name_of(self.fn), self.limits))

    def in_short(self) -> str:
        """Its arguments, for the log."""
        return arguments_in_short(self.args, self.kwargs)

    def goes_with(self, other: Call) -> bool:
        """Whether it can be in a group with another one that `shares`."""
        same = self.limits is other.limits or self.limits == other.limits
        return same and self.use == other.use and self.on_progress is None

    @property
    def shares(self) -> bool:
        """Whether it can be in a group with others: of the same use and limits."""
        limits = self.limits
        is_reused = limits.isolation in ("clean", "warm")
        is_plain = not (limits.capture_output or limits.grace_period)
        return is_reused and is_plain and self.on_progress is None

    def pack(self) -> bool:
        """Pickle it, unless it is. False if that is not possible, which has ended it."""
        if self.request is not _NOT_PACKED:
            return True
        self.request = Payload()
        thing = self.fn, self.args, self.kwargs
        try:
            new_pickler = functools.partial(CallPickler, sent=self.sent)
            whole = thing if self.carrier is None else (*thing, self.carrier)
            payload.pack(whole, new_pickler, self.request, recurring.place_of)
        except Exception as error:
            if isinstance(error, OSError) and error.errno in _NO_ROOM:
                self.end(self.outcomes.refused(str(error)))
            else:
                why = pickling.unpicklable_arguments(*thing, self.limits, error)
                self.end(self.outcomes.failed(why))
        return self.outcome is None


C = TypeVar("C", bound=Call)


class Group(Generic[C]):
    """Calls of the same use and limits, which run one after the other while they are short.

    Attributes:
        calls: Those that have not ended, in order. Of these the first one runs, if any.
        ended: How many have ended in the process that has them.
        seconds: How long these have taken together.
        tells: Whether what it reports of its progress is asked for: then it is one call.
        place: What the log says of where they run; empty if that is this process.
    """

    place = ""

    def __init__(
        self, calls: Iterable[C], give_back: Callable[[Iterable[C]], object] | None = None
    ) -> None:
        self.calls = deque(calls)
        self.limits, self.use = self.calls[0].limits, self.calls[0].use
        self.tells = self.calls[0].on_progress is not None
        self.ended = 0
        self.seconds = 0.0
        self._give_back = give_back

    def pack(self) -> bool:
        """Pickle the calls. Those that do not fit are given back. False if none is left."""
        room, fit = _MOST_BYTES, 0
        for call in list(self.calls):
            if not call.pack():
                self.calls.remove(call)
                continue
            room -= len(call.request.head)
            has_files = bool(call.request.fds)
            if fit and (room < 0 or has_files):
                if has_files:
                    call.request.close()
                    call.request = _NOT_PACKED
                break
            fit += 1
            if has_files:
                break
        self.give_back_after(fit)
        return bool(self.calls)

    def end_cancelled(self) -> bool:
        """End the calls that were cancelled before they are sent. Whether none is left."""
        for call in [call for call in self.calls if call.cancel.cancelled]:
            self._end(call, call.outcomes.ended("cancelled"))
        return not self.calls

    def end_first(self, outcome: PackedOutcome[Any]) -> None:
        """The first call has run, and ended like that."""
        call = self.calls[0]
        call.cancel.on_cancel(None)
        self.ended += 1
        self.seconds += outcome.usage.wall_time
        self._end(call, outcome)
        if self.calls:
            self.calls[0].begin()

    def end_all(self, outcome: Callable[[Outcomes], PackedOutcome[Any]]) -> None:
        """All calls have ended like that, for the same reason."""
        while self.calls:
            self._end(self.calls[0], outcome(self.calls[0].outcomes))

    def _end(self, call: C, outcome: PackedOutcome[Any]) -> None:
        call.request.close()
        self.calls.remove(call)  # not before: Ctrl-C may come here
        call.end(outcome)
        call_log.ended_here(outcome, self.place, call.in_short)

    def give_back_after(self, number: int) -> None:
        """Keep so many calls: the others have not begun, and are to run elsewhere."""
        others = deque[C]()
        while len(self.calls) > number:
            others.appendleft(self.calls.pop())
            others[0].cancel.on_cancel(None)
        if others and self._give_back is not None:
            self._give_back(others)

    def close(self) -> None:
        """Close the files of the calls, whatever has interrupted them."""
        for call in self.calls:
            call.cancel.on_cancel(None)
            call.request.close()
