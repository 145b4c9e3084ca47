"""Where the trials of a search run."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any, Final

import psutil

from dask_limits.cli.options import BadInput

if TYPE_CHECKING:
    from dask_limits import PynisherPlugin, Scheduler

OVERHEAD: Final = 512 * 2**20
"""Bytes that a SLURM job gets in addition to the memory of its trial. 256 MiB are reserved for
Dask's worker, its nanny and our guardian, which the job's limit includes; the rest is for data and
models in transit. With less, the trial is refused; with more, the job may wait longer."""


def n_workers_here(trial_memory: int | None) -> int:
    """How many trials this machine can run at a time. Dask divides the memory among the workers."""
    cores = len(os.sched_getaffinity(0))
    if trial_memory is None:
        return cores
    return max(1, min(cores, psutil.virtual_memory().total // trial_memory))


def make_scheduler(
    executor: str,
    address: str | None,
    n_parallel: int,
    limits: PynisherPlugin,
    of_slurm: dict[str, Any],
) -> Scheduler:
    """A scheduler on the executor that `--executor` names.

    Args:
        executor: "processes", "dask" or "slurm".
        address: The address of a Dask scheduler; None for a new cluster.
        n_parallel: How many trials run at a time.
        limits: The limits of a trial.
        of_slurm: The options for SLURM that were given.

    Raises:
        BadInput: if SLURM's jobs cannot be as the options say, or could not run a trial.
    """
    from dask_limits import Scheduler
    from dask_limits.exceptions import LimitRefusedError

    if executor == "processes":
        return Scheduler.with_processes(n_parallel)
    if executor == "slurm":
        memory = of_slurm.pop("worker_memory", None)
        try:
            options = {"n_workers": n_parallel, "cores": 1, "memory": memory, **of_slurm}
            scheduler = Scheduler.with_slurm(**options)
        except (TypeError, ValueError) as error:
            hint = "" if memory else " On the command line, that is --worker-memory."
            why = str(error).rstrip(".")
            raise BadInput(f"These workers cannot run on SLURM: {why}.{hint}") from None
        try:
            scheduler.check_limits(limits.limits, "run_trial")
        except LimitRefusedError as error:
            raise BadInput(f"No worker could run trials: {error}") from None
        return scheduler
    if address is not None:
        return Scheduler.with_dask(address)
    return Scheduler.with_dask(n_workers=n_parallel)
