"""Optimizations of Dask graphs that keep limits.

Annotations belong to the layers of a graph. To fuse chains of tasks, Dask turns the graphs of
arrays and bags into flat ones, without layers, and all annotations are lost. So graphs that have
limits are optimized here instead. This fuses only tasks with equal annotations, and keeps them.
Dask's configuration names the optimizations to use:
https://docs.dask.org/en/stable/optimize.html
"""

from __future__ import annotations

import uuid
from collections.abc import Callable
from typing import Any, Final

import dask
from dask.highlevelgraph import HighLevelGraph

from dask_limits.dask.compat import graphs as compat
from dask_limits.dask.graphs.lost_limits import warn_if_lost

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


# Dask pickles these by name, as it optimizes graphs on the scheduler.


def optimize_array(dsk: Graph, keys: Any, **kwargs: Any) -> Graph:
    """Dask's optimization of arrays, or ours if there are limits."""
    return _optimize("array", dsk, keys, kwargs, _fuse)


def optimize_bag(dsk: Graph, keys: Any, **kwargs: Any) -> Graph:
    """Dask's optimization of bags, or ours if there are limits."""
    return _optimize("bag", dsk, keys, kwargs, _fuse)


def optimize_delayed(dsk: Graph, keys: Any, **kwargs: Any) -> Graph:
    """Dask's optimization of delayed, or ours if there are limits."""
    return _optimize("delayed", dsk, keys, kwargs, _cull)


_OPTIMIZATIONS: Final = {
    "array_optimize": optimize_array,
    "bag_optimize": optimize_bag,
    "delayed_optimize": optimize_delayed,
}


def _optimize(
    kind: str,
    dsk: Graph,
    keys: Any,
    kwargs: dict[str, Any],
    ours: Callable[[Any, list[Any]], Any],
) -> Graph:
    if isinstance(dsk, HighLevelGraph) and any(
        "limits" in (layer.annotations or ()) for layer in dsk.layers.values()
    ):
        warn_if_lost()
        return ours(dsk, compat.flat(keys))
    return compat.optimize_as_dask(kind, dsk, keys, kwargs)


def _cull(graph: HighLevelGraph, keys: list[Any]) -> HighLevelGraph:
    # Dask would also fuse if "optimization.fuse.delayed" is set, which is off by default.
    return graph.cull(set(keys))


def _fuse(graph: HighLevelGraph, keys: list[Any]) -> HighLevelGraph:
    if not compat.can_fuse():
        return _cull(graph, keys)
    graph = compat.fuse_blocks(graph, keys).cull(set(keys))
    annotations = _by_key(graph)
    tasks = compat.tasks_of(graph)
    ends = {
        dependency
        for key, task in tasks.items()
        for dependency in task.dependencies
        if annotations.get(dependency) != annotations.get(key)
    }
    fused = compat.fuse_chains(tasks, ends.union(keys))
    for key, task in fused.items():
        new_name = compat.target_of(task)
        if new_name is not None and key in annotations:  # the chain has a new name
            annotations.setdefault(new_name, annotations[key])
    return _in_one_layer(fused, annotations)


def _by_key(graph: HighLevelGraph) -> dict[Any, dict[str, Any]]:
    """The annotations of each task that has any."""
    found: dict[Any, dict[str, Any]] = {}
    for layer in graph.layers.values():
        for name, value in (layer.annotations or {}).items():
            for key in layer:
                own = value(key) if callable(value) else value
                if not compat.is_no_annotation(own):
                    found.setdefault(key, {})[name] = own
    return found


def _in_one_layer(tasks: Graph, annotations: dict[Any, dict[str, Any]]) -> HighLevelGraph:
    by_name: dict[str, dict[Any, Any]] = {}
    for key in tasks:
        for name, value in annotations.get(key, {}).items():
            by_name.setdefault(name, {})[key] = value
    # Dask calls an annotation that is callable with the key of each task.
    layer = compat.layer_of(tasks, {name: of.get for name, of in by_name.items()})
    # Dask optimizes arrays and bags that are computed together one by one, and merges the graphs:
    # of two layers with the same name, one would be lost.
    name = f"limited-{uuid.uuid4().hex}"
    return HighLevelGraph({name: layer}, {name: set()})
