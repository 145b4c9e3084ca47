"""dask_jobqueue, imported from here alone, so that Ctrl-C stays what it was.

`dask_jobqueue.runner` (0.9), which comes with the package, sets a handler for SIGINT on import:
from then on Ctrl-C ends the program with exit code 0 and without a word, and in another thread than
the main one the import fails.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


@contextmanager
def _no_handlers_from_here() -> Iterator[None]:
    """Let this thread set no signal handlers in the block; others can."""
    set_handler, here = signal.signal, threading.get_ident()

    def set_elsewhere(number: Any, handler: Any) -> Any:
        if threading.get_ident() == here:
            return signal.getsignal(number)
        return set_handler(number, handler)

    signal.signal = set_elsewhere  # type: ignore[assignment]
    try:
        yield
    finally:
        signal.signal = set_handler


with _no_handlers_from_here():
    import dask_jobqueue
    from dask_jobqueue.core import Job, JobQueueCluster

__all__ = ["Job", "JobQueueCluster", "dask_jobqueue"]
