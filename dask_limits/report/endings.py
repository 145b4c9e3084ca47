"""How a call has ended, in a word; why; and where it was then."""

from __future__ import annotations

import re
import signal
from concurrent.futures import BrokenExecutor
from enum import IntEnum
from typing import Any, Final, NamedTuple

from dask_limits import exceptions
from dask_limits.limits.tracebacks import say, users_traceback

_FRAME: Final = re.compile(r'  File "(.*)", line (\d+),? in (.*)')
_BREACHED: Final = {
    exceptions.WallTimeBreach: "wall_time",
    exceptions.CpuTimeBreach: "cpu_time",
    exceptions.MemoryBreach: "memory",
    exceptions.ProcessBreach: "num_processes",
}


class Ending(IntEnum):
    """The ways in which a call can end. The numbers are those in packed rows."""

    RETURNED = 0
    RAISED = 1  # an exception of its own
    BREACH = 2  # it went over one of its limits
    CRASHED = 3  # a signal that was not ours has ended its process
    EXITED = 4  # it has ended its process
    REFUSED = 5  # no worker can grant one of its limits
    LOST = 6  # with its worker, its pool, its cluster or the process that watched it
    FAILED = 7  # it could not be started, or what it returned could not be pickled
    CANCELLED = 8


class End(NamedTuple):
    """How a call has ended.

    `cause` is the limit that was breached or refused, the signal, the exit code, what is known of a
    lost worker, or type and text of the exception; `kind` is what to say where there are too many
    of these. `where` is the innermost line of the user's code, if it is known.
    """

    ending: Ending
    cause: str = ""
    kind: str = ""
    where: str = ""


RETURNED: Final = End(Ending.RETURNED)
CANCELLED: Final = End(Ending.CANCELLED)


def end_of(error: BaseException) -> End:
    """How a call has ended that has this exception."""
    kind = type(error).__name__
    if not isinstance(error, exceptions.CallError):
        is_lost = isinstance(error, BrokenExecutor) or kind == "KilledWorker"
        if is_lost:
            return End(Ending.LOST, say(error), kind)
        return End(Ending.RAISED, say(error), kind, _where_raised(error))
    ending, cause = _of_call_error(error)
    return End(ending, cause, kind, _where_ended(error.stacks))


def _of_call_error(error: Any) -> tuple[Ending, str]:
    match error:
        case exceptions.Breach():
            return Ending.BREACH, _limit_of(error)
        case exceptions.SystemMemoryError():
            return Ending.CRASHED, "out of memory"
        case exceptions.CrashError():
            return Ending.CRASHED, _signal_name(error.signal) or str(error)
        case exceptions.ExitError():
            return Ending.EXITED, f"exit code {error.exit_code}"
        case exceptions.LimitRefusedError():
            return Ending.REFUSED, error.limit
        case exceptions.WorkerLostError():
            return Ending.LOST, error.cause or str(error)
        case exceptions.GuardianLostError():
            return Ending.LOST, "the process that watched it was killed"
        case exceptions.ClusterLostError():
            return Ending.LOST, "the cluster was lost"
        case exceptions.CallCancelledError():
            return CANCELLED[:2]
        case _:
            return Ending.FAILED, say(error)


def _limit_of(error: exceptions.Breach) -> str:
    return next((limit for kind, limit in _BREACHED.items() if isinstance(error, kind)), "")


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}" if number else ""


def _where_ended(stacks: str) -> str:
    """The innermost frame of the thread that ran the function. These are innermost first."""
    return _place(_FRAME.search(stacks, max(stacks.find("Current thread"), 0)))


def _where_raised(error: BaseException) -> str:
    """The innermost frame of a traceback: of the text that came with it, if some did."""
    if isinstance(cause := error.__cause__, exceptions.RemoteTraceback):
        return _place(_FRAME.search(cause.text, max(cause.text.rfind('\n  File "'), 0)))
    last = users_traceback(error.__traceback__)
    if last is None:
        return ""
    while last.tb_next is not None:
        last = last.tb_next
    code = last.tb_frame.f_code
    return f"{code.co_filename}:{last.tb_lineno} in {code.co_name}"


def _place(frame: re.Match[str] | None) -> str:
    return f"{frame[1]}:{frame[2]} in {frame[3]}" if frame else ""
