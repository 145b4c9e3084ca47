"""A directory that the nodes of a cluster share, for credentials and logs of one run."""

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
"""How long the logs of a run that failed are kept: time enough to read them after a holiday."""


class SharedDirectory:
    """A directory of our own below one that all nodes see, which nobody else may read.

    It is removed at the end. Should this process be killed, the next one that makes one in the
    same place removes it: a lock on a file tells which of them are in use.

    Args:
        parent: As `dask_jobqueue` takes it: "~" and variables in it are filled in here, and also
            on the nodes. It is made if it is not there.

    Raises:
        OSError: if it cannot be made.
    """

    def __init__(self, parent: str) -> None:
        here = Path(os.path.expandvars(parent)).expanduser()
        name = f"{_PREFIX}{uuid4().hex}"
        self.path = here / name
        self.unexpanded = f"{parent.rstrip('/')}/{name}"
        try:
            here.mkdir(mode=0o700, parents=True, exist_ok=True)
            _remove_stale(here)
            self.path.mkdir(mode=0o700)
        except OSError as error:
            raise OSError(
                error.errno,
                f"{error.strerror}; credentials and logs of the jobs are to lie there, unless"
                " shared_temp_directory= names another directory that the nodes see",
                str(error.filename),
            ) from None
        self._lock = _new_lock(self.path / _LOCK)
        self.logs = self.path / _LOGS
        self.logs.mkdir()

    def remove(self, *, keep_logs: bool = False) -> None:
        """Remove it.

        Args:
            keep_logs: Whether to leave the logs there, for a week.
        """
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None
        if keep_logs:
            (self.path / _KEPT).touch()
            _remove_all_but_logs(self.path)
        else:
            shutil.rmtree(self.path, ignore_errors=True)


def _new_lock(path: Path) -> int | None:
    """A file that is locked while the descriptor is open; None where files cannot be locked."""
    unseen = path.with_suffix(".new")  # or somebody might lock it first, and remove it
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
    """Remove what is left of processes that were killed. What has no lock is left alone."""
    for path in parent.glob(f"{_PREFIX}*"):  # of none, in one that cannot be listed
        if not _OURS.fullmatch(path.name):  # the user's own, in a directory of the user's
            continue
        kept = path / _KEPT
        with contextlib.suppress(OSError):  # in use, gone meanwhile, or somebody else's
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
