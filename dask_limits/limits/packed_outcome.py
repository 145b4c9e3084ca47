"""A finished call whose value or exception is still pickled, as its task process has pickled it.

It can pass through processes that cannot unpickle it, such as a Dask worker, without copies of
large arrays. It is unpickled once, where the user reads it.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass, replace
from typing import Any, Final, Generic, SupportsIndex, TypeVar

from dask_limits.exceptions import (
    Breach,
    CallError,
    CallPicklingError,
    ExitError,
    RemoteTraceback,
    WallTimeBreach,
)
from dask_limits.limits.breaches import breach
from dask_limits.limits.ipc import messages, payload, pickling
from dask_limits.limits.ipc.payload import Packed
from dask_limits.limits.limits import Limits
from dask_limits.limits.outcome import Outcome, Usage
from dask_limits.limits.tracebacks import say, text_of

R = TypeVar("R")

_PICKLING: Final = {
    "arguments": "{call}(): function or arguments cannot be unpickled in the task process: {why}",
    "result": "{call}(): the result cannot be pickled: {why}",
    "exception": "{call}() raised {what} (which cannot be pickled and unpickled: {why})",
}


@dataclass(frozen=True, eq=False)
class PackedOutcome(Generic[R]):
    """A finished call whose value or exception is still pickled.

    Attributes:
        name: The name of the function.
        limits: The limits of the call.
        usage: Its usage.
        exception: The error of a call that went over a limit, or neither returned nor raised;
            None otherwise.
        value: The value that it returned.
        raised: The exception that it raised, with the text of its traceback.
    """

    name: str
    limits: Limits
    usage: Usage
    exception: CallError | None = None
    value: Packed | None = None
    raised: Packed | None = None

    @classmethod
    def of_answer(
        cls, name: str, limits: Limits, usage: Usage, kind: int, head: memoryview, fds: list[int]
    ) -> PackedOutcome[R]:
        """The outcome in an answer of a task process.

        Args:
            name: The name of the function.
            limits: The limits of the call.
            usage: Its usage.
            kind: The kind of message: how the call ended.
            head: The head of the payload.
            fds: The file that came with it. It may be closed after this.
        """
        end = cls(name, limits, usage)
        try:
            packed = payload.take(head, fds)
        except Exception as why:
            part = "exception" if kind == messages.RAISED else "result"
            return end.failed(_not_rebuilt(part, name, why), cause=why)
        if kind == messages.RETURNED:
            return replace(end, value=packed)
        if kind == messages.RAISED:
            return replace(end, raised=packed)
        if kind == messages.EXITED:
            return end.failed(ExitError.of(name, packed.load()))
        if kind == messages.BREACHED:
            return end.failed(breach(name, limits, packed.load(), usage, ""))
        part, said, what, text = packed.load()
        message = _PICKLING[part].format(call=name, why=said, what=what)
        return end.failed(CallPicklingError(message, part=part), cause=RemoteTraceback(text))

    @classmethod
    def of(cls, outcome: Outcome[R], name: str, limits: Limits) -> PackedOutcome[R]:
        """Pack the outcome of a call that ran in this process.

        Args:
            outcome: The outcome.
            name: The name of the function.
            limits: The limits of the call.
        """
        error = outcome.exception
        if isinstance(error, CallError) and error.__traceback__ is None:  # it was not raised
            return cls(name, limits, outcome.usage, exception=error)
        if error is None:
            kind, packed = pickling.pack_returned(outcome.value)
        else:
            kind, packed = pickling.pack_raised(error)
        with packed:
            head, fds = memoryview(packed.head), list(packed.fds)
            return cls.of_answer(name, limits, outcome.usage, kind, head, fds)

    def failed(
        self, error: CallError, *, stacks: str = "", cause: BaseException | None = None
    ) -> PackedOutcome[R]:
        """The same call with this error, whose attributes are set."""
        error.call, error.limits, error.usage = self.name, self.limits, self.usage
        error.stacks = stacks
        error.__cause__ = cause
        return replace(self, exception=error, value=None)

    def unpack(self) -> Outcome[R]:
        """Unpickle the value or the exception. If that fails, the outcome has the error."""
        if self.value is not None:
            try:
                return Outcome(usage=self.usage, value=self.value.load())
            except (KeyboardInterrupt, MemoryError):
                raise
            except BaseException as why:
                return self.failed(_not_rebuilt("result", self.name, why), cause=why).unpack()
        error = None if self.raised is None else self._raised()
        if self.exception is None:
            return Outcome(usage=self.usage, exception=error)
        if error is not None:
            self.exception.__cause__ = error
        return Outcome(usage=self.usage, exception=self.exception)

    def _raised(self) -> BaseException:
        """The exception that the call raised, or the error that it cannot be unpickled."""
        assert self.raised is not None
        try:
            raised, text = self.raised.load()
            if not isinstance(raised, BaseException):  # its __reduce__ made something else of it
                raise TypeError(f"it was unpickled as a {type(raised).__name__}")
            error: BaseException = raised
            if isinstance(error, Breach) and not error.call:  # a warning that was not handled
                limit = "wall_time" if isinstance(error, WallTimeBreach) else "cpu_time"
                error = breach(self.name, self.limits, limit, self.usage, error.stacks)
            error.__cause__ = RemoteTraceback(text)
            return error
        except (KeyboardInterrupt, MemoryError):
            raise
        except BaseException as why:
            failure = _not_rebuilt("exception", self.name, why)
            self.failed(failure, cause=why)
            return failure

    def __sizeof__(self) -> int:
        """Bytes that it holds, for Dask's memory management."""
        packed = (self.value, self.raised)
        return object.__sizeof__(self) + sum(sys.getsizeof(p) for p in packed if p is not None)

    def __reduce_ex__(self, _: SupportsIndex) -> tuple[Any, ...]:
        error, cause = self.exception, ""
        if error is not None:
            if isinstance(error.__cause__, RemoteTraceback):
                cause = error.__cause__.text
            elif error.__cause__ is not None:
                cause = text_of(error.__cause__)
        # Not the error itself: where distributed is imported, tblib pickles its causes too.
        reduced = None if error is None else error.__reduce__()
        about = self.name, self.limits, self.usage
        return _rebuild, (*about, reduced, cause, self.value, self.raised)


def _rebuild(
    name: str,
    limits: Limits,
    usage: Usage,
    reduced: tuple[Any, ...] | None,
    cause: str,
    *packed: Packed | None,
) -> PackedOutcome[Any]:
    error = None
    if reduced is not None:
        make, arguments, *_ = reduced
        error = make(*arguments)
        error.__cause__ = RemoteTraceback(cause) if cause else None
    return PackedOutcome(name, limits, usage, error, *packed)


def _not_rebuilt(part: str, name: str, why: BaseException) -> CallPicklingError:
    what = "() raised an exception that" if part == "exception" else "(): the result"
    return CallPicklingError(f"{name}{what} cannot be unpickled here: {say(why)}", part=part)
