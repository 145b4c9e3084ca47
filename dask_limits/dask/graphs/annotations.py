"""`annotate`: puts limits on the tasks of Dask graphs."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from contextlib import AbstractContextManager
from typing import Any, Final, Unpack

import dask

from dask_limits.dask.compat.shared_patch import shared
from dask_limits.dask.graphs.lost_limits import warn_of_frames, warn_of_local_schedulers
from dask_limits.dask.graphs.optimization import keep_limits
from dask_limits.limits import Limits
from dask_limits.limits.limits import LimitsArguments

EXECUTOR: Final = "limits"
"""The name of our executor on a worker: the value of the annotation `executor`."""


def annotate(**limits: Unpack[LimitsArguments]) -> AbstractContextManager[None]:
    """Put limits on every Dask task that is made, or computed, in a `with` block.

    Each such task runs in a task process of the worker that Dask chooses for it. A breach is
    raised like any exception of a task: by `future.result()` or `compute()`. Blocks can be nested:
    an inner block adds its limits to those of the outer one, and wins where both set a limit. The
    limits that a task was made with win over those around its computation.

    Limits hold for futures, delayed, arrays, bags and joblib if they are made or computed in the
    block. A dataframe must be computed (`compute`, `persist`) in the block; if one is made there
    and used after it, a warning says so. Dask's optimization stays on, and fuses only tasks with
    the same limits.

    The workers need the plugin: call `client.register_plugin(LimitsWorkerPlugin())` once. Without
    it Dask refuses the tasks (`Invalid executor 'limits'`). Only the workers of a distributed
    cluster enforce limits: Dask's local schedulers (`scheduler="threads"`) ignore annotations.

    A task process has no Dask worker. So `get_worker()` and `worker_client()` do not work, except
    with `isolation="thread"`; joblib within a task runs in sequence; and in the block Dask shuffles
    by tasks, as its P2P shuffle needs the worker. Methods of actors run in the worker, without
    limits.

    Args:
        **limits: `memory`, `cpu_time`, `wall_time`, `num_processes`, `cores`, `reserve`,
            `grace_period`, `capture_output`, `isolation`, `context`: see
            [Limits][dask_limits.Limits].

    Raises:
        ValueError: for a limit that is zero, negative or NaN, for an unknown unit, and for
            limits that contradict each other or those of an outer block.
        TypeError: for a limit of the wrong type.

    Example:
        >>> import dask
        >>> from dask_limits import annotate
        >>> with annotate(memory="2 GiB", wall_time="1 m"):
        ...     total = dask.delayed(sum)([1, 2])
    """
    checked = Limits(**limits)
    # None is no limit of this block; any other value is, also if it is the default.
    said = {name: getattr(checked, name) for name, value in limits.items() if value is not None}
    return _annotate(said)


@contextlib.contextmanager
def _annotate(said: dict[str, Any]) -> Iterator[None]:
    annotations = limits_annotations(said, dask.get_annotations())
    Limits(**annotations["limits"])  # raises ValueError if they contradict the outer block's
    keep_limits()
    with (
        warn_of_local_schedulers(),
        warn_of_frames(),
        shuffle_by_tasks(),
        dask.annotate(**annotations),
    ):
        yield


@shared
def shuffle_by_tasks() -> Iterator[None]:
    """Have Dask shuffle by tasks in this block, unless the user has configured how it does.

    In Dask's P2P shuffle tasks talk to the worker that they run on, which is impossible in a task
    process.
    """
    methods = ("dataframe.shuffle.method", "array.rechunk.method")
    unset = [name for name in methods if not dask.config.get(name, None)]
    with dask.config.set(dict.fromkeys(unset, "tasks")):
        yield


def limits_annotations(limits: dict[str, Any], around: dict[str, Any]) -> dict[str, Any]:
    """The annotations that put limits on a task, given those of the blocks around it."""
    theirs = dict(around.get("limits", {}))
    if "isolation" in limits:
        theirs.pop("context", None)  # which was for their isolation
    return {"executor": EXECUTOR, "limits": theirs | limits}
