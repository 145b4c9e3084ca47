"""Who can have written a file: a journal has pickles, which run code when they are loaded."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from dask_limits.exceptions import JournalError


def check_owner(path: Path) -> None:
    """Check that nobody but this user can have written something: pickles are loaded from it.

    Raises:
        JournalError: if somebody else could.
    """
    found = path.stat(follow_symlinks=False)
    if found.st_uid != os.geteuid():
        raise JournalError(
            f"The journal {path} belongs to another user (uid {found.st_uid}): loading it would run"
            " what that user has written. Use a file of your own."
        )
    if found.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise JournalError(
            f"Other users may write to the journal {path} (mode {stat.S_IMODE(found.st_mode):o}),"
            f" and loading it would run what they have written. If they have not: chmod go-w {path}"
        )


def check_folder(folder: Path) -> None:
    """Check that nobody but this user and root can replace files in a folder.

    Raises:
        JournalError: if somebody else could.
    """
    found = folder.stat()
    others_write = found.st_mode & (stat.S_IWGRP | stat.S_IWOTH)
    if found.st_uid not in (os.geteuid(), 0) or (others_write and not found.st_mode & stat.S_ISVTX):
        raise JournalError(
            f"Other users may replace files in {folder} (uid {found.st_uid}, mode"
            f" {stat.S_IMODE(found.st_mode):o}), and loading a journal would run what they have"
            f" written. Use a folder of your own; if nobody has replaced any: chmod go-w {folder}"
        )
