"""The processes that a guardian consists of, as a user of the machine sees them."""

from __future__ import annotations

from collections.abc import Iterable

import psutil

from dask_limits.limits.owner.guardian import Guardian


def guardian_process(guardian: Guardian) -> psutil.Process:
    """The process that watches; its parent is the reaper."""
    (process,) = _named("limits-guardian", [psutil.Process(guardian._connection.pid)])
    return process


def templates(guardian: Guardian) -> list[psutil.Process]:
    """The processes that fork task processes."""
    return _named("limits-template", [guardian_process(guardian)])


def task_processes(guardian: Guardian) -> list[psutil.Process]:
    """The processes that run calls, or are ready to."""
    return _named("limits-task", templates(guardian))


def _named(name: str, parents: Iterable[psutil.Process]) -> list[psutil.Process]:
    found = []
    for parent in parents:
        for child in parent.children():
            try:
                if child.name() == name:
                    found.append(child)
            except psutil.NoSuchProcess:
                pass
    return found
