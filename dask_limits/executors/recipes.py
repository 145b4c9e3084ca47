"""The executors that a scheduler makes for itself, one for each of its runs."""

from __future__ import annotations

import os
from collections.abc import Mapping
from concurrent.futures import Executor, ThreadPoolExecutor
from functools import partial
from typing import TYPE_CHECKING, Any

from dask_limits.executors.factories import ExecutorRecipe, connect_dask, recipe_of
from dask_limits.executors.sequential import SequentialExecutor
from dask_limits.executors.wrapped import WrappedExecutor
from dask_limits.units import whole_number

if TYPE_CHECKING:
    from distributed import Security


def processes(max_workers: int | None, max_calls_per_process: int | None) -> ExecutorRecipe:
    """Task processes of our own."""
    n = _workers("max_workers", max_workers)
    options = {"max_workers": n}
    if max_calls_per_process is not None:
        options["max_calls_per_process"] = whole_number(
            max_calls_per_process, "max_calls_per_process", none="no limit"
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


def dask(
    where: object, n_workers: int | None, security: Security | bool | None = None
) -> ExecutorRecipe:
    """A Dask that there is, or a LocalCluster."""
    _check_security(where, security)
    options = {} if security is None else {"security": security}
    if where is None:
        options |= {"n_workers": _workers("n_workers", n_workers)}
        return ExecutorRecipe("LocalCluster", partial(connect_dask, None, **options), options)
    if n_workers is not None:
        raise ValueError(
            f"n_workers={n_workers!r} is for a cluster that is started for you, and you have"
            f" passed one in: {where!r}. Give one or the other."
        )
    if isinstance(where, str):
        make = partial(connect_dask, where, **options)
        return ExecutorRecipe("Dask", make, {"address": where})
    return recipe_of(where)


def jobqueue(system: str, options: Mapping[str, Any]) -> ExecutorRecipe:
    """A cluster of `dask_jobqueue`. What it is to be is checked now, which imports Dask."""
    from dask_limits.executors.jobqueue import JobQueueExecutor, make_spec, refusal_of

    spec = make_spec(system, **options)
    make = partial(JobQueueExecutor.start, spec)
    refusal = partial(refusal_of, spec)
    return ExecutorRecipe(spec.cluster_class.__name__, make, spec.shown, refusal=refusal)


def _check_security(where: object, security: object) -> None:
    """Refuse credentials that are none, or that could do nothing."""
    if security is None:
        return
    dasks = any(
        base.__module__.startswith("distributed.") and base.__name__ == "Security"
        for base in type(security).__mro__
    )
    if not (dasks or isinstance(security, bool)):
        raise TypeError(
            f"security={security!r} is a {type(security).__name__}. Use a distributed.Security,"
            " or False for a cluster without credentials."
        )
    if where is not None and not (dasks and isinstance(where, str)):
        raise ValueError(
            f"security={security!r} is for an address, a distributed.Security then, or for a"
            f" cluster that is started for you. {where!r} has its own."
        )


def _workers(name: str, value: int | None) -> int:
    """A checked number of workers; None is one for each CPU that this process may use."""
    if value is None:
        return len(os.sched_getaffinity(0))
    return whole_number(value, name, none="one for each CPU")
