"""Runs the functions of calls in the process that is meant for them, and measures each."""

from __future__ import annotations

import contextlib
import contextvars
import math
import os
import time
from typing import Any, Final, NamedTuple

from dask_limits.limits import in_place, trace_context
from dask_limits.limits.ipc import by_value, messages, payload, pickling, task_cells
from dask_limits.limits.ipc.messages import Orders
from dask_limits.limits.ipc.payload import Packed, Payload
from dask_limits.limits.ipc.progress_values import LatestValue
from dask_limits.limits.ipc.task_cells import TaskCells
from dask_limits.limits.linux import files, proctree, sealed, standard_output
from dask_limits.limits.progress import report_to
from dask_limits.limits.task import script_globals
from dask_limits.limits.task.callers_main import CallersMain
from dask_limits.limits.task.grace import GraceWarning
from dask_limits.limits.task.own_memory import OwnMemory

NOTHING: Final[contextlib.AbstractContextManager[None]] = contextlib.nullcontext()


class Ended(NamedTuple):
    """How a call ended, and the figures of `messages.FRESH_ACCOUNT`."""

    kind: int  # one of those in `messages`
    end: Payload
    wall_time: float
    longest_step: float
    loading: float
    cpu_time: float  # with that of the children that its process has waited for
    peak_memory: int  # beyond what the process had before the call


class _Stopwatch:
    """Measures how long a block takes, in seconds."""

    start = seconds = math.inf  # as long as it has not begun, or ended

    def __enter__(self) -> None:
        self.start = time.monotonic()

    def __exit__(self, *_: object) -> None:
        self.seconds = time.monotonic() - self.start


class Runner:
    """Runs functions in this process, one at a time, and notes that in the task cells.

    Attributes:
        busy: Seconds that the function of the last call has itself run; infinite if not measured.
    """

    def __init__(
        self, cells: TaskCells, memory: OwnMemory, *, is_fresh: bool = False, cpu_beside: float = 0
    ) -> None:
        self.task_cells = cells
        self._is_fresh = is_fresh  # whether this process was started for one call
        self._cpu_beside = cpu_beside  # seconds, of other processes that exist to run it
        self._memory = memory
        self._pid = os.getpid()
        self._longest_step = 0.0
        self.busy = math.inf
        self._context = contextvars.copy_context()
        # Of all those that this process has waited for.
        self.children_cpu_time = proctree.children_cpu_time()
        self._latest: LatestValue | None = None  # what the call tells of its progress
        report_to(self._restart_clock, self._tell)

    def run(self, number: int, orders: Orders, head: memoryview, fds: list[int]) -> Ended:
        """Run the function of one call; `head` and the file in `fds`, which is closed, hold it."""
        cells, grace = self.task_cells, orders.grace_period
        if orders.tells:
            self._latest = LatestValue(fds[-1])
            os.close(fds.pop())
        cells.put(0, task_cells.LOOKED_FOR, 0)
        warning = GraceWarning(cells, number, grace) if grace else None
        cpu_before = time.process_time() + self.children_cpu_time
        start = time.monotonic()
        self._longest_step = 0.0
        self._memory.begin_call(cells, sealed.shared_among(fds))
        cells.put_float(0, task_cells.CPU_BEFORE, cpu_before + self._cpu_beside)
        cells.put_float(0, task_cells.START, start)
        cells.put_float(0, task_cells.CLOCK, start)
        cells.put(0, task_cells.CALL, number)
        if self._is_fresh:
            cells.begin_for_good(number)
        stopwatch = _Stopwatch()
        around = warning.can_reach_it() if warning else stopwatch
        # What it sets in context variables, such as NumPy's handling of errors, goes with it.
        self._context = contextvars.copy_context()
        received: list[Packed] = []  # kept, as what it shares is told from its memory below
        kind, end = self._context.run(_run, head, fds, around, received)
        if os.getpid() != self._pid:
            os._exit(0)  # the call has forked, and this is its child, which has returned too
        if orders.captures:
            standard_output.flush()  # this may take a while, in which the call still runs
        wall_time = self._end_step() - start
        self._latest = None
        self.busy = stopwatch.seconds
        loading = 0.0 if math.isinf(self.busy) else stopwatch.start - start
        cells.put(0, task_cells.DONE, number)
        if warning is not None:
            warning.take_back_handlers()
        self.children_cpu_time = proctree.children_cpu_time()
        cpu_time = time.process_time() + self.children_cpu_time - cpu_before
        peak = self._memory.peak_of_call()
        return Ended(kind, end, wall_time, self._longest_step, loading, cpu_time, peak)

    def context_differs(self) -> bool:
        """Whether the last call, or a module that it has imported, has set context variables."""
        return dict(self._context) != dict(contextvars.copy_context())

    def _restart_clock(self) -> None:
        self.task_cells.put_float(0, task_cells.CLOCK, self._end_step())

    def _tell(self, value: Any) -> None:
        if (latest := self._latest) is not None:
            latest.put(value)

    def _end_step(self) -> float:
        now = time.monotonic()
        step = now - self.task_cells.get_float(0, task_cells.CLOCK)
        self._longest_step = max(self._longest_step, step)
        return now


def _run(
    head: memoryview,
    fds: list[int],
    around: contextlib.AbstractContextManager[object],
    received: list[Packed],
) -> tuple[int, Payload]:
    """Run a function, it alone within a context. Returns the kind of answer, and its payload."""
    with CallersMain() as main, by_value.Receiving(main.names):
        return _answer(head, fds, around, received)


def _answer(
    head: memoryview,
    fds: list[int],
    around: contextlib.AbstractContextManager[object],
    received: list[Packed],
) -> tuple[int, Payload]:
    try:
        received.append(payload.take(head, fds))
        fn, args, kwargs, *carrier = received[0].load()
        script_globals.give(fn)
    except BaseException as error:
        return pickling.pack_unpicklable("arguments", error)
    finally:
        files.close(fds)
    try:
        with trace_context.attached(*carrier), around:
            value = in_place.call(fn, args, kwargs)
    except SystemExit as error:
        return messages.EXITED, payload.pack_texts(str(in_place.exit_status(error)))
    except BaseException as error:
        return pickling.pack_raised(error)
    return pickling.pack_returned(value)
