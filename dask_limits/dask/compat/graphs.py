"""Those of graphs: what they are made of, and how Dask optimizes them."""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from functools import cache
from typing import Any, Final

from dask_limits.dask.compat.undocumented_name import names

_NODES: Final = names(
    "dask._task_spec:Task 2024.9.0",
    "dask._task_spec:GraphNode 2024.9.0",
    "dask._task_spec:Alias 2024.9.0",
    "dask._task_spec:DataNode 2024.9.0",
    "dask._task_spec:List 2024.9.0",
    "dask._task_spec:Tuple 2024.12.0",
    "dask._task_spec:Set 2024.9.0",
    "dask._task_spec:Dict 2024.9.0",
    what_for="to run a node of a graph as the function and the arguments that it is made of",
    without="Limited tasks of graphs fail with ImportError.",
)
_FUSION: Final = names(
    "dask._task_spec:convert_legacy_graph 2024.9.0",
    "dask._task_spec:fuse_linear_task_spec 2024.12.0",
    "dask.blockwise:fuse_roots 2021.1",
    "dask.blockwise:optimize_blockwise 2021.1",
    "dask.highlevelgraph:MaterializedLayer 2021.3.0",
    what_for="to fuse tasks of arrays and bags that have the same limits",
    without="Limited arrays and bags are computed without fusing tasks, which is slower.",
)
_DASKS_OWN: Final = {
    "array": "dask.array.optimization:optimize",
    "bag": "dask.bag.core:optimize",
    "delayed": "dask.delayed:optimize",
}
NAMES: Final = (
    _NODES
    | _FUSION
    | names(
        "dask._expr:_AnnotationsTombstone 2025.4.0",
        what_for="to tell tasks of a layer that have limits from those that have none",
        without="Versions before this one have no such type, and need none.",
    )
    | names(
        "dask.utils:key_split 2021.1",
        what_for="to name the function of a task in messages",
        without="Messages name the key of the task.",
    )
    | names(
        *(f"{path} 2021.1" for path in _DASKS_OWN.values()),
        what_for="to optimize arrays, bags and delayed without limits as Dask does",
        without="Once annotate() has been used, none of its kind can be computed in this process.",
    )
)

Arguments = tuple[tuple[Any, ...], dict[str, Any]]

# -- nodes ---------------------------------------------------------------------------------


@cache
def _node(kind: str) -> Any:
    return _NODES[f"dask._task_spec:{kind}"].get()


def is_value(node: object) -> bool:
    """Whether a node is a value, or stands for that of another one: nothing of a user's runs."""
    return isinstance(node, (_node("Alias"), _node("DataNode")))


def arguments_of(node: Any, data: Mapping[Any, Any]) -> Arguments | None:
    """The arguments of the function of a node, given the values that it depends on, by key.

    None if the node is something more special than a call of a function, or if something that may
    be the user's would be called for an argument.
    """
    task = _node("Task")
    if type(node) is not task or not all(map(_runs_nothing, [*node.args, *node.kwargs.values()])):
        return None
    arguments: Arguments = task(node.key, _as_given, *node.args, **node.kwargs)(data)
    return arguments


def _runs_nothing(argument: Any) -> bool:
    if type(argument) in (_node("List"), _node("Tuple"), _node("Set"), _node("Dict")):
        return all(map(_runs_nothing, argument.args))
    return is_value(argument) or not isinstance(argument, _node("GraphNode"))


def _as_given(*args: Any, **kwargs: Any) -> Arguments:
    return args, kwargs


def function_name(key: Any) -> str:
    """The name of the function of a task, from the task's key."""
    split = NAMES["dask.utils:key_split"].find()
    return str(key if split is None else split(key))


# -- optimization --------------------------------------------------------------------------


def optimize_as_dask(kind: str, graph: Any, keys: Any, options: Mapping[str, Any]) -> Any:
    """Optimize the graph of an "array", a "bag" or a "delayed" as Dask does by itself."""
    return NAMES[_DASKS_OWN[kind]].get()(graph, keys, **options)


def can_fuse() -> bool:
    """Whether this version of Dask has all that `fuse` needs."""
    return all(name.is_there for name in _FUSION.values())


def fuse(graph: Any, keys: list[Any]) -> Any:
    """Fuse tasks that have equal annotations, as Dask does without regard to annotations."""
    graph = _FUSION["dask.blockwise:optimize_blockwise"].get()(graph, keys=keys)
    graph = _FUSION["dask.blockwise:fuse_roots"].get()(graph, keys=keys).cull(set(keys))
    annotations = _annotations_by_key(graph)
    tasks = _FUSION["dask._task_spec:convert_legacy_graph"].get()(graph.to_dict())
    ends = {
        dependency
        for key, task in tasks.items()
        for dependency in task.dependencies
        if annotations.get(dependency) != annotations.get(key)
    }
    fused = _FUSION["dask._task_spec:fuse_linear_task_spec"].get()(tasks, ends.union(keys))
    for key, task in fused.items():
        if isinstance(task, _node("Alias")) and key in annotations:  # the chain has a new name
            annotations.setdefault(task.target, annotations[key])
    return _in_one_layer(fused, annotations)


def _annotations_by_key(graph: Any) -> dict[Any, dict[str, Any]]:
    """The annotations of each task that has any."""
    # What Dask puts for a task of a layer that does not have an annotation of its own.
    tombstone = NAMES["dask._expr:_AnnotationsTombstone"].find() or type(None)
    found: dict[Any, dict[str, Any]] = {}
    for layer in graph.layers.values():
        for name, value in (layer.annotations or {}).items():
            for key in layer:
                own = value(key) if callable(value) else value
                if own is not None and not isinstance(own, tombstone):
                    found.setdefault(key, {})[name] = own
    return found


def _in_one_layer(tasks: Any, annotations: dict[Any, dict[str, Any]]) -> Any:
    from dask.highlevelgraph import HighLevelGraph

    by_name: dict[str, dict[Any, Any]] = {}
    for key in tasks:
        for name, value in annotations.get(key, {}).items():
            by_name.setdefault(name, {})[key] = value
    # Dask calls an annotation that is callable with the key of each task.
    callables = {name: of.get for name, of in by_name.items()}
    layer = _FUSION["dask.highlevelgraph:MaterializedLayer"].get()(tasks, callables)
    # Dask optimizes arrays and bags that are computed together one by one, and merges the graphs:
    # of two layers with the same name, one would be lost.
    name = f"limited-{uuid.uuid4().hex}"
    return HighLevelGraph({name: layer}, {name: set()})
