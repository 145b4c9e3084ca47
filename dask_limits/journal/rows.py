"""Calls that have ended, as rows of the file, and back."""

from __future__ import annotations

import logging
import time
from math import nan
from typing import Any, Final, NamedTuple
from zlib import crc32

from dask_limits.exceptions import CallPicklingError, RemoteTraceback
from dask_limits.future import Call, Future
from dask_limits.in_short import arguments_in_short
from dask_limits.journal import values
from dask_limits.journal.store import CallRow, Store
from dask_limits.limits import Usage
from dask_limits.limits.endings import Ending
from dask_limits.limits.tracebacks import say, text_of
from dask_limits.printable import printable
from dask_limits.report.endings import RETURNED, End
from dask_limits.report.endings import end_of as end_of_error
from dask_limits.report.endings import limits_of as limits_of_call

logger = logging.getLogger("dask_limits.journal")

LARGE: Final = 2**20
"""Bytes of a pickle that are more than a row should have: they get a file of their own."""

_COMES_BACK: Final = frozenset(
    {Ending.RETURNED, Ending.RAISED, Ending.BREACH, Ending.CRASHED, Ending.EXITED}
)
"""How a call ends by itself. All others run again: they were lost, or could not be started."""

_NO_USAGE: Final = (None,) * 8


def row_of(
    number: int, identity: bytes, task: str, future: Future[Any], call: Call, store: Store
) -> tuple[Any, ...]:
    """The row of a call that has ended. A large value is written to its file."""
    fn, args, kwargs = call
    error = future.exception()
    limits = limits_of_call(fn, error)
    end = RETURNED if error is None else end_of_error(error)
    value = _pickled(task, future, error)
    is_in_file = value is not None and len(value) > LARGE
    if value is not None and is_in_file:
        store.write_value(number, identity, value)
    usage = future.usage
    # A plain tuple in the order of CallRow: SQLite takes those in half the time.
    return (
        number,
        identity,
        task,
        future.key,
        arguments_in_short(args, kwargs, quick=True),
        end.ending,
        end.cause,
        end.kind,
        end.where,
        *(_NO_USAGE if usage is None else _used(usage)),
        limits.memory,
        limits.wall_time,
        limits.cpu_time,
        limits.num_processes,
        limits.cores,
        future.worker,
        future.job,
        future.submitted_at,
        time.time(),
        future.attempts,
        None if is_in_file else value,
        is_in_file,
        _checksum(identity, end.ending, value),
    )


def _checksum(identity: bytes, ending: int, value: bytes | None) -> int:
    return crc32(value or b"", crc32(identity, ending))


def _used(usage: Usage) -> tuple[Any, ...]:
    return (
        usage.wall_time,
        usage.cpu_time,
        usage.peak_memory,
        usage.num_processes,
        usage.exit_code,
        usage.stdout,
        usage.stderr,
        usage.started,
    )


def _pickled(task: str, future: Future[Any], error: BaseException | None) -> bytes | None:
    """What it returned or raised; None if that cannot be pickled, so that it runs again."""
    try:
        return values.dump_value(future.result()) if error is None else values.dump_error(error)
    except BaseException as why:  # objects may do anything when they are pickled
        if error is not None:
            return values.dump_error(_in_place_of(error, task, why))
        logger.warning(
            "What %s() returned cannot be pickled (%s), so it will run again with its journal",
            task,
            printable(say(why)),
        )
        return None


def _in_place_of(error: BaseException, task: str, why: BaseException) -> BaseException:
    """An exception that can be pickled, in the place of one that cannot."""
    substitute = CallPicklingError(
        f"{task}() raised {say(error)}. This exception cannot be pickled and unpickled: {say(why)}",
        part="exception",
        call=task,
    )
    substitute.__cause__ = RemoteTraceback(text_of(error))
    return substitute


def comes_back(row: CallRow) -> bool:
    """Whether a call need not run again."""
    by_itself = row.ending in _COMES_BACK or row.kind == CallPicklingError.__name__
    return by_itself and (row.value is not None or bool(row.is_in_file))


def need_not_run(row: CallRow, rerun: str) -> bool:
    """Whether a call comes back, of a journal that has some run again."""
    if rerun == "all" or not comes_back(row):
        return False
    return rerun == "none" or row.ending == Ending.RETURNED


def future_of(row: CallRow, store: Store) -> Future[Any]:
    """A call that has ended, as it ended. Raises what the unpickling raises."""
    pickled = store.value_of(row)
    if _checksum(row.call, row.ending, pickled) != row.checksum:
        raise ValueError("its checksum is wrong")
    future = Future[Any]()
    future.from_journal = True
    future.usage, future.attempts = usage_of(row), row.attempts
    future.worker, future.job, future.task_key = row.worker, row.job, row.key
    future.submitted_at, future.started_at = row.submitted, row.started
    if row.ending == Ending.RETURNED:
        future.set_result(values.load_value(pickled))
    else:
        future.set_exception(values.load_error(pickled))
    return future


def usage_of(row: CallRow) -> Usage | None:
    """What it has used."""
    if row.wall_time is None:
        return None
    return Usage(
        wall_time=row.wall_time,
        cpu_time=nan if row.cpu_time is None else row.cpu_time,
        peak_memory=row.peak_memory or 0,
        num_processes=row.num_processes or 0,
        exit_code=row.exit_code,
        stdout=row.stdout,
        stderr=row.stderr,
        started=row.started,
    )


def end_of(row: CallRow) -> End:
    """How it has ended."""
    return End(Ending(row.ending), row.cause, row.kind, row.place)


class LimitsOfRow(NamedTuple):
    """The limits that a call had."""

    memory: int | None
    wall_time: float | None
    cpu_time: float | None
    num_processes: int | None
    cores: int | None


def limits_of(row: CallRow) -> LimitsOfRow:
    """Its limits."""
    return LimitsOfRow(
        row.memory_limit,
        row.wall_time_limit,
        row.cpu_time_limit,
        row.num_processes_limit,
        row.cores,
    )
