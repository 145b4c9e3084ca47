"""The executors that a scheduler makes for itself, one for each of its runs."""

from __future__ import annotations

import os
from concurrent.futures import Executor, ThreadPoolExecutor
from functools import partial

from dask_limits.executors.accept import ExecutorRecipe, connect_dask, recipe_of
from dask_limits.executors.sequential import SequentialExecutor
from dask_limits.executors.wrapped import WrappedExecutor
from dask_limits.limits.units import at_least_one


def processes(max_workers: int | None, max_calls_per_process: int | None) -> ExecutorRecipe:
    """Task processes of our own."""
    n = _workers("max_workers", max_workers)
    options = {"max_workers": n}
    if max_calls_per_process is not None:
        options["max_calls_per_process"] = at_least_one(
            max_calls_per_process, "max_calls_per_process"
        )

    def make() -> Executor:
        from dask_limits.executors.processes import ProcessExecutor

        return ProcessExecutor(**options)

    return ExecutorRecipe("ProcessExecutor", make, options)


def threads(max_workers: int | None) -> ExecutorRecipe:
    """Threads of this process."""
    n = _workers("max_workers", max_workers)

    def make() -> Executor:
        return WrappedExecutor(ThreadPoolExecutor(n, "dask-limits"), owned=True)

    return ExecutorRecipe("ThreadPoolExecutor", make, {"max_workers": n}, ends_calls=False)


def loky(max_workers: int | None) -> ExecutorRecipe:
    """Loky's worker processes."""
    n = _workers("max_workers", max_workers)
    try:
        from loky import ProcessPoolExecutor
    except ImportError as error:
        raise ImportError(
            'Scheduler.with_loky() needs loky: pip install "dask-limits[loky]"'
        ) from error

    def make() -> Executor:
        return WrappedExecutor(ProcessPoolExecutor(n), owned=True)

    return ExecutorRecipe("loky.ProcessPoolExecutor", make, {"max_workers": n})


def sequential() -> ExecutorRecipe:
    """The thread that submits."""
    return ExecutorRecipe("SequentialExecutor", SequentialExecutor)


def dask(where: object, n_workers: int | None) -> ExecutorRecipe:
    """A Dask that there is, or a LocalCluster."""
    if where is None:
        n = _workers("n_workers", n_workers)
        make = partial(connect_dask, None, n_workers=n)
        return ExecutorRecipe("LocalCluster", make, {"n_workers": n})
    if n_workers is not None:
        raise ValueError(
            f"n_workers={n_workers!r} is for a cluster that is started for you, and you have"
            f" passed one in: {where!r}. Give one or the other."
        )
    if isinstance(where, str):
        return ExecutorRecipe("Dask", partial(connect_dask, where), {"address": where})
    return recipe_of(where)


def _workers(name: str, value: int | None) -> int:
    """A checked number of workers; None is one for each CPU that this process may use."""
    if value is None:
        return len(os.sched_getaffinity(0))
    return at_least_one(value, name, "one for each CPU")
