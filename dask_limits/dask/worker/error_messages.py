"""Clearer errors for what needs the Dask worker, which a task process has not."""

from __future__ import annotations

import re
from typing import Final

_NO_WORKER: Final = re.compile(
    "No worker found"
    "|No global client found"
    r"|<class 'distributed\..*> object not properly initialized"
    "|'NoneType' object has no attribute 'asyncio_loop'"
)
"""How the messages begin of what `get_worker()`, `get_client()`, Dask's variables and its locks
raise in a process that has neither worker nor client."""
_TYPES: Final = (ValueError, AttributeError, RuntimeError)
_NOTE: Final = (
    "A task with limits runs in a process beside the Dask worker, and has neither a worker nor a"
    ' client there. With annotate(..., isolation="thread") it runs in the worker itself.'
)


def explained(error: BaseException | None) -> BaseException | None:
    """The same exception, with a note or as a clearer one if it was for want of a worker.

    Args:
        error: What a task ended with in a task process.
    """
    if isinstance(error, RuntimeError) and str(error).startswith("P2P "):
        return _of_shuffle(error)
    if isinstance(error, _TYPES) and _NO_WORKER.match(str(error)):
        error.add_note(_NOTE)
    return error


def _of_shuffle(error: BaseException) -> BaseException:
    clearer = RuntimeError(
        f"{error}. Limits were put on a P2P shuffle, which needs the Dask worker and cannot run in"
        " a task process: make and compute it in one block of annotate(), which has Dask shuffle"
        ' by tasks, or dask.config.set({"dataframe.shuffle.method": "tasks",'
        ' "array.rechunk.method": "tasks"}) where it is made'
    )
    clearer.__cause__ = error
    return clearer
