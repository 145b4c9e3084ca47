"""The error that says why no worker comes, with the job script and the end of a job's log."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from dask_limits.exceptions import WorkersNotStartedError
from dask_limits.executors.jobqueue.pooled_job import PooledJob

_LOG_LINES: Final = 30
"""How many lines of a log the error shows: enough for a traceback."""
_LOG_BYTES: Final = 2**16
"""How much of the log is read for that."""


def start_error(
    why: str, jobs: Sequence[PooledJob], script: str, logs: Path
) -> WorkersNotStartedError:
    """Make the error of these jobs, which brought no worker, from a job script like theirs.

    `why` is a sentence without its full stop.
    """
    states = [job.public_state() for job in jobs]
    submitted = [state for state in states if state.job]
    path, log = _last_log([state.job for state in submitted], logs)
    refusals = dict.fromkeys(str(job.submit_error) for job in jobs if job.submit_error)
    reasons = dict.fromkeys(job.why_stuck for job in jobs if job.why_stuck)
    parts = [f"{why}.", *refusals, *map(str, submitted), *reasons]
    parts += ["", "The job script (the worker's name and address differ):", script.strip()]
    if log:
        parts += ["", f"The end of {path}:", log]
    return WorkersNotStartedError("\n".join(parts), jobs=states, script=script, log=log)


def _last_log(jobs: Sequence[str], logs: Path) -> tuple[Path | None, str]:
    """The log of the last of these jobs that has one, and its end."""
    try:  # the directory may be the user's own, hold anything, and exist on other machines only
        files = [path for path in logs.iterdir() if path.is_file()]
    except OSError:
        return None, ""
    for job in reversed(jobs):
        its = re.compile(rf"(?<!\d){re.escape(job)}(?!\d)")
        paths = [path for path in files if its.search(path.name)]
        for path in sorted(paths, key=lambda path: -path.stat().st_size):  # .out and .err
            if end := _end_of(path):
                return path, end
    return None, ""


def _end_of(log: Path) -> str:
    try:
        with log.open("rb") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - _LOG_BYTES))
            return "\n".join(file.read().decode(errors="replace").splitlines()[-_LOG_LINES:])
    except OSError:
        return ""
