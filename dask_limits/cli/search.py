from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from dask_limits.cli import where
from dask_limits.cli.options import COUNT, MEMORY, TIME, BadInput
from dask_limits.cli.output import ended_by_ctrl_c

if TYPE_CHECKING:
    from dask_limits import Scheduler


@click.command("search", context_settings={"show_default": True})
@click.argument("data", required=False, type=click.Path(path_type=Path))
@click.option("--target", metavar="COLUMN", help="The column of DATA to predict.")
@click.option(
    "--executor",
    type=click.Choice(["processes", "dask", "slurm"]),
    default="dask",
    help="Where trials run: in local processes, on Dask, or in SLURM jobs.",
)
@where.options("slurm", "trial")
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
@click.option(
    "--resume",
    is_flag=True,
    help="Go on with the search in --out, given the same options: trials that have ended are not"
    " run again.",
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
    resume: bool,
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
    n_parallel = min(workers or where.n_workers_here(trial_memory), trials)

    def prepare() -> tuple[RandomSearch, Scheduler]:
        dataset = bundled() if data is None else load_csv(data, target)
        search = RandomSearch(dataset, trials, n_parallel, seed=seed, timeout=timeout)
        if executor == "slurm":
            jobs = where.in_jobs("slurm", n_parallel, limits.limits, "run_trial", asked, modules())
            return search, jobs
        if executor == "processes":
            return search, Scheduler.with_processes(n_parallel, preload=modules())
        if scheduler_address is not None:  # what others preload on that cluster stays
            return search, Scheduler.with_dask(scheduler_address)
        return search, Scheduler.with_dask(n_workers=n_parallel, preload=modules())

    sys.exit(run_search(prepare, limits, out, resume=resume, show_workers=executor == "slurm"))


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
    if data is None and target is not None:
        raise BadInput("--target needs DATA, the CSV file with that column.")
    where.check(executor, scheduler_address, workers, of_slurm)
