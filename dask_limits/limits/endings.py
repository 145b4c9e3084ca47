"""From what a task process, or the guardian, says of a call's end to its outcome."""

from __future__ import annotations

import pickle
import re
import signal
from typing import Final, TypeVar

from dask_limits.exceptions import (
    Breach,
    CallCancelledError,
    CallError,
    CallPicklingError,
    CpuTimeBreach,
    CrashError,
    ExitError,
    GuardianLostError,
    MemoryBreach,
    ProcessBreach,
    RemoteTraceback,
    SystemMemoryError,
    WallTimeBreach,
)
from dask_limits.limits import messages
from dask_limits.limits.call import LimitedCall
from dask_limits.limits.lease import Lease
from dask_limits.limits.limits import Limits
from dask_limits.limits.messages import Verdict, say
from dask_limits.limits.outcome import Outcome, Usage
from dask_limits.limits.parcel import unpack
from dask_limits.limits.units import format_bytes, format_seconds
from dask_limits.limits.wire import Message

R = TypeVar("R")
Call = LimitedCall[..., R]

_ANSWERS: Final = {
    messages.RETURNED,
    messages.RAISED,
    messages.EXITED,
    messages.UNPICKLABLE,
}
_STACK_LINES: Final = 6
"""How many lines of a stack a message shows; the whole of it is an attribute."""
_BREACHES: Final[dict[str, type[Breach]]] = {
    "wall_time": WallTimeBreach,
    "cpu_time": CpuTimeBreach,
    "memory": MemoryBreach,
    "num_processes": ProcessBreach,
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
        return _by_verdict(call, pickle.loads(message.body))
    if message.kind not in _ANSWERS or len(message.body) <= messages.ACCOUNT.size:
        lease.reusable = False
        return broken(call)
    usage = _account(lease, message.body)
    result = _by_answer(call, usage, message)
    breached = _breached(call.limits, usage)
    if not breached:
        return result
    # It was over before the guardian saw it; but what went over a limit did so.
    late = _breach(call, breached, usage, "")
    late.__cause__ = result.exception
    return Outcome(exception=late, usage=usage)


def _account(lease: Lease, body: memoryview) -> Usage:
    wall_time, cpu_time, children, peak = messages.ACCOUNT.unpack_from(body)
    lease.children_cpu_time = children
    lease.peak_memory = peak
    seen_memory, seen_processes, seen_cpu_time = lease.seen()
    return Usage(
        wall_time=wall_time,
        cpu_time=max(cpu_time, seen_cpu_time),
        peak_memory=max(peak, seen_memory),
        num_processes=seen_processes,
    )


def _breached(limits: Limits, usage: Usage) -> str:
    """The name of the first limit that this usage is over, or an empty string."""
    if limits.wall_time is not None and usage.wall_time > limits.wall_time:
        return "wall_time"
    if limits.cpu_time is not None and usage.cpu_time > limits.cpu_time:
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
        error, text = unpack(head, fds)
        error.__cause__ = RemoteTraceback(text)
        return Outcome(exception=_exception(error), usage=usage)
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


# -- what the guardian says ----------------------------------------------------------------


def _by_verdict(call: Call[R], verdict: Verdict) -> Outcome[R]:
    usage = Usage(
        wall_time=verdict.wall_time,
        cpu_time=verdict.cpu_time,
        peak_memory=verdict.peak_memory,
        num_processes=verdict.peak_processes,
        exit_code=verdict.status,
    )
    stacks = _users_part(verdict.stacks)
    error: CallError
    if verdict.cause in _BREACHES:
        error = _breach(call, verdict.cause, usage, stacks)
        if verdict.status is None:
            error.args = (f"{error} (its process does not die: it is in an uninterruptible sleep)",)
    elif verdict.cause == "cancelled":
        return cancelled(call, usage)
    elif verdict.cause == "deaf":
        return broken(call, usage)
    elif verdict.status is not None and verdict.status >= 0:
        error = ExitError.of(call.name, verdict.status)
    else:
        error = _crash_error(call, -(verdict.status or 0), verdict, usage, stacks)
    return _failed(call, usage, error, stacks=stacks)


def _breach(call: Call[R], limit: str, usage: Usage, stacks: str) -> Breach:
    used, allowed = _figures(limit, usage, call.limits)
    return _BREACHES[limit](
        f"{call.name}() went over its {limit} limit of {allowed}: {used}{_where(stacks)}",
        call=call.name,
        limits=call.limits,
        usage=usage,
        stacks=stacks,
    )


def _figures(limit: str, usage: Usage, limits: Limits) -> tuple[str, str]:
    """What was used of one limit, and what was allowed, as text."""
    if limit == "memory":
        return f"had {format_bytes(usage.peak_memory)}", format_bytes(limits.memory or 0)
    if limit == "num_processes":
        return f"had {usage.num_processes}", f"{limits.num_processes}"
    used = usage.wall_time if limit == "wall_time" else usage.cpu_time
    allowed = limits.wall_time if limit == "wall_time" else limits.cpu_time
    return f"took {format_seconds(used)}", format_seconds(allowed or 0.0)


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
    error = kind(text + _where(stacks))
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


# -- words ---------------------------------------------------------------------------------


def _users_part(stacks: str) -> str:
    """Stacks without our own frames below the user's function."""
    lines = [line for line in stacks.splitlines() if not _OUR_FRAME.search(line)]
    return "\n".join(lines).strip()


_OUR_FRAME: Final = re.compile(
    r'File "([^"]*dask_limits/(limits/(task_process|guardian_process|reaper)|packed|worker)\.py'
    r'|<string>)"'
)


def _where(stacks: str) -> str:
    """The innermost lines of the stack of the thread that ran."""
    lines = stacks.splitlines()
    at = next((n for n, line in enumerate(lines) if line.startswith("Current thread")), None)
    if at is None:
        at = next((n for n, line in enumerate(lines) if "most recent call first" in line), None)
    if at is None:
        return ""
    frames: list[str] = []
    for line in lines[at + 1 :]:
        if not line.startswith("  ") or len(frames) == _STACK_LINES:
            break
        frames.append(line)
    return ", in:\n" + "\n".join(frames) if frames else ""
