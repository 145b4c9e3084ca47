"""Factories of executors: over what a user holds, and for each `with_...` of a scheduler."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from concurrent.futures import Executor, ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from dask_limits.exceptions import LimitRefusedError
from dask_limits.executors import names
from dask_limits.executors.sequential import SequentialExecutor
from dask_limits.limits import Limits
from dask_limits.limits.owner.preload import NOTHING, Preload
from dask_limits.units import whole_number

if TYPE_CHECKING:
    from distributed import Security

_ACCEPTED: Final = (
    "Use any concurrent.futures.Executor (ProcessPoolExecutor, ThreadPoolExecutor, loky, ...), a"
    " Dask Client, a Dask Cluster (LocalCluster, SLURMCluster, ...), or what client.get_executor()"
    " returns. For the address of a Dask scheduler, use Scheduler.with_dask(address)"
)


def _no_refusal(limits: Limits, name: str) -> None:
    return None


def _refusal_here(limits: Limits, name: str) -> LimitRefusedError | None:
    from dask_limits.limits.owner.reserving import refusal_error

    return refusal_error(name, limits)


@dataclass(frozen=True)
class ExecutorFactory:
    """Makes an executor when it is needed, and knows what to show of it until then.

    Attributes:
        name: Where its calls run, as people say it: see `names`.
        make: Makes the executor, or returns the one there is.
        options: The arguments it is made with, to be shown, except for what the name says.
        owned: Whether the caller of `make` must shut the executor down.
        ends_calls: Whether the executor can end every call, so that it shuts down quickly.
        given: What the user holds and the executor works on, if there is such a thing.
        connects: Whether it connects to an address, for which `make` takes a `timeout_s`.
        refusal: Returns the error that calls of a function with these limits would end with, as
            far as it is known beforehand; None if they could run.
    """

    name: str
    make: Callable[..., Executor]
    options: Mapping[str, Any] = field(default_factory=dict)
    owned: bool = True
    ends_calls: bool = True
    given: object = None
    connects: bool = False
    refusal: Callable[[Limits, str], LimitRefusedError | None] = _no_refusal

    def make_within(self, timeout_s: float | None) -> Executor:
        """Make the executor. Try to connect to an address for no longer than that."""
        if timeout_s is None or not self.connects:
            return self.make()
        return self.make(timeout_s=timeout_s)

    def __str__(self) -> str:
        options = (f"{name}={value!r}" for name, value in self.options.items())
        return ", ".join([self.name, *options])


def factory_of(
    anything: object, preload: Preload = NOTHING, *, batch: bool = True, accepted: str = _ACCEPTED
) -> ExecutorFactory:
    """Return the factory of executors over what a user holds, which stays open.

    `accepted` says to users what else they can pass.

    Raises:
        TypeError: for what is not accepted. The message lists what is.
        ValueError: for something to `preload` on what is not Dask's.

    Example:
        >>> with ThreadPoolExecutor(1) as pool:
        ...     factory_of(pool).make().submit(abs, -3).result()
        3
    """
    if isinstance(anything, ExecutorFactory):
        return anything
    if isinstance(anything, type):
        raise TypeError(f"{anything!r} is a class, not an instance. {accepted}.")
    name = type(anything).__name__
    connect = partial(connect_dask, preload=preload, batch=batch)
    shown = preload.shown | _shown(batch)
    if is_dask(anything, "Client", "Cluster"):
        make = partial(connect, anything)
        return ExecutorFactory(names.dask_of(anything), make, shown, given=anything)
    if is_dask(anything, "ClientExecutor"):
        from dask_limits.dask.compat.client import executor_parts

        if parts := executor_parts(anything):
            client, options = parts
            annotations = _annotations(options)
            make = partial(connect, client, annotations=annotations)
            given_to = names.dask_of(client)
            return ExecutorFactory(given_to, make, annotations | shown, given=anything)
    if isinstance(anything, Executor):
        if preload != NOTHING:
            raise ValueError(
                f"preload and initializer have no effect on {anything!r}. Use Scheduler."
                "with_processes(), with_dask() or a batch system, or dask_limits.preload() as the"
                " initializer of the pool"
            )
        executor = anything if _is_ours(anything) else _wrapped(anything)
        pool = names.pool(anything)
        return ExecutorFactory(pool, lambda: executor, owned=False, given=anything)
    raise TypeError(f"{anything!r} is of type {name}. {accepted}.")


def processes(
    max_workers: int | None,
    max_calls_per_process: int | None,
    preload: Preload,
    *,
    reserve: bool = True,
) -> ExecutorFactory:
    """Executors over our own task processes."""
    from dask_limits.executors.processes import ProcessExecutor

    if not isinstance(reserve, bool):
        raise TypeError(
            f"reserve={reserve!r} is of type {type(reserve).__name__}: use True or False"
        )
    preload.check_here()
    options: dict[str, Any] = {"max_workers": _workers("max_workers", max_workers)}
    if max_calls_per_process is not None:
        options["max_calls_per_process"] = whole_number(
            max_calls_per_process, "max_calls_per_process", none="no limit"
        )
    if not reserve:
        options["reserve"] = False
    make = partial(ProcessExecutor, **options, preload=preload)
    refusal = _refusal_here if reserve else _no_refusal
    name = names.processes(options.pop("max_workers"))
    return ExecutorFactory(name, make, options | preload.shown, refusal=refusal)


def threads(max_workers: int | None) -> ExecutorFactory:
    """Executors over threads of this process."""
    n = _workers("max_workers", max_workers)
    return ExecutorFactory(
        names.threads(n),
        lambda: _wrapped(ThreadPoolExecutor(n, "dask-limits"), owned=True),
        ends_calls=False,
    )


def loky(max_workers: int | None) -> ExecutorFactory:
    """Executors over loky's worker processes."""
    n = _workers("max_workers", max_workers)
    try:
        from loky import ProcessPoolExecutor
    except ImportError as error:
        raise ImportError(
            'Scheduler.with_loky() needs loky: pip install "dask-limits[loky]"'
        ) from error

    def make() -> Executor:
        from dask_limits.limits.linux import lifeline

        end_with_us = {"initializer": lifeline.end_with, "initargs": (lifeline.of_this_process(),)}
        return _wrapped(ProcessPoolExecutor(n, **end_with_us), owned=True)

    return ExecutorFactory(names.loky(n), make)


