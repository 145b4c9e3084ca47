"""From what a task process, or the guardian, says of a call's end to its outcome."""

from __future__ import annotations

import pickle
import signal
from typing import Final, Generic, TypeVar

from dask_limits.exceptions import (
    Breach,
    CallCancelledError,
    CallError,
    CallPicklingError,
    CrashError,
    ExitError,
    GuardianLostError,
    RemoteTraceback,
    SystemMemoryError,
    WallTimeBreach,
)
from dask_limits.limits.ipc import messages
from dask_limits.limits.ipc.messages import Verdict
from dask_limits.limits.ipc.payload import unpack
from dask_limits.limits.ipc.transport import Message
from dask_limits.limits.limits import Limits
from dask_limits.limits.outcome import Outcome, Usage
from dask_limits.limits.owner.breaches import BREACHES, breach, where
from dask_limits.limits.owner.lease import Lease
from dask_limits.limits.tracebacks import say, users_stacks
from dask_limits.units import format_bytes

R = TypeVar("R")

_ANSWERS: Final = {
    messages.RETURNED,
    messages.RAISED,
    messages.EXITED,
    messages.UNPICKLABLE,
    messages.BREACHED,
}


_PICKLING: Final = {
    "arguments": "{call}(): its function or arguments cannot be rebuilt in the task process: {why}",
    "result": "{call}(): its result cannot be pickled: {why}",
    "exception": "{call}() raised {what} (which cannot be pickled and rebuilt: {why})",
}


class Outcomes(Generic[R]):
    """Makes the outcome of one call, whichever way it ended.

    Args:
        name: What the function is called.
        limits: What the call may use.
    """

    def __init__(self, name: str, limits: Limits) -> None:
        self.name = name
        self.limits = limits

    def by_message(self, lease: Lease, message: Message) -> Outcome[R]:
        """What became of a call.

        Args:
            lease: The task process that ran it; learns whether it can run another.
            message: What came on its socket.
        """
        if message.kind == messages.VERDICT:
            lease.reusable = False
            return self._by_verdict(lease, pickle.loads(message.body))
        if message.kind not in _ANSWERS or len(message.body) <= messages.ACCOUNT.size:
            lease.reusable = False
            return self.broken()
        usage, longest_step = _account(lease, message.body)
        result = self._by_answer(usage, message)
        breached = _breached(self.limits, usage, longest_step)
        if not breached:
            return result
        # It was over before the guardian saw it; but what went over a limit did so.
        late = breach(self.name, self.limits, breached, usage, "")
        late.__cause__ = result.exception
        return Outcome(exception=late, usage=usage)

    # -- what the task process says ------------------------------------------------------------

    def _by_answer(self, usage: Usage, message: Message) -> Outcome[R]:
        head = message.body[messages.ACCOUNT.size :]
        if message.kind == messages.RETURNED:
            return self._returned(usage, head, message.fds)
        if message.kind == messages.RAISED:
            return self._raised(usage, head, message.fds)
        if message.kind == messages.EXITED:
            code = unpack(head, message.fds)
            return self._failed(usage, ExitError.of(self.name, code))
        if message.kind == messages.BREACHED:
            limit = unpack(head, [])
            return Outcome(exception=breach(self.name, self.limits, limit, usage, ""), usage=usage)
        part, why, what, text = unpack(head, message.fds)
        failure = CallPicklingError(
            _PICKLING[part].format(call=self.name, why=why, what=what), part=part
        )
        return self._failed(usage, failure, cause=RemoteTraceback(text))

    def _returned(self, usage: Usage, head: memoryview, fds: list[int]) -> Outcome[R]:
        try:
            return Outcome(value=unpack(head, fds), usage=usage)
        except (KeyboardInterrupt, MemoryError):
            raise
        except BaseException as why:
            text = f"{self.name}(): its result cannot be rebuilt here: {say(why)}"
            return self._failed(usage, CallPicklingError(text, part="result"), cause=why)

    def _raised(self, usage: Usage, head: memoryview, fds: list[int]) -> Outcome[R]:
        try:
            thing, text = unpack(head, fds)
            error = self._whole(_exception(thing), usage)
            error.__cause__ = RemoteTraceback(text)
            return Outcome(exception=error, usage=usage)
        except (KeyboardInterrupt, MemoryError):
            raise
        except BaseException as why:
            text = f"{self.name}() raised an exception that cannot be rebuilt here: {say(why)}"
            return self._failed(usage, CallPicklingError(text, part="exception"), cause=why)

    def _whole(self, error: BaseException, usage: Usage) -> BaseException:
        """What was raised; if it is a warning that the function let through, its breach."""
        if not isinstance(error, Breach) or error.call:
            return error
        limit = "wall_time" if isinstance(error, WallTimeBreach) else "cpu_time"
        return breach(self.name, self.limits, limit, usage, error.stacks)

    # -- what the guardian says ----------------------------------------------------------------

    def _by_verdict(self, lease: Lease, verdict: Verdict) -> Outcome[R]:
        stdout, stderr = lease.output()
        usage = Usage(
            wall_time=verdict.wall_time,
            cpu_time=verdict.cpu_time,
            peak_memory=verdict.peak_memory,
            num_processes=verdict.peak_processes,
            exit_code=verdict.status,
            stdout=stdout,
            stderr=stderr,
        )
        stacks = users_stacks(verdict.stacks)
        error: CallError
        if verdict.cause in BREACHES:
            error = breach(self.name, self.limits, verdict.cause, usage, stacks)
            if verdict.status is None:
                undying = "its process does not end: it is in an uninterruptible sleep"
                error.args = (f"{error} ({undying})",)
        elif verdict.cause == "cancelled":
            return self.cancelled(usage)
        elif verdict.cause == "deaf":
            return self.broken(usage)
        elif verdict.cause == "mute":
            return self._mute(usage, stacks)
        elif verdict.status is not None and verdict.status >= 0:
            error = ExitError.of(self.name, verdict.status)
        else:
            error = self._crash_error(-(verdict.status or 0), verdict, usage, stacks)
        return self._failed(usage, error, stacks=stacks)

    def _crash_error(self, number: int, verdict: Verdict, usage: Usage, stacks: str) -> CrashError:
        try:
            name = signal.Signals(number).name
        except ValueError:
            name = f"signal {number}"
        if number == signal.SIGKILL and verdict.system_memory:
            kind: type[CrashError] = SystemMemoryError
            text = (
                f"{self.name}() was killed by the kernel because memory had run out; it had"
                f" {format_bytes(usage.peak_memory)}. Give it a memory limit, or run fewer calls at"
                " a time"
            )
        elif number == signal.SIGKILL:
            kind = CrashError
            text = f"{self.name}() was killed from outside, by {name}"
        else:
            kind = CrashError
            text = f"{self.name}() crashed with {name}"
        error = kind(text + where(stacks))
        error.signal = number
        return error

    # -- ends of other kinds -------------------------------------------------------------------

    def cancelled(self, usage: Usage | None = None) -> Outcome[R]:
        """A call that nobody wants any more."""
        return self._failed(usage, CallCancelledError(f"{self.name}() was cancelled"))

    def guardian_lost(self) -> Outcome[R]:
        """A call whose guardian was killed while it ran."""
        text = (
            f"{self.name}() was ended because the process that watches its limits was killed;"
            " it may have done a part of its work. The next call starts a new one"
        )
        return self._failed(None, GuardianLostError(text))

    def broken(self, usage: Usage | None = None) -> Outcome[R]:
        """A call that has spoiled the socket on which it was to answer."""
        text = (
            f"{self.name}() was ended, and what it returned is lost, because it closed or wrote to"
            " a file that is not its own: the socket of its process"
        )
        return self._failed(usage, CrashError(text))

    def _mute(self, usage: Usage, stacks: str) -> Outcome[R]:
        text = (
            f"{self.name}() came to its end, but its process did not send what it returned, and was"
            " ended: the call has stopped or spoiled that process"
        )
        return self._failed(usage, CrashError(text + where(stacks)), stacks=stacks)

    def refused(self, why: str) -> Outcome[R]:
        """A call that was never started."""
        return self._failed(None, CallError(f"{self.name}() could not be started: {why}"))

    def _failed(
        self,
        usage: Usage | None,
        error: CallError,
        *,
        stacks: str = "",
        cause: BaseException | None = None,
    ) -> Outcome[R]:
        """An outcome with this error, which learns what call it is about."""
        error.call, error.limits, error.usage, error.stacks = self.name, self.limits, usage, stacks
        error.__cause__ = cause
        return Outcome(exception=error, usage=usage or Usage(wall_time=0.0, cpu_time=0.0))


