"""What is logged of workers that come and go: in Dask's scheduler, and where that is heard of."""

from __future__ import annotations

import logging

from dask_limits.printable import printable
from dask_limits.units import format_bytes

logger = logging.getLogger("dask_limits.workers")


def has_come(worker: str, cores: float, memory: float | None) -> None:
    """A worker can take calls. Without a limit on its memory, that is None or infinite."""
    if logger.isEnabledFor(logging.INFO):
        bound = "" if memory is None or memory == float("inf") else format_bytes(int(memory))
        has = f"{cores:g} cores" + (f", {bound} for calls" if bound else "")
        logger.info("%s has come: %s", printable(worker), has)


def is_draining(worker: str, why: str) -> None:
    """A worker takes no more calls, and finishes those that it has."""
    logger.info("%s takes no more calls: %s", printable(worker), printable(why))


def has_gone(worker: str, why: str) -> None:
    """A worker has left, or was lost."""
    logger.info("%s has gone: %s", printable(worker), printable(why) or "the cause is not known")


def worker_name(name: str, address: str, job: str) -> str:
    """How the log names a worker; the job is empty if it is in none."""
    return f"worker {name} at {address}" + (f" in job {job}" if job else "")
