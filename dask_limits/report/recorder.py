from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import CancelledError
from functools import partial
from math import nan
from typing import TYPE_CHECKING, Any, Final, Protocol

from dask_limits.exceptions import WorkerLostError
from dask_limits.in_short import arguments_in_short
from dask_limits.limits import LimitedCall, Usage, name_of
from dask_limits.limits.endings import Ending
from dask_limits.report.endings import CANCELLED, RETURNED, End, end_of, limits_of
from dask_limits.report.places import Place, WorkerChange
from dask_limits.report.rows import ROW, Texts, pack, sensible, split_key
from dask_limits.report.summaries import Summaries

if TYPE_CHECKING:
    from dask_limits.report.report import Report

MOST_ROWS: Final = 1_000_000
"""The rows that are kept. They take some 115 MiB."""
MOST_TEXTS: Final = 20_000
"""The different texts that are kept, such as causes and arguments. They take some 10 MB at most."""
_CHUNK: Final = 10_000
"""Rows that are put away together. Summing up as many that are dropped takes some 10 ms."""
_MOST_CHANGES: Final = 100_000
"""Of the workers."""


class LimitsOfCall(Protocol):
    """The limits of a call, as far as they are recorded."""

    @property
    def memory(self) -> int | None: ...  # noqa: D102
    @property
    def wall_time(self) -> float | None: ...  # noqa: D102
    @property
    def cpu_time(self) -> float | None: ...  # noqa: D102
    @property
    def num_processes(self) -> int | None: ...  # noqa: D102
    @property
    def cores(self) -> int | None: ...  # noqa: D102


class EndedCall(Protocol):
    """A future of an executor, of a call that has ended."""

    usage: Usage | None
    attempts: int
    worker: str
    job: str
    submitted_at: float
    started_at: float | None

    @property
    def key(self) -> str: ...  # noqa: D102
    def exception(self) -> BaseException | None: ...  # noqa: D102


class Recorder:
    """Takes down how calls have ended. It can be used in any thread.

    There is no lock but a reentrant one: a signal's handler may interrupt any of this. A row is
    added by one operation of a `bytearray`, which no other thread sees half done.

    Attributes:
        slots: How many calls run at a time on this machine; 0 if that is not known.
    """

    def __init__(self, most_rows: int = MOST_ROWS, most_texts: int = MOST_TEXTS) -> None:
        self.slots = 0
        self._most_chunks = most_rows // _CHUNK
        self._texts = Texts(most_texts)
        self._recent = bytearray()  # rows, as `_chunks` has them
        self._chunks: deque[bytes] = deque()
        self._older = Summaries()
        self._changes: deque[WorkerChange] = deque(maxlen=_MOST_CHANGES)
        self._lock = threading.RLock()
        self._is_busy = False

    def add_call(
        self,
        call: tuple[Callable[..., object], tuple[Any, ...], dict[str, Any]],
        future: EndedCall,
    ) -> End:
        """Add a call whose arguments are still there; return its end."""
        fn, args, kwargs = call
        return self.add(fn, partial(arguments_in_short, args, kwargs, quick=True), future)

    def add(
        self, fn: Callable[..., object], arguments: Callable[[], str], future: EndedCall
    ) -> End:
        """Add a call of a function, with its limits if it is a `LimitedCall`; return its end.

        `arguments` makes a text of them, see `arguments_in_short`. It is called if there is room.
        """
        function = fn.fn if isinstance(fn, LimitedCall) else fn
        worker, job = future.worker, future.job
        error: BaseException | None
        try:
            error = future.exception()
        except CancelledError:
            error, end = None, CANCELLED
        else:
            end = RETURNED if error is None else end_of(error)
        if isinstance(error, WorkerLostError):
            worker, job = error.worker, error.job
        now, usage = time.time(), future.usage
        if usage is None and (started := future.started_at) is not None:
            usage = Usage(wall_time=now - started, cpu_time=nan, num_processes=0, started=started)
        about = worker, job, future.submitted_at, now, future.attempts
        limits = limits_of(fn, error)
        self.add_row(name_of(function), future.key, end, usage, limits, *about, arguments)
        return end

    def add_row(
        self,
        task: str,
        key: str,
        end: End,
        usage: Usage | None,
        limits: LimitsOfCall,
        worker: str,
        job: str,
        submitted: float,
        now: float,
        attempts: int,
        arguments: Callable[[], str] = str,
    ) -> None:
        """Add a call by what is known of it."""
        started, ended, wall_time = nan, now, nan
        cpu_time, peak_memory, num_processes = nan, 0, 0
        if usage is not None and usage.started is not None:
            started, ended, wall_time = sensible(usage.started, usage.wall_time, now)
            cpu_time, peak_memory = usage.cpu_time, usage.peak_memory
            num_processes = usage.num_processes
        number = self._texts.number
        head, tail = split_key(key)
        self._recent += pack(
            (
                submitted,
                started,
                ended,
                wall_time,
                cpu_time,
                limits.wall_time or 0.0,
                limits.cpu_time or 0.0,
                peak_memory,
                limits.memory or 0,
                tail,
                number(head),
                number(task),
                self._texts.arguments(arguments, end.ending is Ending.RETURNED),
                number(end.cause, end.kind) if end.cause else 0,
                number(end.where) if end.where else 0,
                number(worker) if worker else 0,
                number(job) if job else 0,
                num_processes,
                limits.num_processes or 0,
                limits.cores or 0,
                attempts,
                end.ending,
            )
        )
        if len(self._recent) >= _CHUNK * ROW.size:
            self._put_away()

    def worker_added(self, address: str, cores: int, memory: int | None) -> None:
        """Note that a worker has come, which runs so many calls of one core at a time.

        The memory limits of these can sum up to so many bytes; None if nothing limits them.
        """
        self._changes.append(WorkerChange(time.time(), address, Place(cores, memory)))

    def worker_removed(self, address: str = "") -> None:
        """Note that a worker has gone; without an address, that nothing is known of any."""
        self._changes.append(WorkerChange(time.time(), address))

    def report(self) -> Report:
        """What is known by now. It does not change any more."""
        from dask_limits.report.report import Report  # most programs ask for none

        with self._lock:
            chunks = (*self._chunks, bytes(self._recent))
            texts, older = self._texts.by_number, self._older.copy()
        return Report(chunks, texts, older, tuple(self._changes), self.slots)

    def _put_away(self) -> None:
        """Put a chunk of rows away, and sum up what there is too much of."""
        with self._lock:
            size = _CHUNK * ROW.size
            if self._is_busy or len(self._recent) < size:
                return  # another thread has done it, or a signal's handler has interrupted it
            self._is_busy = True
            try:
                self._chunks.append(bytes(self._recent[:size]))
                del self._recent[:size]
                while len(self._chunks) > self._most_chunks:
                    self._older.add_chunk(self._chunks.popleft(), self._texts.by_number)
            finally:
                self._is_busy = False
