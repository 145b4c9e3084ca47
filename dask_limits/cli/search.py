from __future__ import annotations

import importlib.util
import logging
import os
import shutil
import sys
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from dask_limits.cli.options import BadInput, check_address, read_count, read_memory, read_time
from dask_limits.cli.output import INTERRUPTED, discard_output
from dask_limits.cli.workers import WORKER_ITSELF, make_scheduler, n_workers_here

if TYPE_CHECKING:
    from dask_limits import PynisherPlugin, Scheduler
    from dask_limits.search.data import Dataset
    from dask_limits.search.interrupts import Interrupts
    from dask_limits.search.random_search import RandomSearch, Trial


@click.command("search")
@click.argument("data", required=False, type=click.Path(path_type=Path))
@click.option("--target", metavar="COLUMN", help="The column of DATA to predict.")
@click.option(
    "--executor",
    type=click.Choice(["processes", "dask", "slurm"]),
    default="dask",
    show_default=True,
    help="Where trials run: in processes of this machine, on Dask, or in jobs of a SLURM cluster.",
)
@click.option(
    "--scheduler-address",
    metavar="tcp://...",
    help="Use the Dask cluster there. Without it, one is started on this machine.",
)
@click.option(
    "--workers",
    metavar="N",
    callback=read_count,
    show_default="the cores of this machine, as far as its memory goes",
    help="How many trials run at one time; on SLURM, each in a job of its own.",
)
@click.option(
    "--worker-memory",
    metavar="MEMORY",
    callback=read_memory,
    show_default="that of a trial, and 512MiB for the worker itself",
    help="With --executor slurm: memory of each job.",
)
@click.option(
    "--walltime",
    metavar="TIME",
    help="With --executor slurm: time of each job, such as 02:00:00 or 2h. Jobs that have come to"
    " their end are replaced while trials wait.",
)
@click.option("--queue", metavar="NAME", help="With --executor slurm: the partition of the jobs.")
@click.option("--account", metavar="NAME", help="With --executor slurm: whom they are charged to.")
@click.option(
    "--interface",
    metavar="NAME",
    help="With --executor slurm: the network between this machine and the workers, such as ib0.",
)
@click.option(
    "--worker-timeout",
    metavar="TIME",
    callback=read_time,
    show_default="as long as it takes",
    help="With --executor slurm: how long to wait for the first job to start.",
)
@click.option(
    "--trial-memory",
    metavar="MEMORY",
    callback=read_memory,
    default="1GiB",
    show_default=True,
    help="Limit of each trial.",
)
@click.option(
    "--trial-wall-time",
    metavar="TIME",
    callback=read_time,
    default="60s",
    show_default=True,
    help="Limit of each trial.",
)
@click.option(
    "--trial-cpu-time",
    metavar="TIME",
    callback=read_time,
    default="60s",
    show_default=True,
    help="Limit of each trial.",
)
@click.option(
    "--trials",
    metavar="N",
    callback=read_count,
    default="50",
    show_default=True,
    help="How many pipelines to try.",
)
@click.option(
    "--timeout",
    metavar="TIME",
    callback=read_time,
    default="5m",
    show_default=True,
    help="Time for all trials together: those that still run are then cancelled, and the best is"
    " fitted.",
)
@click.option(
    "--seed", type=int, default=0, show_default=True, help="Equal seeds try equal pipelines."
)
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    default="results",
    show_default=True,
    help="Directory for trials.csv and best_model.joblib; what earlier searches left there is"
    " kept as trials.1.csv, best_model.1.joblib, and so on.",
)
def search_command(
    data: Path | None,
    target: str | None,
    executor: str,
    scheduler_address: str | None,
    workers: int | None,
    trial_memory: int | None,
    trial_wall_time: float | None,
    trial_cpu_time: float | None,
    trials: int,
    timeout: float | None,
    seed: int,
    out: Path,
    **of_slurm: Any,
) -> None:
    """Search for the best scikit-learn pipeline on DATA, a CSV file.

    Pipelines are drawn at random and cross-validated, each under limits: a trial that goes over
    one is ended and counted, and the search goes on. At the end the best is fitted to all rows,
    under the same limits, and saved. Without DATA it searches on the handwritten digits that come
    with scikit-learn.

    Memory is given as 300MiB or "2 GB"; time as 0.5s, 5m or "1h 30m"; "none" lifts a limit.

    On SLURM, what has no option here is set in the files of dask-jobqueue, such as
    ~/.config/dask/jobqueue.yaml. The search begins when the first job has started. All jobs are
    cancelled at its end, however that comes.

    Exit codes: 0 if a model was saved, 1 if none could be, 2 for bad input, 130 if interrupted by
    Ctrl-C or SIGTERM, after which what was found until then is shown and kept.
    """
    _need_search_extra()
    asked = {name: value for name, value in of_slurm.items() if value is not None}
    _check_combination(data, target, executor, scheduler_address, workers, asked)

    from dask_limits import PynisherPlugin
    from dask_limits.search.interrupts import Interrupts
    from dask_limits.search.random_search import RandomSearch
    from dask_limits.search.report import OutputError

    limits = PynisherPlugin(
        memory_limit=trial_memory, walltime_limit=trial_wall_time, cputime_limit=trial_cpu_time
    )
    n_parallel = min(workers or n_workers_here(trial_memory), trials)
    if trial_memory is not None:
        asked.setdefault("worker_memory", trial_memory + WORKER_ITSELF)
    code = INTERRUPTED
    with Interrupts() as interrupts:
        try:
            job = RandomSearch(_load(data, target), trials, n_parallel, seed=seed, timeout=timeout)
            scheduler = make_scheduler(executor, scheduler_address, n_parallel, limits, asked)
            watched = executor == "slurm"
            code = _run(job, scheduler, limits, out, interrupts, watched=watched)
        except OutputError as error:
            discard_output()
            raise click.ClickException(str(error)) from None
        except KeyboardInterrupt:
            pass
        if interrupts.raised:
            # What was cut short there, such as the start of a Dask cluster, cannot be trusted to
            # end in good time. All processes below this one end when they see it gone.
            sys.stdout.flush()
            os._exit(code)
    sys.exit(code)