def _account(lease: Lease, body: memoryview) -> tuple[Usage, float]:
    """What a call has used, and the seconds of its longest step without progress."""
    wall_time, step, cpu_time, children, peak = messages.ACCOUNT.unpack_from(body)
    lease.children_cpu_time = children
    lease.peak_memory = peak
    seen_memory, seen_processes, seen_cpu_time = lease.seen()
    stdout, stderr = lease.output()
    usage = Usage(
        wall_time=wall_time,
        cpu_time=max(cpu_time, seen_cpu_time),
        peak_memory=max(peak, seen_memory),
        num_processes=seen_processes,
        stdout=stdout,
        stderr=stderr,
    )
    return usage, step


def _breached(limits: Limits, usage: Usage, longest_step: float) -> str:
    """The name of the first limit that this usage is over, or an empty string."""
    grace = limits.grace_period
    if limits.wall_time is not None and longest_step > limits.wall_time + grace:
        return "wall_time"
    if limits.cpu_time is not None and usage.cpu_time > limits.cpu_time + grace:
        return "cpu_time"
    if limits.memory is not None and usage.peak_memory > limits.memory:
        return "memory"
    if limits.num_processes is not None and usage.num_processes > limits.num_processes:
        return "num_processes"
    return ""


def _exception(thing: object) -> BaseException:
    """What was raised; its `__reduce__` may have made something else of it."""
    if not isinstance(thing, BaseException):
        raise TypeError(f"it came as a {type(thing).__name__}")
    return thing
