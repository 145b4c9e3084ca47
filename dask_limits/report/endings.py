"""How a call has ended, why, and where it was then."""

from __future__ import annotations

import re
import signal
from typing import Any, Final, NamedTuple

from dask_limits import exceptions
from dask_limits.limits.endings import Ending, breached_limit, ending_of
from dask_limits.limits.tracebacks import say, users_traceback

_FRAME: Final = re.compile(r'  File "(.*)", line (\d+),? in (.*)')


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
    ending, kind = ending_of(error), type(error).__name__
    where = _where_raised(error) if ending is Ending.RAISED else ""
    if isinstance(error, exceptions.CallError):
        where = _where_ended(error.stacks)
    return End(ending, _cause(error, ending), kind, where)


def _cause(error: Any, ending: Ending) -> str:
    match error:
        case exceptions.SystemMemoryError():
            return "out of memory"
        case exceptions.Breach():
            return breached_limit(error)
        case exceptions.CrashError():
            return _signal_name(error.signal) or str(error)
        case exceptions.ExitError():
            return f"exit code {error.exit_code}"
        case exceptions.LimitRefusedError():
            return error.limit
        case exceptions.WorkerLostError():
            return error.cause or str(error)
        case exceptions.GuardianLostError():
            return "the process that watched it was killed"
        case exceptions.ClusterLostError():
            return "the cluster was lost"
        case _:
            return "" if ending is Ending.CANCELLED else say(error)


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
