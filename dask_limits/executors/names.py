"""What people call the places where calls run: in logs, on a terminal, in a notebook, in a repr."""

from __future__ import annotations

from concurrent.futures import Executor
from typing import Any, Final

from dask_limits.batch_systems.systems import CLUSTERS

CALLER: Final = "the calling thread"


def processes(n: int) -> str:
    """Processes of this machine.

    Example:
        >>> processes(1), processes(2)
        ('1 process', '2 processes')
    """
    return "1 process" if n == 1 else f"{n} processes"


def threads(n: int) -> str:
    """Threads of this process.

    Example:
        >>> threads(1), threads(2)
        ('1 thread', '2 threads')
    """
    return "1 thread" if n == 1 else f"{n} threads"


def loky(n: int) -> str:
    """Processes of loky."""
    return f"{processes(n)} of loky"


def new_dask(n: int) -> str:
    """A Dask cluster that a run starts on this machine."""
    return f"Dask cluster of {'1 worker' if n == 1 else f'{n} workers'} on this machine"


def dask(address: object) -> str:
    """A Dask cluster that is there, by the address of its scheduler, if that is known."""
    return f"Dask cluster at {address}" if isinstance(address, str) and address else "Dask cluster"


def dask_of(held: Any) -> str:
    """A Dask cluster, by a Client or a Cluster that the user holds."""
    try:
        address = getattr(held, "scheduler_address", None) or held.scheduler.address
    except Exception:  # it is closed
        address = None
    return dask(address)


def jobs(system: str) -> str:
    """Jobs of a batch system.

    Example:
        >>> jobs("slurm"), jobs("htcondor")
        ('SLURM jobs', 'HTCondor jobs')
    """
    return f"{CLUSTERS[system].removesuffix('Cluster')} jobs"


def pool(executor: Executor) -> str:
    """A pool that the user holds, by the kind of its workers, if it is known.

    Example:
        >>> from concurrent.futures import ThreadPoolExecutor
        >>> pool(ThreadPoolExecutor(3))
        '3 threads'
    """
    n = getattr(executor, "_max_workers", None) or getattr(executor, "max_workers", None)
    client = getattr(executor, "client", None)
    for base in type(executor).__mro__:
        about = base.__module__.removeprefix("joblib.externals."), base.__name__
        match about:
            case "concurrent.futures.thread", "ThreadPoolExecutor" if n:
                return threads(n)
            case "dask_limits.executors.wrapped", _:
                return pool(vars(executor)["executor"])
            case "dask_limits.executors.sequential", _:
                return CALLER
            case "dask_limits.executors.dask.executor", _:
                return dask_of(client)
            case ("concurrent.futures.process" | "dask_limits.executors.processes", _) if n:
                return processes(n)
            case (module, _) if module.startswith("loky.") and n:
                return loky(n)
    return type(executor).__name__
