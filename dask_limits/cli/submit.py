from __future__ import annotations

import os
import re
import shlex
import shutil
import sys
import uuid
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import click

from dask_limits.batch_systems.sbatch import SlurmError, submit, unfinished
from dask_limits.batch_systems.walltimes import walltime_seconds, walltime_text
from dask_limits.cli.options import COUNT, MEMORY, TIME, BadInput
from dask_limits.submit.driver_job import DriverJob
from dask_limits.submit.supervisor import supervise
from dask_limits.units import format_seconds

_NAME: Final = re.compile(r"[\w.-]+", re.ASCII)
"""Names of jobs that squeue and scancel find: they take several, with commas between them."""


@click.command("submit", context_settings={"show_default": True, "allow_interspersed_args": False})
@click.argument("command", nargs=-1, required=True, type=click.UNPROCESSED)
@click.option("--executor", default="slurm", metavar="SYSTEM", help="The batch system: slurm.")
@click.option(
    "--walltime", required=True, metavar="TIME", help="Of each job, such as 02:00:00 or 2h."
)
@click.option(
    "--margin",
    **TIME,
    default="2m",
    help="How long before the end of a job COMMAND gets SIGTERM. It should be long enough for"
    " COMMAND to end, and to cancel its jobs.",
)
@click.option("--times", **COUNT, default="10", help="Number of jobs, at most.")
@click.option(
    "--name",
    metavar="NAME",
    show_default="that of COMMAND, and six letters",
    help="Name of the jobs. No other job of yours in the queue may have it.",
)
@click.option("--cores", **COUNT, default="1", help="Number of cores of each job.")
@click.option(
    "--memory", **MEMORY, show_default="that of the partition", help="Memory of each job."
)
@click.option("--queue", metavar="NAME", help="The partition of the jobs.")
@click.option("--account", metavar="NAME", help="The account of the jobs.")
@click.option(
    "--log",
    default=".",
    metavar="DIR",
    show_default="here",
    help="Directory for what COMMAND prints: driver-JOBID.log.",
)
@click.option("--in-job", type=int, hidden=True)
def submit_command(
    command: tuple[str, ...],
    executor: str,
    walltime: str,
    margin: float | None,
    times: int,
    name: str | None,
    cores: int,
    memory: int | None,
    queue: str | None,
    account: str | None,
    log: str,
    in_job: int | None,
) -> None:
    """Run COMMAND in a job, and go on in another job when the time of that one is up.

    COMMAND must be one that goes on where it was when it is started again, such as a program with
    a journal. It gets SIGTERM before the wall time of its job ends, and then SIGKILL. The next job
    starts when the job has ended. COMMAND that ends before its time ends the chain: its exit code
    is that of the job. So does scancel.

    Exit codes: 0 if the first job is submitted, 1 if SLURM refuses it, 2 for bad input.
    """
    walltime, walltime_s = _checked_walltime(walltime, executor, margin)
    job = DriverJob(
        command=command,
        name=name or _name_for(command),
        walltime=walltime,
        walltime_s=walltime_s,
        margin_s=margin or 0,
        times=times,
        log=os.path.abspath(log),  # noqa: PTH100  # links stay as they are
        cores=cores,
        memory=memory,
        queue=queue,
        account=account,
        number=in_job or 1,
    )
    if in_job is not None:
        sys.exit(supervise(job))
    _check(job)
    try:
        if others := unfinished(job.name):
            raise BadInput(
                f"A job of the name {job.name} is in the queue already ({', '.join(others)}). Use"
                f" another --name, or cancel it: scancel --me --name={job.name}"
            )
        id_ = submit(job.script(), job.sbatch_options())
    except SlurmError as error:
        raise click.ClickException(f"The job cannot be submitted: {error}") from None
    click.echo(
        f"Submitted job {id_}, the first of at most {times}: {shlex.join(command)}\n"
        f"its log:      {job.log}/driver-{id_}.log\n"
        f"its state:    squeue --me --name={job.name}\n"
        f"to stop it:   scancel --me --name={job.name}"
    )


def _checked_walltime(
    walltime: str, executor: str, margin: float | None
) -> tuple[str, float | None]:
    """The wall time in SLURM's form, and in seconds."""
    if executor != "slurm":
        raise BadInput(
            f"--executor {executor}: dask-limits submit is for SLURM only so far. On another batch"
            " system, submit a job that runs COMMAND, and submit it again when its time is up."
        )
    try:
        text = walltime_text(walltime, executor)
        seconds = walltime_seconds(text, executor)
    except ValueError as error:
        raise BadInput(f"--walltime: {error}") from None
    if margin is None:
        raise BadInput("--margin cannot be none: COMMAND needs time to end before its job does.")
    if seconds is not None and seconds <= margin:
        raise BadInput(
            f"--walltime {walltime} ({format_seconds(seconds)}) must be longer than --margin"
            f" ({format_seconds(margin)}), the time before its end at which COMMAND is ended."
        )
    return text, seconds


def _check(job: DriverJob) -> None:
    """Check what only the job would find out otherwise."""
    if not _NAME.fullmatch(job.name):
        raise BadInput(f"--name {job.name!r} must be of letters, digits, and . _ - only.")
    if shutil.which("sbatch") is None:
        raise BadInput(
            "dask-limits submit needs SLURM's command sbatch, which is not on this machine. Log in"
            " to a machine that submits jobs, or start a SLURM here with `make slurm-up`."
        )
    if shutil.which(job.command[0]) is None:
        raise BadInput(
            f"There is no program {job.command[0]!r} on the PATH that the job would have. If it is"
            " a Python program: dask-limits submit ... -- python program.py"
        )
    try:
        Path(job.log).mkdir(parents=True, exist_ok=True)
        if not os.access(job.log, os.W_OK | os.X_OK):
            raise PermissionError(0, "permission denied")
    except OSError as error:
        raise BadInput(f"Logs cannot be written to --log {job.log}: {error.strerror}.") from None


def _name_for(command: Sequence[str]) -> str:
    """A name that no other job has: of the first file among the arguments, such as a script."""
    program = next((word for word in command[1:] if Path(word).is_file()), command[0])
    name = re.sub(r"[^\w.-]", "_", Path(program).name, flags=re.ASCII)
    return f"{name[:40]}-{uuid.uuid4().hex[:6]}"
