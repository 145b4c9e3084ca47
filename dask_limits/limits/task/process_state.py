"""The state that a task process takes from its owner."""

from __future__ import annotations

import contextlib
import importlib
import itertools
import os
import sys
import time
from dataclasses import dataclass, field, fields, replace
from typing import Any

from dask_limits.limits.task.imports import folder_of


@dataclass
class Setting:
    """The state that a task process takes from its owner, and restores after each call."""

    path: list[str]
    directory: str
    environment: dict[Any, Any]
    authkey: bytes | None = field(repr=False)
    """By which multiprocessing's proxies of managers connect; None while nothing has imported it.
    As multiprocessing's own processes inherit it, it is passed on in memory alone."""
    umask: int
    processors: set[int]
    """On which it may run: those of the thread that makes the call."""

    @classmethod
    def here(cls, umask: int | None = None) -> Setting:
        """The state of this process. Its lists are not copied, and change with it.

        To find out the umask takes as long as all the rest.
        """
        try:
            directory = os.getcwd()
        except OSError:  # it has been removed
            directory = "/"
        # os.environ compares and copies itself slowly; this is the dict of bytes in it.
        environment = os.environ._data  # type: ignore[attr-defined]
        process = sys.modules.get("multiprocessing.process")
        authkey = None if process is None else bytes(process.current_process().authkey)
        if umask is None:
            umask = umask_here()
        return cls(sys.path, directory, environment, authkey, umask, os.sched_getaffinity(0))

    def copy(self) -> Setting:
        """The state as it is now. Each copy is one step, as other threads may change the state."""
        return replace(self, path=self.path.copy(), environment=self.environment.copy())

    def for_another_process(self) -> Setting:
        """A copy that can be unpickled in any process."""
        path = [os.fsdecode(p) for p in self.path if isinstance(p, str | bytes | os.PathLike)]
        path = [self._where_it_leads(str(entry)) for entry in path]
        if "" in path:
            path += self._folders_left(path)
        return replace(self, path=path, environment=self.environment.copy())

    def _where_it_leads(self, entry: str) -> str:
        """The folder that an entry of the path means here, whatever the directory is by now."""
        if not entry or os.path.isabs(entry):
            return entry  # an empty one is where the process is, each time
        finder = sys.path_importer_cache.get(entry)
        return os.path.join(self.directory, getattr(finder, "path", entry))

    def _folders_left(self, path: list[str]) -> list[str]:
        """Where else modules of this process are from: where it was when it imported them."""
        folders = {folder_of(name) for name in sys.modules.copy() if "." not in name}
        known = [*path, self.directory]
        return [f for f in sys.path_importer_cache.copy() if f in folders and f not in known]

    def differs_here(self) -> bool:
        """Whether this process has another path, environment or directory."""
        now = Setting.here(self.umask)
        return (now.path, now.directory, now.environment) != (
            self.path,
            self.directory,
            self.environment,
        )

    def restore(self) -> None:
        """Restore it in this process, where it was changed."""
        os.umask(self.umask)
        now = Setting.here(self.umask)
        if now.path != self.path:
            sys.path[:] = self.path
            importlib.invalidate_caches()
        if now.environment != self.environment:
            for name in now.environment.keys() - self.environment.keys():
                os.unsetenv(name)
            for name, value in self.environment.items() - now.environment.items():
                os.putenv(name, value)
            now.environment.clear()
            now.environment.update(self.environment)
            time.tzset()  # the C library keeps the time zone that it has found there
        if now.authkey != self.authkey is not None:
            from multiprocessing import process

            process.current_process().authkey = self.authkey
        if now.directory != self.directory:
            try:
                os.chdir(self.directory)
            except OSError:
                pass  # the owner's directory has been removed
        if now.processors != self.processors:
            with contextlib.suppress(OSError):  # they have been taken offline
                os.sched_setaffinity(0, self.processors)


def umask_here() -> int:
    """The umask of this process: os.umask would change it, for other threads too."""
    with open("/proc/self/status", "rb") as status:
        return int(status.read().partition(b"\nUmask:")[2].split(None, 1)[0], 8)


class Changes:
    """What has changed from one setting of a process to a later one."""

    def __init__(self, before: Setting, after: Setting) -> None:
        own = {"path", "environment", "authkey"}
        self._others = {
            field.name: getattr(after, field.name)
            for field in fields(Setting)
            if field.name not in own and getattr(before, field.name) != getattr(after, field.name)
        }
        self._removed = before.environment.keys() - after.environment.keys()
        self._set = dict(after.environment.items() - before.environment.items())
        new = [path for path in after.path if path not in before.path]
        self._at_start = [*itertools.takewhile(new.__contains__, after.path)]
        self._at_end = [path for path in new if path not in self._at_start]

    def applied_to(self, setting: Setting) -> Setting:
        """Another setting with these changes."""
        kept = {
            name: value for name, value in setting.environment.items() if name not in self._removed
        }
        path = [*self._at_start, *setting.path, *self._at_end]
        return replace(
            setting, path=list(dict.fromkeys(path)), environment=kept | self._set, **self._others
        )
