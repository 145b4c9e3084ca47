from __future__ import annotations

import importlib.util
import os
import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click
import psutil

from dask_limits.cli.options import COUNT, MEMORY, TIME, BadInput, check_address
from dask_limits.cli.output import ended_by_ctrl_c

if TYPE_CHECKING:
    from dask_limits import PynisherPlugin, Scheduler

_OVERHEAD: Final = 512 * 2**20
"""Bytes that a SLURM job gets in addition to the memory of its trial. 256 MiB are reserved for
Dask's worker, its nanny and our guardian, which the job's limit includes; the rest is for data and
models in transit. With less, the trial is refused; with more, the job may wait longer."""


@click.command("search", context_settings={"show_default": True})
@click.argument("data", required=False, type=click.Path(path_type=Path))
@click.option("--target", metavar="COLUMN", help="The column of DATA to predict.")
@click.option(
    "--executor",
    type=click.Choice(["processes", "dask", "slurm"]),
    default="dask",
    help="Where trials run: in local processes, on Dask, or in SLURM jobs.",
)
@click.option(
    "--scheduler-address",
    metavar="tcp://...",
    help="Address of a Dask scheduler to use. Without it, a cluster is started on this machine.",
)
@click.option(
    "--workers",
    **COUNT,
    show_default="one per core, as far as the memory suffices",
    help="Number of trials that run at a time; on SLURM, each in a job of its own.",
)
@click.option(
    "--worker-memory",
    **MEMORY,
    show_default="that of a trial plus 512MiB",
    help="With --executor slurm: memory of each job.",
)
@click.option(
    "--walltime",
    metavar="TIME",
    help="With --executor slurm: wall time of each job, such as 02:00:00 or 2h. A job that ends is"
    " replaced while trials wait.",
)
@click.option("--queue", metavar="NAME", help="With --executor slurm: the partition of the jobs.")
@click.option("--account", metavar="NAME", help="With --executor slurm: the account of the jobs.")
@click.option(
    "--interface",
    metavar="NAME",
    help="With --executor slurm: the network interface that the workers connect to, such as ib0.",
)
@click.option(
    "--worker-timeout",
    **TIME,
    show_default="none",
    help="With --executor slurm: how long to wait for the first job to start.",
)
@click.option("--trial-memory", **MEMORY, default="1GiB", help="Limit of each trial.")
@click.option("--trial-wall-time", **TIME, default="60s", help="Limit of each trial.")
@click.option("--trial-cpu-time", **TIME, default="60s", help="Limit of each trial.")
@click.option("--trials", **COUNT, default="50", help="Number of pipelines to try.")
@click.option(
    "--timeout",
    **TIME,
    default="5m",
    help="Time for all trials together. Trials that still run then are cancelled, and the best"
    " pipeline is fitted.",
)
@click.option("--seed", type=int, default=0, help="The same seed tries the same pipelines.")
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    default="results",
    help="Directory for trials.csv and best_model.joblib. Earlier results are kept as trials.1.csv,"
    " best_model.1.joblib, and so on.",
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

    Pipelines are drawn at random and cross-validated, each under limits. A trial that goes over a
    limit is ended and counted, and the search goes on. At the end the best pipeline is fitted to
    all rows, under the same limits, and saved. Without DATA, the search uses the handwritten
    digits that come with scikit-learn.

    Memory is given as 300MiB or "2 GB", time as 0.5s, 5m or "1h 30m"; "none" removes a limit.

    On SLURM, dask-jobqueue's configuration files, such as ~/.config/dask/jobqueue.yaml, set what
    has no option here. The search begins when the first job has started, and cancels all its jobs
    when it ends.

    Exit codes: 0 if a model was saved, 1 if not, 2 for bad input, 130 after Ctrl-C or SIGTERM. In
    that case the trials that have ended are shown and saved.
    """
    _need_search_extra()
    asked = {name: value for name, value in of_slurm.items() if value is not None}
    _check_combination(data, target, executor, scheduler_address, workers, asked)

    with ended_by_ctrl_c():
        from dask_limits import PynisherPlugin, Scheduler
        from dask_limits.cli.run_search import run_search
        from dask_limits.search.data import bundled, load_csv
        from dask_limits.search.random_search import RandomSearch, modules

    limits = PynisherPlugin(
        memory_limit=trial_memory, walltime_limit=trial_wall_time, cputime_limit=trial_cpu_time
    )
    n_parallel = min(workers or _n_workers_here(trial_memory), trials)
    if trial_memory is not None:
        asked.setdefault("worker_memory", trial_memory + _OVERHEAD)

    def prepare() -> tuple[RandomSearch, Scheduler]:
        dataset = bundled() if data is None else load_csv(data, target)
        search = RandomSearch(dataset, trials, n_parallel, seed=seed, timeout=timeout)
        if executor == "slurm":
            return search, _on_slurm(n_parallel, limits, asked, modules())
        if executor == "processes":
            return search, Scheduler.with_processes(n_parallel, preload=modules())
        if scheduler_address is not None:  # what others preload on that cluster stays
            return search, Scheduler.with_dask(scheduler_address)
        return search, Scheduler.with_dask(n_workers=n_parallel, preload=modules())

    sys.exit(run_search(prepare, limits, out, show_workers=executor == "slurm"))


def _need_search_extra() -> None:
    missing = [
        package
        for module, package in (("sklearn", "scikit-learn"), ("pandas", "pandas"))
        if importlib.util.find_spec(module) is None
    ]
    if missing:
        raise BadInput(
            f"The search needs {' and '.join(missing)}: run pip install 'dask-limits[search]'."
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
        raise BadInput(f"--scheduler-address needs --executor dask, not {executor}.")
    if of_slurm and executor != "slurm":
        option = next(iter(of_slurm)).replace("_", "-")
        raise BadInput(f"--{option} needs --executor slurm, not {executor}.")
    if data is None and target is not None:
        raise BadInput("--target needs DATA, the CSV file with that column.")
    if scheduler_address is not None:
        check_address(scheduler_address)
    if executor == "slurm":
        if workers is None:
            raise BadInput("--executor slurm needs --workers, the number of jobs.")
        if shutil.which("sbatch") is None:
            raise BadInput(
                "--executor slurm needs SLURM's command sbatch, which is not on this machine. Log"
                " in to a machine that submits jobs, or start a SLURM here with `make slurm-up`."
            )


def _n_workers_here(trial_memory: int | None) -> int:
    """How many trials this machine can run at a time. Dask divides the memory among the workers."""
    cores = len(os.sched_getaffinity(0))
    if trial_memory is None:
        return cores
    return max(1, min(cores, psutil.virtual_memory().total // trial_memory))


def _on_slurm(
    n_workers: int, limits: PynisherPlugin, asked: dict[str, Any], preload: list[str]
) -> Scheduler:
    """A scheduler on SLURM jobs that can run a trial with these limits."""
    from dask_limits import Scheduler
    from dask_limits.exceptions import LimitRefusedError

    memory = asked.pop("worker_memory", None)
    try:
        options = {"n_workers": n_workers, "cores": 1, "memory": memory, **asked}
        scheduler = Scheduler.with_slurm(**options, preload=preload)
        scheduler.check_limits(limits.limits, "run_trial")
    except LimitRefusedError as error:
        raise BadInput(f"No worker could run trials: {error}") from None
    except (TypeError, ValueError) as error:
        hint = "" if memory else " On the command line, that is --worker-memory."
        why = str(error).rstrip(".")
        raise BadInput(f"These workers cannot run on SLURM: {why}.{hint}") from None
    return scheduler
