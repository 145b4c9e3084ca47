"""A directory that the nodes of a cluster share, for the credentials and logs of one run."""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import shutil
import time
from pathlib import Path
from typing import Final
from uuid import uuid4

_PREFIX: Final = "run-"
_OURS: Final = re.compile(rf"{_PREFIX}[0-9a-f]{{32}}")
_LOCK: Final = "lock"
_LOGS: Final = "logs"
_KEPT: Final = "kept"
_KEEP_LOGS_S: Final = 7 * 86400.0
"""How long the logs of a failed run are kept: long enough to read them after a holiday."""
_TRIES: Final = 10
"""How often to make the parent: another process, whose run ends, may remove it meanwhile."""


class SharedDirectory:
    """A directory that all nodes see, and that only this user can read.

    If this process is killed, the next one that makes a directory in the same parent removes it: a
    lock on a file shows which directories are in use.

    Args:
        parent: The directory to make it in. "~" and variables are expanded here, and again on the
            nodes.
        logs: The directory of the logs, if it is to be another one.

    Raises:
        OSError: if the directory cannot be made.
    """

    def __init__(self, parent: str, logs: str | None = None) -> None:
        here = Path(os.path.expandvars(parent)).expanduser()
        name = f"{_PREFIX}{uuid4().hex}"
        self.path = here / name
        self.unexpanded = f"{parent.rstrip('/')}/{name}"  # the same, with "~" and variables
        self.logs = Path(logs or self.path / _LOGS)
        self.keep_logs = False  # whether `remove` keeps those in it for a week, if there are any
        self._missing = [
            directory
            for start in (here, self.logs)
            for directory in (start, *start.parents)
            if not directory.exists()
        ]
        try:
            self._make()
        except OSError as error:
            raise OSError(
                error.errno,
                f"{error.strerror}. Specify another directory that the nodes see, for credentials"
                " and logs of the jobs, with `shared_temp_directory`. This one cannot be used",
                str(error.filename),
            ) from None
        self._lock = _new_lock(self.path / _LOCK)
        (self.path / _LOGS).mkdir()

    def _make(self) -> None:
        for tries_left in reversed(range(_TRIES)):
            try:
                self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
                _remove_stale(self.path.parent)
                self.path.mkdir(mode=0o700)
                return
            except (FileExistsError, FileNotFoundError):
                if not tries_left:
                    raise

    def remove(self) -> None:
        """Remove it, and what was made above it and for the logs, if nothing else is in there."""
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None
        logs = self.path / _LOGS
        if self.keep_logs and any(file.stat().st_size for file in logs.iterdir() if file.is_file()):
            (self.path / _KEPT).touch()
            for entry in self.path.iterdir():
                if entry.name not in (_LOGS, _KEPT):
                    with contextlib.suppress(OSError):
                        entry.unlink()
            return
        shutil.rmtree(self.path, ignore_errors=True)
        for directory in self._missing:
            with contextlib.suppress(OSError):  # something else is in it
                directory.rmdir()


def _new_lock(path: Path) -> int | None:
    """Lock a new file; it stays so while the descriptor is open. None if locks do not work here."""
    unseen = path.with_suffix(".new")  # another process could lock it first, and remove it
    descriptor = os.open(unseen, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:  # Lustre without -o flock
        os.close(descriptor)
        unseen.unlink()
        return None
    unseen.rename(path)
    return descriptor


def _remove_stale(parent: Path) -> None:
    """Remove what killed processes have left. A directory without a lock is left alone."""
    for path in parent.glob(f"{_PREFIX}*"):  # nothing, if the parent cannot be listed
        if not _OURS.fullmatch(path.name):  # the user's own
            continue
        kept = path / _KEPT
        with contextlib.suppress(OSError):  # in use, already gone, or another user's
            if kept.exists():
                if time.time() - kept.stat().st_mtime > _KEEP_LOGS_S:
                    shutil.rmtree(path)
                continue
            with (path / _LOCK).open("r+") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(path)
