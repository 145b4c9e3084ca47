"""Optimizations of Dask graphs that lose no limits.

Annotations belong to the layers of a graph. For arrays and bags Dask ends its optimization with a
flat graph, to fuse chains of tasks, and all annotations are lost with the layers. So graphs that
have limits are optimized here, likewise, but only tasks with equal annotations are fused, and all
keep them. Dask lets its optimizations be replaced by its configuration:
https://docs.dask.org/en/stable/optimize.html
"""

from __future__ import annotations

import importlib
import uuid
from collections.abc import Callable
from typing import Any, Final

import dask
from dask._task_spec import Alias, GraphNode, convert_legacy_graph, fuse_linear_task_spec
from dask.blockwise import fuse_roots, optimize_blockwise
from dask.core import flatten
from dask.highlevelgraph import HighLevelGraph, MaterializedLayer
from dask.utils import ensure_dict

from dask_limits.dask.graphs.lost_limits import warn_if_lost, warn_of_local_schedulers

_TOMBSTONE: Final = "_AnnotationsTombstone"
"""The type of Dask's for "none of its own", where a layer speaks for some of its tasks. It is not
in all versions of Dask."""
Graph = Any  # a HighLevelGraph, or a mapping from keys to tasks


def keep_limits() -> None:
    """Have the graphs that this process makes optimized by what is here.

    Where another optimization has been configured already, that one stays.
    """
    warn_of_local_schedulers()
    for key, optimize in _OPTIMIZATIONS.items():
        if key not in dask.config.config:
            dask.config.set({key: optimize})


# Dask pickles these, by name: a graph is optimized on the scheduler.


def optimize_array(dsk: Graph, keys: Any, **kwargs: Any) -> Graph:
    """Dask's optimization of arrays, or ours if there are limits."""
    return _optimize("dask.array.optimization", dsk, keys, kwargs, _fuse)


def optimize_bag(dsk: Graph, keys: Any, **kwargs: Any) -> Graph:
    """Dask's optimization of bags, or ours if there are limits."""
    return _optimize("dask.bag.core", dsk, keys, kwargs, _fuse)


def optimize_delayed(dsk: Graph, keys: Any, **kwargs: Any) -> Graph:
    """Dask's optimization of delayed, or ours if there are limits."""
    return _optimize("dask.delayed", dsk, keys, kwargs, _cull)


_OPTIMIZATIONS: Final = {
    "array_optimize": optimize_array,
    "bag_optimize": optimize_bag,
    "delayed_optimize": optimize_delayed,
}


def _optimize(
    module: str,
    dsk: Graph,
    keys: Any,
    kwargs: dict[str, Any],
    ours: Callable[[Any, list[Any]], Any],
) -> Graph:
    if isinstance(dsk, HighLevelGraph) and any(
        "limits" in (layer.annotations or ()) for layer in dsk.layers.values()
    ):
        warn_if_lost()
        return ours(dsk, list(flatten(keys if isinstance(keys, list | set) else [keys])))
    return importlib.import_module(module).optimize(dsk, keys, **kwargs)


def _cull(graph: HighLevelGraph, keys: list[Any]) -> HighLevelGraph:
    # With "optimization.fuse.delayed", which is off by default, Dask would fuse as well.
    return graph.cull(set(keys))


def _fuse(graph: HighLevelGraph, keys: list[Any]) -> HighLevelGraph:
    graph = fuse_roots(optimize_blockwise(graph, keys=keys), keys=keys).cull(set(keys))
    annotations = _by_key(graph)
    tasks: dict[Any, GraphNode] = convert_legacy_graph(ensure_dict(graph))
    ends = {
        dependency
        for key, task in tasks.items()
        for dependency in task.dependencies
        if annotations.get(dependency) != annotations.get(key)
    }
    fused = fuse_linear_task_spec(tasks, ends.union(keys))
    for key, task in fused.items():
        if isinstance(task, Alias) and key in annotations:  # a chain has got a new name
            annotations.setdefault(task.target, annotations[key])
    return _in_one_layer(fused, annotations)


def _by_key(graph: HighLevelGraph) -> dict[Any, dict[str, Any]]:
    """The annotations of each task that has any."""
    found: dict[Any, dict[str, Any]] = {}
    for layer in graph.layers.values():
        for name, value in (layer.annotations or {}).items():
            for key in layer:
                own = value(key) if callable(value) else value
                if own is not None and type(own).__name__ != _TOMBSTONE:
                    found.setdefault(key, {})[name] = own
    return found


def _in_one_layer(tasks: Graph, annotations: dict[Any, dict[str, Any]]) -> HighLevelGraph:
    by_name: dict[str, dict[Any, Any]] = {}
    for key in tasks:
        for name, value in annotations.get(key, {}).items():
            by_name.setdefault(name, {})[key] = value
    # Dask calls an annotation that can be called, with the key of each task.
    layer = MaterializedLayer(tasks, {name: of.get for name, of in by_name.items()})
    # Arrays and bags that are computed together are optimized apart, and then merged: of two
    # layers with one name, the tasks of one would be lost.
    name = f"limited-{uuid.uuid4().hex}"
    return HighLevelGraph({name: layer}, {name: set()})
