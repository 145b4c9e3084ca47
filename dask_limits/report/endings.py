"""How a call has ended, why, and where it was then."""

from __future__ import annotations

import signal
from typing import Any, Final, NamedTuple

from dask_limits import exceptions
from dask_limits.limits import LimitedCall, Limits
from dask_limits.limits.endings import Ending, breached_limit, ending_of
from dask_limits.limits.tracebacks import say
from dask_limits.limits.where import where_ended, where_raised, with_cell


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


_NO_LIMITS: Final = Limits()
RETURNED: Final = End(Ending.RETURNED)
CANCELLED: Final = End(Ending.CANCELLED)


def end_of(error: BaseException) -> End:
    """How a call has ended that has this exception."""
    ending, kind = ending_of(error), type(error).__name__
    where = where_raised(error) if ending is Ending.RAISED else ""
    if isinstance(error, exceptions.CallError):
        where = where_ended(error.stacks)
    return End(ending, _cause(error, ending), kind, with_cell(where))


def limits_of(fn: object, error: BaseException | None) -> Limits:
    """The limits of a call of `fn` that has ended with this error; a retry may have had others."""
    if isinstance(error, exceptions.CallError) and isinstance(error.limits, Limits):
        return error.limits
    return fn.limits if isinstance(fn, LimitedCall) else _NO_LIMITS


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
