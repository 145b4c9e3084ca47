"""From what a task process, or the guardian, says of a call's end to its outcome."""

from __future__ import annotations

import pickle
import signal
from typing import Final, TypeVar

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
from dask_limits.limits.call import LimitedCall
from dask_limits.limits.ipc import messages
from dask_limits.limits.ipc.messages import Verdict, say
from dask_limits.limits.ipc.payload import unpack
from dask_limits.limits.ipc.transport import Message
from dask_limits.limits.limits import Limits
from dask_limits.limits.outcome import Outcome, Usage
from dask_limits.limits.owner.breaches import BREACHES, breach, users_part, where
from dask_limits.limits.owner.lease import Lease
from dask_limits.units import format_bytes

R = TypeVar("R")
Call = LimitedCall[..., R]

_ANSWERS: Final = {
    messages.RETURNED,
    messages.RAISED,
    messages.EXITED,
    messages.UNPICKLABLE,
    messages.BREACHED,
}


def outcome(call: Call[R], lease: Lease, message: Message) -> Outcome[R]:
    """What became of a call.

    Args:
        call: The function and its limits.
        lease: The task process that ran it; learns whether it can run another.
        message: What came on its socket.
    """
    if message.kind == messages.VERDICT:
        lease.reusable = False
        return _by_verdict(call, lease, pickle.loads(message.body))
    if message.kind not in _ANSWERS or len(message.body) <= messages.ACCOUNT.size:
        lease.reusable = False
        return broken(call)
    usage, longest_step = _account(lease, message.body)
    result = _by_answer(call, usage, message)
    breached = _breached(call.limits, usage, longest_step)
    if not breached:
        return result
    # It was over before the guardian saw it; but what went over a limit did so.
    late = breach(call, breached, usage, "")
    late.__cause__ = result.exception
    return Outcome(exception=late, usage=usage)


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


# -- what the task process says ------------------------------------------------------------


def _by_answer(call: Call[R], usage: Usage, message: Message) -> Outcome[R]:
    head = message.body[messages.ACCOUNT.size :]
    if message.kind == messages.RETURNED:
        return _returned(call, usage, head, message.fds)
    if message.kind == messages.RAISED:
        return _raised(call, usage, head, message.fds)
    if message.kind == messages.EXITED:
        code = unpack(head, message.fds)
        return _failed(call, usage, ExitError.of(call.name, code))
    if message.kind == messages.BREACHED:
        return Outcome(exception=breach(call, unpack(head, []), usage, ""), usage=usage)
    part, why, what, text = unpack(head, message.fds)
    failure = CallPicklingError(
        _PICKLING[part].format(call=call.name, why=why, what=what), part=part
    )
    return _failed(call, usage, failure, cause=RemoteTraceback(text))


_PICKLING: Final = {
    "arguments": "{call}(): its function or arguments cannot be rebuilt in the task process: {why}",
    "result": "{call}(): its result cannot be pickled: {why}",
    "exception": "{call}() raised {what} (which cannot be pickled and rebuilt: {why})",
}


def _returned(call: Call[R], usage: Usage, head: memoryview, fds: list[int]) -> Outcome[R]:
    try:
        return Outcome(value=unpack(head, fds), usage=usage)
    except (KeyboardInterrupt, MemoryError):
        raise
    except BaseException as why:
        text = f"{call.name}(): its result cannot be rebuilt here: {say(why)}"
        return _failed(call, usage, CallPicklingError(text, part="result"), cause=why)


def _raised(call: Call[R], usage: Usage, head: memoryview, fds: list[int]) -> Outcome[R]:
    try:
        thing, text = unpack(head, fds)
        error = _whole(_exception(thing), call, usage)
        error.__cause__ = RemoteTraceback(text)
        return Outcome(exception=error, usage=usage)
    except (KeyboardInterrupt, MemoryError):
        raise
    except BaseException as why:
        text = f"{call.name}() raised an exception that cannot be rebuilt here: {say(why)}"
        return _failed(call, usage, CallPicklingError(text, part="exception"), cause=why)