def sequential() -> ExecutorFactory:
    """Executors that run each call in the thread that submits it."""
    return ExecutorFactory(names.CALLER, SequentialExecutor)


def dask(
    where: object,
    n_workers: int | None,
    security: Security | bool | None,
    preload: Preload,
    batch: bool,
    **of_cluster: Any,
) -> ExecutorFactory:
    """Executors over a given Dask, or a new LocalCluster with these arguments."""
    _check_security(where, security)
    connect = partial(connect_dask, preload=preload, batch=batch)
    options: dict[str, Any] = {} if security is None else {"security": security}
    shown = preload.shown | _shown(batch)
    if where is None:
        preload.check_here()
        if of_cluster:
            from dask_limits.executors.dask.local_cluster import check_options  # imports Dask

            check_options(of_cluster)
        n = _workers("n_workers", n_workers)
        make = partial(connect, None, **options, n_workers=n, options=of_cluster)
        return ExecutorFactory(names.new_dask(n), make, options | of_cluster | shown)
    given = {} if n_workers is None else {"n_workers": n_workers}
    for name, value in (given | of_cluster).items():
        raise ValueError(
            f"{name}={value!r} is for a LocalCluster that each run starts, but runs use"
            f" {where!r}. Specify one or the other."
        )
    if isinstance(where, str):
        make = partial(connect, where, **options)
        return ExecutorFactory(names.dask(where), make, shown, connects=True)
    return factory_of(where, preload, batch=batch)


def jobqueue(
    system: str, options: Mapping[str, Any], preload: Preload, batch: bool
) -> ExecutorFactory:
    """Executors over clusters of `dask_jobqueue`. This checks the options, and imports Dask."""
    from dask_limits.executors.jobqueue import JobQueueExecutor, JobSpec

    spec = JobSpec(system, **options)
    make = partial(JobQueueExecutor.start, spec, preload, batch=batch)
    shown = spec.shown | preload.shown | _shown(batch)
    return ExecutorFactory(names.jobs(system), make, shown, refusal=spec.refusal)


def _wrapped(executor: Executor, *, owned: bool = False) -> Executor:
    from dask_limits.executors.wrapped import WrappedExecutor  # 10 ms, as it can run limited calls

    return WrappedExecutor(executor, owned=owned)


def _is_ours(executor: Executor) -> bool:
    """Whether an executor is one of this package, or derived from one."""
    return any(
        base.__module__.startswith("dask_limits.executors.") for base in type(executor).__mro__
    )


def is_dask(anything: object, *names: str) -> bool:
    """Whether an object is of one of these classes of Dask, found without importing Dask."""
    return any(
        base.__module__.startswith("distributed.") and base.__name__ in names
        for base in type(anything).__mro__
    )


def _shown(batch: bool) -> dict[str, Any]:
    return {} if batch else {"batch": False}


def _annotations(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return the arguments of `client.get_executor()` as annotations."""
    # `pure` has no effect: we give each call a key of its own.
    found = {name: value for name, value in options.items() if name != "pure" and value is not None}
    if isinstance(found.get("workers"), str):
        found["workers"] = [found["workers"]]
    return found


def connect_dask(where: object, **options: Any) -> Executor:
    """Return a `DaskExecutor` from its `connect`. This imports Dask."""
    from dask_limits.executors.dask.executor import DaskExecutor

    return DaskExecutor.connect(where, **options)


def _check_security(where: object, security: object) -> None:
    """Check that `security` has the right type, and an effect."""
    if security is None:
        return
    is_dasks = is_dask(security, "Security")
    if not (is_dasks or isinstance(security, bool)):
        raise TypeError(
            f"security={security!r} is of type {type(security).__name__}. Use a"
            " distributed.Security, or False for a cluster without credentials."
        )
    if where is not None and not (is_dasks and isinstance(where, str)):
        raise ValueError(
            f"security={security!r} is for the address of a Dask scheduler (a"
            " distributed.Security), or for a LocalCluster that each run starts."
            f" {where!r} has its own."
        )


def _workers(name: str, value: int | None) -> int:
    """Check a number of workers. None is one for each CPU that this process may use."""
    if value is None:
        return len(os.sched_getaffinity(0))
    return whole_number(value, name, none="one per CPU")
