"""Warns a call that its time is over, before it is ended."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Iterator
from types import FrameType
from typing import TYPE_CHECKING, Final

from dask_limits.limits.ipc import task_cells
from dask_limits.limits.ipc.task_cells import TaskCells
from dask_limits.limits.tracebacks import users_stacks
from dask_limits.units import format_seconds

if TYPE_CHECKING:
    from dask_limits.exceptions import Breach

SIGNALS: Final = {"wall_time": signal.SIGALRM, "cpu_time": signal.SIGXCPU}
"""The signals to a call that goes over a limit on time."""


class GraceWarning:
    """Handles the warnings of one call, in the process that runs its function.

    Make it before the call is noted as begun: the call can be warned from then on.

    The guardian notes that it warns a call, and then reads whether the call is done. We note that
    the call is done, and then read whether it was warned. So either no signal is sent, or we know
    that one may still come, and keep the handlers that ignore it.
    """

    def __init__(self, cells: TaskCells, number: int, grace_period: float) -> None:
        from dask_limits.limits.breaches import BREACHES  # with pynisher, which few calls need

        self._breaches = BREACHES
        self._task_cells = cells
        self._number = number
        self._grace_period = grace_period
        self._inside = False
        self._early = 0
        self._before = {name: signal.signal(name, self._handle) for name in SIGNALS.values()}

    @contextlib.contextmanager
    def can_reach_it(self) -> Iterator[None]:
        """Let the warning be raised within this block, and nowhere else.

        If it came earlier, while the arguments were unpickled, it is raised at the start.
        """
        try:
            self._inside = True
            if self._early:
                raise self._breach(self._early)
            yield
        finally:
            self._inside = False

    @property
    def _came(self) -> bool:
        """Whether the guardian has warned the call."""
        return self._task_cells.get(0, task_cells.WARNED) == self._number

    def take_back_handlers(self) -> None:
        """Restore the handlers, unless a signal may still come. Call it after the end is noted."""
        if not self._came:
            for number, handler in self._before.items():
                if signal.getsignal(number) == self._handle:
                    signal.signal(number, handler)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if not self._came:  # not from the guardian: act as by default
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
        elif self._inside:
            raise self._breach(number)
        else:
            self._early = number

    def _breach(self, number: int) -> Breach:
        limit = next(limit for limit, its in SIGNALS.items() if its == number)
        return self._breaches[limit](
            f"over the {limit} limit; this call is ended in {format_seconds(self._grace_period)}",
            stacks=users_stacks(self._task_cells.stacks()),
        )
