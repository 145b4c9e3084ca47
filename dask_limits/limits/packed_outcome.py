from __future__ import annotations

import sys
from dataclasses import dataclass, replace
from typing import Any, Final, Generic, SupportsIndex, TypeVar

from dask_limits.exceptions import (
    Breach,
    CallError,
    CallPicklingError,
    CommandError,
    ExitError,
    RemoteTraceback,
    WallTimeBreach,
)
from dask_limits.limits.breaches import breach
from dask_limits.limits.interrupted import is_by_signal
from dask_limits.limits.ipc import answer, by_value, messages, pickling
from dask_limits.limits.ipc.answer import Answer
from dask_limits.limits.ipc.payload import Packed
from dask_limits.limits.limits import Limits
from dask_limits.limits.outcome import Outcome, Usage
from dask_limits.limits.tracebacks import say, text_of

R = TypeVar("R")

_PICKLING: Final = {
    "arguments": "{call}(): function or arguments cannot be unpickled in the task process: {why}",
    "result": "The result of {call}() cannot be pickled: {why}",
    "exception": "{call}() raised {what}. This exception cannot be pickled and unpickled: {why}",
}


@dataclass(frozen=True, eq=False)
class PackedOutcome(Generic[R]):
    """A finished call whose value or exception is still pickled, as its task process pickled it.

    It can pass through processes that cannot unpickle it, such as a Dask worker, without copies of
    large arrays. It is unpickled once, where the user reads it.
    """

    name: str  # of the function
    limits: Limits
    usage: Usage
    exception: CallError | None = None  # if it neither returned nor raised, or breached a limit
    value: Packed | None = None  # that it returned
    raised: Packed | None = None  # what it raised, with the text of its traceback

    def with_answer(self, end: Answer) -> PackedOutcome[R]:
        """The same call as its task process says it ended."""
        kind, content = end
        if isinstance(content, Exception):
            part = "exception" if kind == messages.RAISED else "result"
            return self.failed(_not_rebuilt(part, self.name, content), cause=content)
        if kind == messages.RETURNED:
            return PackedOutcome(self.name, self.limits, self.usage, value=content)
        if kind == messages.RAISED:
            return PackedOutcome(self.name, self.limits, self.usage, raised=content)
        if kind == messages.EXITED:
            return self.failed(ExitError.of(self.name, content))
        if kind == messages.BREACHED:
            return self.failed(breach(self.name, self.limits, content, self.usage, ""))
        part, said, what, text = content
        message = _PICKLING[part].format(call=self.name, why=said, what=what)
        return self.failed(CallPicklingError(message, part=part), cause=RemoteTraceback(text))

    @classmethod
    def of(cls, outcome: Outcome[R], name: str, limits: Limits) -> PackedOutcome[R]:
        """Pack the outcome of a call that ran in this process."""
        error = outcome.exception
        end = cls(name, limits, outcome.usage)
        if isinstance(error, CallError) and error.__traceback__ is None:  # it was not raised
            return replace(end, exception=error)
        if error is None:
            kind, packed = pickling.pack_returned(outcome.value)
        else:
            kind, packed = pickling.pack_raised(error)
        with packed:
            return end.with_answer(answer.read(kind, memoryview(packed.head), list(packed.fds)))

    def failed(
        self, error: CallError, *, stacks: str = "", cause: BaseException | None = None
    ) -> PackedOutcome[R]:
        """The same call with this error, whose attributes are set."""
        error.call, error.limits, error.usage = self.name, self.limits, self.usage
        error.stacks = stacks
        error.__cause__ = cause
        return replace(self, exception=error, value=None)

    def unpack(self, sent: dict[int, Any]) -> Outcome[R]:
        """Unpickle the value or the exception. If that fails, the outcome has the error.

        It may refer to what was `sent` with the call.
        """
        error: BaseException | None = None
        try:
            if self.value is not None:
                return Outcome(usage=self.usage, value=by_value.load_answer(self.value, sent))
            if self.raised is not None:
                error = self._raised(*by_value.load_answer(self.raised, sent))
        except BaseException as why:
            if is_by_signal(why):
                raise
            part = "exception" if self.value is None else "result"
            error = _not_rebuilt(part, self.name, why)
            self.failed(error, cause=why)
        if self.exception is None:
            return Outcome(usage=self.usage, exception=error)
        if error is not None:
            self.exception.__cause__ = error
        return Outcome(usage=self.usage, exception=self.exception)

    def _raised(self, error: object, traceback: str) -> BaseException:
        """The exception that the call raised."""
        if not isinstance(error, BaseException):  # its __reduce__ made something else of it
            raise TypeError(f"it was unpickled as an object of type {type(error).__name__}")
        if isinstance(error, Breach) and not error.call:  # a warning that was not handled
            limit = "wall_time" if isinstance(error, WallTimeBreach) else "cpu_time"
            error = breach(self.name, self.limits, limit, self.usage, error.stacks)
        if isinstance(error, CommandError) and not error.call:
            error.call, error.limits, error.usage = self.name, self.limits, self.usage
        error.__cause__ = RemoteTraceback(traceback)
        return error

    def __sizeof__(self) -> int:
        """Bytes that it holds, for Dask's memory management."""
        packed = (self.value, self.raised)
        return object.__sizeof__(self) + sum(sys.getsizeof(p) for p in packed if p is not None)

    def __reduce_ex__(self, _: SupportsIndex) -> tuple[Any, ...]:
        error = None
        if self.exception is not None:
            cause = self.exception.__cause__
            if isinstance(cause, RemoteTraceback):
                text = cause.text
            else:
                text = "" if cause is None else text_of(cause)
            # Not the error itself: where distributed is imported, tblib pickles its causes too.
            error = (*self.exception.__reduce__()[:2], text)
        return _rebuild, (error, self.name, self.limits, self.usage, self.value, self.raised)


def _rebuild(
    reduced: tuple[Any, Any, str] | None, name: str, limits: Limits, usage: Usage, *packed: Any
) -> PackedOutcome[Any]:
    error = None
    if reduced is not None:
        make, arguments, cause = reduced
        error = make(*arguments)
        error.__cause__ = RemoteTraceback(cause) if cause else None
    return PackedOutcome(name, limits, usage, error, *packed)


def _not_rebuilt(part: str, name: str, why: BaseException) -> CallPicklingError:
    what = "() raised an exception that" if part == "exception" else "(): the result"
    return CallPicklingError(f"{name}{what} cannot be unpickled here: {say(why)}", part=part)
