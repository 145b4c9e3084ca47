"""What task processes leave that goes by their pids, and is removed when they have ended."""

from __future__ import annotations

from dask_limits.limits.guardian.groups import Groups
from dask_limits.limits.guardian.helpers import Helpers
from dask_limits.limits.guardian.temporary_folders import TemporaryFolders


class Remains:
    """Temporary folders of multiprocessing whose paths begin with this prefix, and control groups.

    The guardian removes those of each process, and its reaper what the guardian has left.
    """

    def __init__(self, prefix: str) -> None:
        self.helpers = Helpers()
        self.groups = Groups(self.helpers)
        self._folders = TemporaryFolders(prefix, self.helpers)

    def note_end(self, pid: int) -> None:
        """Note that a child has ended, which may have been a task process or a template."""
        self.helpers.note_end(pid)
        self._folders.note_end(pid)
        self.groups.note_end(pid)

    def remove(self) -> None:
        """Remove what is left of those that have ended. No process that they started is known."""
        self.groups.remove()
        self._folders.remove()

    def remove_all(self) -> None:
        """Remove what is left of all processes, of which none is there."""
        self.groups.remove_all()
        self._folders.remove_all()
