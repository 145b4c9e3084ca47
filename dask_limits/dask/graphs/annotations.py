"""How limits are put on the tasks of a Dask graph."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from contextlib import AbstractContextManager
from typing import Any, Final, Unpack

import dask

from dask_limits.dask.graphs.lost_limits import warn_of_frames, warn_of_local_schedulers
from dask_limits.dask.graphs.optimization import keep_limits
from dask_limits.dask.graphs.shuffles import shuffle_by_tasks
from dask_limits.limits import Limits
from dask_limits.limits.limits import LimitsArguments

EXECUTOR: Final = "limits"
"""The name of our executor on a worker: the value of the annotation `executor`."""


def annotate(**limits: Unpack[LimitsArguments]) -> AbstractContextManager[None]:
    """Put limits on every Dask task that is made, or computed, inside of a `with` block.

    Each such task runs in a task process of the worker that Dask chooses for it, and a breach is
    raised as Dask raises what a task raises: from `future.result()`, or `compute()`. Blocks can
    be nested: an inner one adds its limits to those around it, and wins where both say something.
    What a task was made with wins over what is around its computation.

    It holds for futures, delayed, arrays, bags and joblib wherever the block stands. A dataframe
    must be computed (`compute`, `persist`) inside of it; one that is made there and lives on is
    warned of. Dask's own optimization stays on: it fuses only what has the same limits.

    The workers need the plugin: call `client.register_plugin(LimitsWorkerPlugin())` once. Without
    it Dask refuses the tasks (`Invalid executor 'limits'`). Only workers of a distributed cluster
    know limits: Dask's schedulers of one process (`scheduler="threads"`) take no annotations.

    In a task process there is no Dask worker: `get_worker()` and `worker_client()` do not work
    (they do with `isolation="thread"`), and what joblib would run in parallel inside of a task
    runs in sequence. Nor does Dask's P2P shuffle; in the block Dask shuffles by tasks. Methods of
    actors run in the worker, unlimited.

    Args:
        **limits: `memory`, `cpu_time`, `wall_time`, `num_processes`, `cores`, `grace_period`,
            `capture_output`, `isolation`, `context`: see [Limits][dask_limits.Limits].

    Raises:
        ValueError: for a limit of zero, a negative one, NaN, an unknown unit, or arguments, also
            those of blocks around, that do not go together.
        TypeError: for a limit of the wrong type.

    Example:
        >>> import dask
        >>> from dask_limits import annotate
        >>> with annotate(memory="2 GiB", wall_time="1 m"):
        ...     total = dask.delayed(sum)([1, 2])
    """
    checked = Limits(**limits)
    # None says nothing; any other value is meant, also one that is the default.
    said = {name: getattr(checked, name) for name, value in limits.items() if value is not None}
    return _annotate(said)


@contextlib.contextmanager
def _annotate(said: dict[str, Any]) -> Iterator[None]:
    annotations = _annotations(said, dask.get_annotations())
    Limits(**annotations["limits"])  # refuses, here already, what does not go together
    keep_limits()
    with (
        warn_of_local_schedulers(),
        warn_of_frames(),
        shuffle_by_tasks(),
        dask.annotate(**annotations),
    ):
        yield


def limits_annotations(limits: Limits, around: dict[str, Any]) -> dict[str, Any]:
    """The annotations that put limits on a task.

    Args:
        limits: What a call may use.
        around: Annotations that hold already; their limits hold on where `limits` has none.
    """
    return _annotations(limits.as_dict(), around)


def _annotations(said: dict[str, Any], around: dict[str, Any]) -> dict[str, Any]:
    theirs = dict(around.get("limits", {}))
    if "isolation" in said:
        theirs.pop("context", None)  # it was for theirs
    return {"executor": EXECUTOR, "limits": theirs | said}
