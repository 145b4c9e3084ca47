"""Removes the temporary folders that multiprocessing has made in processes that have ended."""

from __future__ import annotations

import contextlib
import os
from functools import partial

from dask_limits.limits.guardian.helpers import Helpers
from dask_limits.limits.linux import proctree
from dask_limits.limits.task.temporary_folder import path_of


class TemporaryFolders:
    """The folders of all processes of one guardian: their paths begin with this prefix."""

    def __init__(self, prefix: str, helpers: Helpers) -> None:
        self._prefix = prefix
        self._helpers = helpers
        self._ended: set[int] = set()

    def note_end(self, pid: int) -> None:
        """Note that a child has ended, which may have been a task process or a template."""
        self._ended.add(pid)

    def remove(self) -> None:
        """Remove the folders of those that have ended. None of what these have started is left."""
        while self._ended:
            pid = self._ended.pop()
            if proctree.read_process(pid) is not None:
                continue  # a new process has this number, and may use the folder
            try:
                os.rmdir(path := path_of(self._prefix, pid))
            except FileNotFoundError:
                pass
            except OSError:  # calls can put anything there
                self._helpers.start(partial(_remove, path))

    def remove_all(self) -> None:
        """Remove those of all processes, of which none is left."""
        parent, start = os.path.split(self._prefix)
        with contextlib.suppress(OSError):
            for name in os.listdir(parent):
                if name.startswith(start):
                    _remove(os.path.join(parent, name))


def _remove(path: str) -> None:
    import shutil  # a guardian that never needs it starts sooner

    shutil.rmtree(path, ignore_errors=True)
