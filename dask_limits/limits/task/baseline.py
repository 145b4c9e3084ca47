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
from dask_limits.limits.linux import proctree
from dask_limits.limits.task import temporary_folder
from dask_limits.limits.task.interpreter_state import Hooks, Restored, settings
from dask_limits.limits.task.kernel_state import KernelState
from dask_limits.limits.task.libc_environment import LibcEnvironment
from dask_limits.limits.task.open_files import OpenFiles
from dask_limits.limits.task.process_state import Setting
from dask_limits.limits.task.random_state import RandomStates

_LOOKS_AT_THREADS: Final = 10
_THREAD_END_S: Final = 0.0002
"""A thread that Python has joined may still be about to end: look again after so many seconds."""

_FULL_LOOK_AFTER_S: Final = 1e-5
"""How long functions may have run without a look at what hardly any of them changes: it takes 35 us
or so, and would make functions that take less than one take half as long again. So these share a
look, and each longer one has its own."""
_FULL_LOOK_EVERY_S: Final = 0.005
"""The same, whatever they are: arguments can change something while they are unpickled, too."""


class Baseline:
    """What this process was like when this was made, before its first call."""

    def __init__(self, cells: TaskCells, random: RandomStates) -> None:
        self._cells = cells
        self._restored = Restored(random)
        self._environment = LibcEnvironment(os.environ._data)  # type: ignore[attr-defined]
        self._hooks = Hooks()
        self._settings = settings()
        self._kernel = KernelState()
        self._files = OpenFiles(cells.fd)
        self._common = self._kernel.read()
        self._rarer = self._kernel.read_rarer()
        self._kept = self._kernel.read_what_libraries_change()
        self._threads = self._kernel.threads()
        self._python_threads = len(sys._current_frames())  # modules may have started some
        self._children = proctree.children_of(os.getpid())
        self._keeps_folder = temporary_folder.is_made()  # by the initializer
        self._next_full_look = 0.0  # seconds of time.monotonic()
        self._unlooked = 0.0  # seconds that functions have run since the last one

    def restore(self, setting: Setting, keep: bool, busy: float) -> bool:
        """Restore what a call has changed, as far as that is sure. False if more has changed.

        Its function has been `busy` for so many seconds. With `keep`, what libraries keep on
        purpose may stay: open files, while they are few and lock out nobody, their own threads,
        locked memory, handlers of signals in C, and hooks in the interpreter.
        """
        self._unlooked += busy
        try:
            setting.restore()
            self._environment.restore(setting.environment)
            faulthandler.cancel_dump_traceback_later()
            self._cells.collect_stacks()
            restored = self._restored.restore()
            is_as_before = (
                self._files.known_are_same()
                and settings() == self._settings
                and self._kernel.read() == self._common
                and not self._leaves_something()
                and (self._files.may_stay() if keep else restored and self._is_as_before())
                and (self._has_looked_fully() or self._look_fully(keep))
            )
            if is_as_before and not self._keeps_folder:
                temporary_folder.remove()  # nothing is left that uses it
            return is_as_before
        except BaseException:  # of something that a call has put in the place of something else
            return False

    def _is_as_before(self) -> bool:
        return self._files.none_left() and self._hooks.are_same() and not self._has_more_threads()

    def _has_looked_fully(self) -> bool:
        is_recent = time.monotonic() < self._next_full_look
        return is_recent and self._unlooked < _FULL_LOOK_AFTER_S

    def _look_fully(self, keep: bool) -> bool:
        self._next_full_look = time.monotonic() + _FULL_LOOK_EVERY_S
        self._unlooked = 0.0
        return (
            self._files.are_same()
            and self._kernel.read_rarer() == self._rarer
            and (keep or self._kernel.read_what_libraries_change() == self._kept)
        )

    def _leaves_something(self) -> bool:
        """Whether a call has left a thread of Python or a child process, zombies included."""
        if self._kernel.threads() > 1 and len(sys._current_frames()) > self._python_threads:
            return True
        if self._children:
            return proctree.children_of(os.getpid()) != self._children
        try:
            os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
        except ChildProcessError:
            return False
        return True

    def _has_more_threads(self) -> bool:
        """Whether a thread is left that Python does not know of; not one that is about to end."""
        for _ in range(_LOOKS_AT_THREADS):
            if self._kernel.threads() == self._threads:
                return False
            time.sleep(_THREAD_END_S)
            self._kernel.read()
        return True
