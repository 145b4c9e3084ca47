"""From what a user holds (a pool, a Client, a Cluster) to an executor of ours."""

from __future__ import annotations

import concurrent.futures
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Final

from dask_limits.dask.compat.client import executor_parts
from dask_limits.exceptions import LimitRefusedError
from dask_limits.executors.sequential import SequentialExecutor
from dask_limits.executors.wrapped import WrappedExecutor
from dask_limits.limits import Limits

_ACCEPTED: Final = (
    "Accepted are: any concurrent.futures.Executor (ProcessPoolExecutor, ThreadPoolExecutor, loky"
    ", ...), a Dask Client, a Dask Cluster (LocalCluster, SLURMCluster, ...), and what"
    " client.get_executor() returns"
)


@dataclass(frozen=True)
class ExecutorRecipe:
    """How to come by an executor when it is needed, and what to show of it until then.

    Attributes:
        name: What kind of executor it will be.
        make: Makes it, or hands out the one there is.
        options: What it is made with, to be shown.
        owned: Whether who uses the recipe is to shut down what it made.
        ends_calls: Whether it can end every call, so that shutting it down never takes long.
        given: What the user holds and it is made over; None if it is made from nothing.
        refusal: Given limits and the name of a function, the error that such calls would end with,
            as far as it can be known beforehand; None if they could run.
    """

    name: str
    make: Callable[[], concurrent.futures.Executor]
    options: Mapping[str, Any] = field(default_factory=dict)
    owned: bool = True
    ends_calls: bool = True
    given: object = None
    refusal: Callable[[Limits, str], LimitRefusedError | None] = lambda limits, name: None


def as_executor(anything: object) -> concurrent.futures.Executor:
    """An executor of ours over what a user holds. Shutting it down leaves that open.

    Args:
        anything: A `concurrent.futures.Executor`, a Dask Client or Cluster, or what
            `client.get_executor()` returns.

    Raises:
        TypeError: for anything else; the message lists what is accepted.

    Example:
        >>> from concurrent.futures import ThreadPoolExecutor
        >>> with ThreadPoolExecutor(1) as pool:
        ...     as_executor(pool).submit(abs, -3).result()
        3
    """
    return recipe_of(anything).make()


def recipe_of(anything: object) -> ExecutorRecipe:
    """How to come by an executor over what a user holds. See `as_executor`.

    On Dask each use makes an executor of its own, which is to be shut down after; that leaves
    open what the user holds.
    """
    if isinstance(anything, ExecutorRecipe):
        return anything
    if isinstance(anything, type):
        raise TypeError(f"{anything!r} is a class: pass an instance of it. {_ACCEPTED}.")
    found = _dask_object(anything)
    if found is not None:
        where, annotations = found
        make = partial(connect_dask, where, annotations=annotations)
        return ExecutorRecipe(type(anything).__name__, make, annotations, given=anything)
    if isinstance(anything, concurrent.futures.Executor):
        executor = anything if _is_ours(anything) else WrappedExecutor(anything)
        return ExecutorRecipe(
            type(anything).__name__, lambda: executor, owned=False, given=anything
        )
    raise TypeError(f"{anything!r} is a {type(anything).__name__}. {_ACCEPTED}.")


def _is_ours(executor: concurrent.futures.Executor) -> bool:
    """Whether it is, or is derived from, an executor of this package."""
    ours = __name__.rpartition(".")[0] + "."
    return isinstance(executor, SequentialExecutor | WrappedExecutor) or any(
        base.__module__.startswith(ours) for base in type(executor).__mro__
    )


def _dask_object(anything: object) -> tuple[object, dict[str, Any]] | None:
    """The Client or Cluster that something is, or is made of; none of Dask is imported for it.

    Returns:
        It, and the annotations that its calls are to have; None if it is nothing of Dask.
    """
    for base in type(anything).__mro__:
        if not base.__module__.startswith("distributed."):
            continue
        if base.__name__ in ("Client", "Cluster"):
            return anything, {}
        if base.__name__ == "ClientExecutor":
            parts = executor_parts(anything)
            return None if parts is None else (parts[0], _annotations(parts[1]))
    return None


def _annotations(options: Mapping[str, Any]) -> dict[str, Any]:
    """What `client.get_executor()` was told, as annotations."""
    # Equal calls each run here, so that it means nothing whether they are pure.
    found = {name: value for name, value in options.items() if name != "pure" and value is not None}
    if isinstance(found.get("workers"), str):
        found["workers"] = [found["workers"]]
    return found


def connect_dask(where: object, **options: Any) -> concurrent.futures.Executor:
    """A `DaskExecutor`, by its `connect`; Dask is imported now."""
    from dask_limits.executors.dask.executor import DaskExecutor

    executor: concurrent.futures.Executor = DaskExecutor.connect(where, **options)
    return executor
