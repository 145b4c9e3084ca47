"""Clearer errors for code that needs the Dask worker, which a task process does not have."""

from __future__ import annotations

import re
from typing import Final

_NO_WORKER: Final = re.compile(
    "No worker found"
    "|No global client found"
    r"|<class 'distributed\..*> object not properly initialized"
    "|'NoneType' object has no attribute 'asyncio_loop'"
)
"""How the messages begin that `get_worker()`, `get_client()`, Dask's variables and its locks raise
in a process that has neither a worker nor a client."""
_TYPES: Final = (ValueError, AttributeError, RuntimeError)
_NOTE: Final = (
    "A task with limits runs in a process beside the Dask worker, in which there is neither a"
    ' worker nor a client. With annotate(..., isolation="thread") it runs in the worker itself.'
)


def explain(error: BaseException) -> BaseException:
    """This error of a task, or a clearer one, if it was raised because there is no Dask worker."""
    if isinstance(error, _TYPES) and _NO_WORKER.match(str(error)):
        error.add_note(_NOTE)
    if not (isinstance(error, RuntimeError) and str(error).startswith("P2P ")):
        return error
    clearer = RuntimeError(
        f"{error}. A P2P shuffle with limits cannot run in a task process, because it needs the"
        " Dask worker. Make and compute it in one block of annotate(), in which Dask shuffles by"
        ' tasks, or set dask.config.set({"dataframe.shuffle.method": "tasks",'
        ' "array.rechunk.method": "tasks"}) where it is made.'
    )
    clearer.__cause__ = error
    return clearer
