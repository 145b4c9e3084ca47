"""Optimizations of Dask graphs that keep limits.

Annotations belong to the layers of a graph. To fuse chains of tasks, Dask turns the graphs of
arrays and bags into flat ones, without layers, and all annotations are lost. So graphs that have
limits are optimized here instead. This fuses only tasks with equal annotations, and keeps them.
Dask's configuration names the optimizations to use:
https://docs.dask.org/en/stable/optimize.html
"""

from __future__ import annotations

from functools import partial
from typing import Any, Final

import dask
from dask.highlevelgraph import HighLevelGraph

from dask_limits.dask.compat import graphs as compat
from dask_limits.dask.graphs.lost_limits import are_lost

Graph = Any  # a HighLevelGraph, or a mapping from keys to tasks


def keep_limits() -> None:
    """Configure Dask to use the optimizations of this file, from now on.

    This outlives the block of `annotate`, as a graph that was made there may be computed after it.
    An optimization that the user has configured stays. Graphs without limits are optimized by Dask.
    """
    unset = [key for key in _OPTIMIZATIONS if dask.config.get(key, None) is None]
    dask.config.set({key: _OPTIMIZATIONS[key] for key in unset})


def keep_no_limits() -> None:
    """Undo `keep_limits`. Arrays and bags that are computed after it lose their limits."""
    for key, optimize in _OPTIMIZATIONS.items():
        if dask.config.get(key, None) is optimize:
            del dask.config.config[key]


def _optimize(kind: str, graph: Graph, keys: Any, **options: Any) -> Graph:
    """Dask's optimization of an "array", a "bag" or a "delayed", or ours if there are limits."""
    has_limits = isinstance(graph, HighLevelGraph) and any(
        "limits" in (layer.annotations or ()) for layer in graph.layers.values()
    )
    if not has_limits or are_lost():
        return compat.optimize_as_dask(kind, graph, keys, options)
    flat = _flat(keys)
    if kind == "delayed" or not compat.can_fuse():
        # Dask would also fuse if "optimization.fuse.delayed" is set, which is off by default.
        return graph.cull(set(flat))
    return compat.fuse(graph, flat)


def _flat(keys: Any) -> list[Any]:
    """The keys that a computation asks for, in one list."""
    return [key for some in keys for key in _flat(some)] if isinstance(keys, list | set) else [keys]


# Dask pickles these, as it optimizes graphs on the scheduler.
_OPTIMIZATIONS: Final = {
    f"{kind}_optimize": partial(_optimize, kind) for kind in ("array", "bag", "delayed")
}