def _exception(thing: object) -> BaseException:
    """What was raised; its `__reduce__` may have made something else of it."""
    if not isinstance(thing, BaseException):
        raise TypeError(f"it came as a {type(thing).__name__}")
    return thing


def _whole(error: BaseException, call: Call[R], usage: Usage) -> BaseException:
    """What was raised; of a warning that the function let through, the breach that it was of."""
    if not isinstance(error, Breach) or error.call:
        return error
    limit = "wall_time" if isinstance(error, WallTimeBreach) else "cpu_time"
    return breach(call, limit, usage, users_part(error.stacks))


# -- what the guardian says ----------------------------------------------------------------


def _by_verdict(call: Call[R], lease: Lease, verdict: Verdict) -> Outcome[R]:
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
    stacks = users_part(verdict.stacks)
    error: CallError
    if verdict.cause in BREACHES:
        error = breach(call, verdict.cause, usage, stacks)
        if verdict.status is None:
            error.args = (f"{error} (its process does not die: it is in an uninterruptible sleep)",)
    elif verdict.cause == "cancelled":
        return cancelled(call, usage)
    elif verdict.cause == "deaf":
        return broken(call, usage)
    elif verdict.cause == "mute":
        return _mute(call, usage, stacks)
    elif verdict.status is not None and verdict.status >= 0:
        error = ExitError.of(call.name, verdict.status)
    else:
        error = _crash_error(call, -(verdict.status or 0), verdict, usage, stacks)
    return _failed(call, usage, error, stacks=stacks)


def _crash_error(
    call: Call[R], number: int, verdict: Verdict, usage: Usage, stacks: str
) -> CrashError:
    try:
        name = signal.Signals(number).name
    except ValueError:
        name = f"signal {number}"
    if number == signal.SIGKILL and verdict.system_memory:
        kind: type[CrashError] = SystemMemoryError
        text = (
            f"{call.name}() was killed by the kernel because memory had run out; it had"
            f" {format_bytes(usage.peak_memory)}. Give it a memory limit, or run fewer at a time"
        )
    elif number == signal.SIGKILL:
        kind = CrashError
        text = f"{call.name}() was killed from outside, by {name}"
    else:
        kind = CrashError
        text = f"{call.name}() crashed with {name}"
    error = kind(text + where(stacks))
    error.signal = number
    return error


# -- ends of other kinds -------------------------------------------------------------------


def cancelled(call: Call[R], usage: Usage | None = None) -> Outcome[R]:
    """A call that nobody wants any more."""
    return _failed(call, usage, CallCancelledError(f"{call.name}() was cancelled"))


def guardian_lost(call: Call[R]) -> Outcome[R]:
    """A call whose guardian was killed while it ran."""
    return _failed(
        call,
        None,
        GuardianLostError(
            f"{call.name}() was ended because the process that watches its limits was killed;"
            " it may have done a part of its work. The next call starts a new one"
        ),
    )


def broken(call: Call[R], usage: Usage | None = None) -> Outcome[R]:
    """A call that has spoiled the socket on which it was to answer."""
    return _failed(
        call,
        usage,
        CrashError(
            f"{call.name}() was ended, and what it returned is lost, because it closed or wrote to"
            " a file that is not its own: the socket of its process"
        ),
    )


def _mute(call: Call[R], usage: Usage, stacks: str) -> Outcome[R]:
    text = (
        f"{call.name}() came to its end, but its process did not send what it returned, and was"
        " ended: the call has stopped or spoiled that process"
    )
    return _failed(call, usage, CrashError(text + where(stacks)), stacks=stacks)


def refused(call: Call[R], why: str) -> Outcome[R]:
    """A call that was never started."""
    return _failed(call, None, CallError(f"{call.name}() could not be started: {why}"))


def _failed(
    call: Call[R],
    usage: Usage | None,
    error: CallError,
    *,
    stacks: str = "",
    cause: BaseException | None = None,
) -> Outcome[R]:
    """An outcome with this error, which learns what call it is about."""
    error.call, error.limits, error.usage, error.stacks = call.name, call.limits, usage, stacks
    error.__cause__ = cause
    return Outcome(exception=error, usage=usage or Usage(wall_time=0.0, cpu_time=0.0))
