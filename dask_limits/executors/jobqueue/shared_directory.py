"""A directory that the nodes of a cluster share, for the credentials and logs of one run."""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import shutil
import time
from collections.abc import Iterable
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

    It is removed at the end. If this process is killed, the next one that makes a directory in the
    same parent removes it: a lock on a file shows which directories are in use.

    Args:
        parent: The directory to make it in, in the form that `dask_jobqueue` takes: "~" and
            variables are expanded here, and again on the nodes. It is made if it does not exist,
            and then removed at the end, unless there is something else in it.

    Raises:
        OSError: if the directory cannot be made.
    """

    def __init__(self, parent: str) -> None:
        here = Path(os.path.expandvars(parent)).expanduser()
        name = f"{_PREFIX}{uuid4().hex}"
        self.path = here / name
        self.unexpanded = f"{parent.rstrip('/')}/{name}"
        self._made = missing_directories(here)
        try:
            self._make()
        except OSError as error:
            raise OSError(
                error.errno,
                f"{error.strerror}. Credentials and logs of the jobs are kept there. Specify"
                " another directory that the nodes see with `shared_temp_directory`",
                str(error.filename),
            ) from None
        self._lock = _new_lock(self.path / _LOCK)
        self.logs = self.path / _LOGS
        self.logs.mkdir()

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

    def remove(self, *, keep_logs: bool = False) -> None:
        """Remove it.

        Args:
            keep_logs: Whether to keep the logs for a week, if there are any.
        """
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None
        if keep_logs and any(path.stat().st_size for path in self.logs.iterdir() if path.is_file()):
            (self.path / _KEPT).touch()
            _remove_all_but_logs(self.path)
        else:
            shutil.rmtree(self.path, ignore_errors=True)
            remove_empty(self._made)


def missing_directories(path: Path) -> list[Path]:
    """A directory and those above it, from the innermost, as far as they do not exist."""
    return [one for one in (path, *path.parents) if not one.exists()]


def remove_empty(directories: Iterable[Path]) -> None:
    """Remove directories that are empty, from the innermost."""
    with contextlib.suppress(OSError):
        for directory in directories:
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


def _remove_all_but_logs(path: Path) -> None:
    for entry in path.iterdir():
        if entry.name not in (_LOGS, _KEPT):
            with contextlib.suppress(OSError):
                entry.unlink()
