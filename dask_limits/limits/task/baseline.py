"""What a task process was like before its first call, so that the next one finds it like that.

What a process is, as kernel and interpreter tell, is compared after each call. What differs is
restored where that is sure; else the process is replaced.
"""

from __future__ import annotations

import faulthandler
import os
import sys
import time
from typing import Final

from dask_limits.limits.ipc.task_cells import TaskCells
from dask_limits.limits.task.interpreter_state import Hooks, Restored, settings
from dask_limits.limits.task.kernel_state import KernelState
from dask_limits.limits.task.libc_environment import LibcEnvironment
from dask_limits.limits.task.open_files import OpenFiles
from dask_limits.limits.task.process_state import Setting

_LOOKS_AT_THREADS: Final = 10
_THREAD_END_S: Final = 0.0002
"""A thread that Python has joined may still be about to end: look again after so many seconds."""


class Baseline:
    """What this process was like when this was made, before its first call.

    `restore` costs some 25 us, after the answer of a call was sent.
    """

    def __init__(self, cells: TaskCells) -> None:
        self._cells = cells
        self._restored = Restored()
        self._environment = LibcEnvironment(os.environ._data)  # type: ignore[attr-defined]
        self._kernel = KernelState()
        self._files = OpenFiles(but=self._kernel.open_files)
        self._threads = self._kernel.threads()
        self._hooks = Hooks()
        self._before = self._kernel.read(), settings()

    def restore(self, setting: Setting, keep: bool) -> bool:
        """Restore what a call has changed, as far as that is sure. False if more has changed.

        With `keep`, what libraries keep on purpose may stay: open files, while they are few, their
        own threads, and what they have set in the interpreter.
        """
        try:
            setting.restore()
            self._environment.restore(setting.environment)
            faulthandler.cancel_dump_traceback_later()
            self._cells.collect_stacks()
            restored = self._restored.restore()
            return (
                not leaves_something()
                and self._files.are_same()
                and (self._kernel.read(), settings()) == self._before
                and (self._keeps_few_files() if keep else restored and self._is_as_before())
            )
        except BaseException:  # of something that a call has put in the place of something else
            return False

    def _keeps_few_files(self) -> bool:
        return not self._files.too_many_left()

    def _is_as_before(self) -> bool:
        return self._files.left() == 0 and self._hooks.are_same() and not self._has_more_threads()

    def _has_more_threads(self) -> bool:
        """Whether a thread is left that Python does not know of; not one that is about to end."""
        for _ in range(_LOOKS_AT_THREADS):
            if self._kernel.threads() == self._threads:
                return False
            time.sleep(_THREAD_END_S)
        return True


def leaves_something() -> bool:
    """Whether a call has left a thread or a child process, zombies included."""
    if len(sys._current_frames()) > 1:
        return True
    try:
        os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    except ChildProcessError:
        return False
    return True
