"""Removes the temporary folders that multiprocessing has made in processes that have ended."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
from typing import Final

from dask_limits.limits.linux import prctl, proctree
from dask_limits.limits.task.temporary_folder import path_of

_ALL_FILES: Final = 2**31 - 1


class TemporaryFolders:
    """The folders of all processes of one guardian: their paths begin with this prefix."""

    def __init__(self, prefix: str) -> None:
        self._prefix = prefix
        self._ended: set[int] = set()
        self.removers: set[int] = set()  # processes of ours

    def note_end(self, pid: int) -> None:
        """Note that a child has ended, which may have been a task process or a template."""
        self.removers.discard(pid)
        self._ended.add(pid)

    def remove(self) -> None:
        """Remove the folders of those that have ended. None of what these have started is left."""
        while self._ended:
            pid = self._ended.pop()
            if proctree.read_process(pid) is not None:
                continue  # a new process has this number, and may use the folder
            try:
                os.rmdir(path_of(self._prefix, pid))
            except FileNotFoundError:
                pass
            except OSError:
                self._start_remover(pid)

    def _start_remover(self, pid: int) -> None:
        """Remove a folder with contents. That may take long: calls can put anything there."""
        with contextlib.suppress(OSError):  # no room for a process: it goes with the guardian
            remover = os.fork()
            if remover == 0:
                try:
                    prctl.die_with_parent(signal.SIGKILL)
                    os.closerange(3, _ALL_FILES)  # they tell others whether the guardian lives
                    shutil.rmtree(path_of(self._prefix, pid), ignore_errors=True)
                finally:
                    os._exit(0)
            self.removers.add(remover)

    def remove_all(self) -> None:
        """Remove those of all processes, of which none is left."""
        parent, start = os.path.split(self._prefix)
        with contextlib.suppress(OSError):
            for name in os.listdir(parent):
                if name.startswith(start):
                    shutil.rmtree(os.path.join(parent, name), ignore_errors=True)
