"""The temporary folder of multiprocessing, for sockets of its forkservers, managers and listeners.

multiprocessing removes it when the process that has made it ends by itself, but a task process is
ended, and so is what a call has started. So multiprocessing gets a folder with a name that the
guardian knows, and removes. It is made when it is needed, and for each new process at the latest:
so all that multiprocessing starts from here on share it.

Source: `multiprocessing.util.get_temp_dir`
"""

from __future__ import annotations

import contextlib
import os
from multiprocessing import process
from typing import Any, Final

_KEY: Final = "tempdir"
_PREFIX: Final = "dask-limits-prefix"
_current: Final[Any] = process.current_process


class Inherited(dict[str, Any]):
    """What multiprocessing knows in this process, and hands on to those that it starts."""

    def __init__(self, prefix: str, inherited: dict[str, Any]) -> None:
        super().__init__(inherited)
        self.pop(_KEY, None)
        self[_PREFIX] = prefix
        self.path = path_of(prefix, os.getpid())

    def get(self, name: str, default: Any = None) -> Any:
        """One of the values. multiprocessing asks for its folder by this, before it makes one."""
        if name == _KEY:
            self._make_folder()
        return super().get(name, default)

    def copy(self) -> dict[str, Any]:
        """What a new process gets. It may be pickled, and must not need this class then."""
        self._make_folder()
        return dict(self)

    def _make_folder(self) -> None:
        if super().get(_KEY):
            return
        with contextlib.suppress(OSError):  # without it, multiprocessing makes one itself
            with contextlib.suppress(FileExistsError):  # a fork of this process has made it
                os.mkdir(self.path, 0o700)
            if os.lstat(self.path).st_uid == os.geteuid():
                self[_KEY] = self.path


def prefix_in(folder: str) -> str:
    """What the paths begin with that belong to one guardian. Others can find it out only when it
    is used. Paths of sockets must be short: see unix(7).
    """
    return os.path.join(folder, f"pymp-{os.urandom(3).hex()}-")


def path_of(prefix: str, pid: int) -> str:
    """The path of the folder of one task process or template."""
    return f"{prefix}{pid}"


def parent_here() -> str:
    """Where the folders belong that calls of this process need."""
    inherited = _current()._config
    if _PREFIX in inherited and (folder := inherited.get(_KEY)):
        return str(folder)  # a call runs here, or has started this process: they go with it
    import tempfile  # not for the guardian

    known = tempfile.tempdir
    try:
        return tempfile.gettempdir()
    except FileNotFoundError:  # there is none where this user can write
        return os.sep
    finally:
        tempfile.tempdir = known  # TMPDIR may be changed until this program needs it itself


def use(prefix: str) -> None:
    """Have multiprocessing use a folder of this process, with a path that begins like this."""
    _current()._config = Inherited(prefix, _current()._config)


def use_another() -> None:
    """Use one of this process's own, in a fork of a process that has one."""
    use(_current()._config[_PREFIX])


def is_made() -> bool:
    """Whether this process has a folder. 0.1 us."""
    inherited = _current()._config
    return isinstance(inherited, Inherited) and _KEY in inherited


def remove() -> None:
    """Remove the folder of this process, if it has one, and what is left in it."""
    if is_made():
        inherited = _current()._config
        if inherited.pop(_KEY) == inherited.path:  # else a call has named another
            import shutil

            shutil.rmtree(inherited.path, ignore_errors=True)
