"""The options that say where calls run, of all commands that run some."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

import click
import psutil

from dask_limits.cli.options import COUNT, MEMORY, TIME, BadInput, check_address
from dask_limits.units import parse_bytes

if TYPE_CHECKING:
    from dask_limits import Limits, Scheduler

_OVERHEAD: Final = {"command": "512MiB", "trial": "1GiB"}
"""The memory that a job gets in addition to that of its call. 256 MiB are reserved for Dask's
worker, its nanny and our guardian, which the job's limit includes; the rest is for data and models
in transit. With less, the call is refused; with more, the job may wait longer. Some batch systems
count what processes share once for each of them: the modules that trials import are in several."""
SUBMITS: Final = {
    "slurm": "sbatch",
    "pbs": "qsub",
    "sge": "qsub",
    "lsf": "bsub",
    "oar": "oarsub",
    "moab": "msub",
    "htcondor": "condor_submit",
}
"""The batch systems, and the command that submits a job to each."""
_NAMES: Final = {"slurm": "SLURM", "pbs": "PBS", "sge": "SGE", "lsf": "LSF", "oar": "OAR"}


def options(executors: str, call: str) -> Callable[[Any], Any]:
    """The options of a command: `executors` is what those of jobs need, `call` what runs there."""
    need = f"With --executor {executors}:"
    made = [
        click.option(
            "--scheduler-address",
            metavar="tcp://...",
            help="Address of a Dask scheduler to use. Without it, a cluster is started on this"
            " machine.",
        ),
        click.option(
            "--workers",
            **COUNT,
            show_default="one per core, as far as the memory suffices",
            help=f"Number of {call}s that run at a time; on {_name(executors)}, each in a job of"
            " its own.",
        ),
        click.option(
            "--worker-memory",
            **MEMORY,
            show_default=f"that of a {call} plus {_OVERHEAD[call]}",
            help=f"{need} memory of each job.",
        ),
        click.option(
            "--walltime",
            metavar="TIME",
            help=f"{need} wall time of each job, such as 02:00:00 or 2h. A job that ends is"
            f" replaced while {call}s wait.",
        ),
        click.option("--queue", metavar="NAME", help=f"{need} the partition of the jobs."),
        click.option("--account", metavar="NAME", help=f"{need} the account of the jobs."),
        click.option(
            "--interface",
            metavar="NAME",
            help=f"{need} the network interface that the workers connect to, such as ib0.",
        ),
        click.option(
            "--worker-timeout",
            **TIME,
            show_default="none",
            help=f"{need} how long to wait for the first job to start.",
        ),
    ]

    def add(command: Any) -> Any:
        for option in reversed(made):
            command = option(command)
        return command

    return add


def check(
    executor: str,
    scheduler_address: str | None,
    workers: int | None,
    of_jobs: dict[str, Any],
    batch_systems: str = "slurm",
) -> None:
    """Check that these options go together, and that something is there to run on."""
    if scheduler_address is not None and executor != "dask":
        raise BadInput(f"--scheduler-address needs --executor dask, not {executor}.")
    if of_jobs and executor not in SUBMITS:
        option = next(iter(of_jobs)).replace("_", "-")
        raise BadInput(f"--{option} needs --executor {batch_systems}, not {executor}.")
    if scheduler_address is not None:
        check_address(scheduler_address)
    if executor in SUBMITS:
        if workers is None:
            raise BadInput(f"--executor {executor} needs --workers, the number of jobs.")
        if shutil.which(SUBMITS[executor]) is None:
            hint = ", or start a SLURM here with `make slurm-up`" if executor == "slurm" else ""
            raise BadInput(
                f"--executor {executor} needs {_name(executor)}'s command {SUBMITS[executor]},"
                " which is not on this machine. Log in to a machine that submits jobs"
                f"{hint}."
            )


def n_workers_here(memory: int | None) -> int:
    """How many calls this machine can run at a time. Dask divides the memory among the workers."""
    cores = len(os.sched_getaffinity(0))
    if memory is None:
        return cores
    return max(1, min(cores, psutil.virtual_memory().total // memory))


def in_jobs(
    name: str,
    n_workers: int,
    limits: Limits,
    call: str,
    asked: dict[str, Any],
    preload: list[str],
) -> Scheduler:
    """A scheduler on jobs of a batch system that can run a call with these limits."""
    from dask_limits import Scheduler
    from dask_limits.exceptions import LimitRefusedError

    kind = call.removeprefix("run_")
    if limits.memory is not None:
        asked.setdefault("worker_memory", limits.memory + parse_bytes(_OVERHEAD[kind]))
    memory = asked.pop("worker_memory", None)
    try:
        jobs = {"n_workers": n_workers, "cores": limits.cores or 1, "memory": memory, **asked}
        scheduler = Scheduler.with_jobqueue(name, **jobs, preload=preload)
        scheduler.check_limits(limits, call)
    except LimitRefusedError as error:
        raise BadInput(f"No worker could run {kind}s: {error}") from None
    except (TypeError, ValueError) as error:
        hint = "" if memory else " On the command line, that is --worker-memory."
        why = str(error).rstrip(".")
        raise BadInput(f"These workers cannot run on {_name(name)}: {why}.{hint}") from None
    return scheduler


def _name(batch_system: str) -> str:
    return _NAMES.get(batch_system, batch_system)