def _need_search_extra() -> None:
    missing = [
        package
        for module, package in (("sklearn", "scikit-learn"), ("pandas", "pandas"))
        if importlib.util.find_spec(module) is None
    ]
    if missing:
        raise BadInput(
            f"The search needs {' and '.join(missing)}: pip install 'dask-limits[search]'"
        )


def _check_combination(
    data: Path | None,
    target: str | None,
    executor: str,
    scheduler_address: str | None,
    workers: int | None,
    of_slurm: dict[str, Any],
) -> None:
    if scheduler_address is not None and executor != "dask":
        raise BadInput(f"--scheduler-address goes with --executor dask, not with {executor}.")
    if of_slurm and executor != "slurm":
        option = next(iter(of_slurm)).replace("_", "-")
        raise BadInput(f"--{option} goes with --executor slurm, not with {executor}.")
    if data is None and target is not None:
        raise BadInput("--target names a column of DATA, and no DATA is given.")
    if scheduler_address is not None:
        check_address(scheduler_address)
    if executor == "slurm":
        if workers is None:
            raise BadInput("--executor slurm needs --workers: each of them is a job.")
        if shutil.which("sbatch") is None:
            raise BadInput(
                "--executor slurm needs SLURM's sbatch, and this machine has none: log in where"
                " jobs are submitted, or start a SLURM to try it with `make slurm-up`."
            )


def _load(data: Path | None, target: str | None) -> Dataset:
    from dask_limits.search.data import DataError, bundled, load_csv

    try:
        return bundled() if data is None else load_csv(data, target)
    except DataError as error:
        raise BadInput(str(error)) from None


def _run(
    job: RandomSearch,
    scheduler: Scheduler,
    limits: PynisherPlugin,
    out: Path,
    interrupts: Interrupts,
    *,
    watched: bool,
) -> int:
    """Run a search, with its report, which tells of workers if they are watched, and its files.

    Returns:
        The exit code.
    """
    from rich.console import Console

    from dask_limits.exceptions import LimitRefusedError, WorkersNotStartedError
    from dask_limits.search.files import Results
    from dask_limits.search.report import Report

    try:
        results = Results(out)
    except OSError as error:
        raise BadInput(f"Results cannot be written to {out}: {error.strerror}.") from None

    report = Report(Console(), job)
    if watched:
        report.watch(scheduler)
    report.say(job.dataset.describe())
    for note in job.dataset.notes:
        report.note(note)

    def trial_ended(trial: Trial) -> None:
        results.add(trial)
        report.trial_ended(trial)

    job.on_trial = trial_ended
    job.on_note = report.note
    warnings.filterwarnings("ignore", "Sending large graph")  # Dask's, of data that we do mean
    logging.getLogger("distributed.scheduler").addFilter(_is_news)
    interrupts.stop(scheduler)
    with results:
        try:
            with report.live():
                job.run(scheduler, limits)
            if job.model is not None:
                results.save_model(job.model)
        except KeyboardInterrupt:
            pass  # what there is by now is shown and kept
        except (LimitRefusedError, WorkersNotStartedError) as error:
            raise click.ClickException(f"No worker can run trials: {error}") from error
        except OSError as error:
            report.sum_up()
            why = error.strerror or str(error).partition("\n")[0].rstrip(". ")
            where = f" ({error.filename})" if error.filename else ""
            raise click.ClickException(f"The search cannot go on: {why}{where}.") from error
    report.sum_up()
    saved = results.best_model.exists()
    if saved and job.best is not None:
        report.say(f"best model: {results.best_model} (trial {job.best.number}, all rows)")
    else:
        report.say("no model was fitted" + (": interrupted" if interrupts.received else ""))
    report.say(f"all trials: {results.trials_csv}")
    return INTERRUPTED if interrupts.received else 0 if saved else 1


def _is_news(record: logging.LogRecord) -> bool:
    """Dask's scheduler logs results of trials as lost that were cancelled on their way."""
    return not record.getMessage().startswith("Couldn't gather keys")
