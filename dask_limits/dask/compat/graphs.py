"""Those of graphs: what they are made of, and how Dask optimizes them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from dask_limits.dask.compat.undocumented_name import Name

_SPEC: Final = "to run a node of a graph as the function and the arguments that it is made of"
_NO_NODES: Final = "Limited tasks of graphs fail with ImportError."
_FUSE: Final = "to fuse tasks of arrays and bags that have the same limits"
_NOT_FUSED: Final = "Limited arrays and bags are computed without fusing tasks, which is slower."


def _spec(name: str, since: str = "2024.9.0") -> Name:
    return Name("dask", f"dask._task_spec:{name}", _SPEC, since, _NO_NODES)


def _fusion(path: str, since: str) -> Name:
    return Name("dask", f"dask.{path}", _FUSE, since, _NOT_FUSED)


_TASK: Final = _spec("Task")
_NODE: Final = _spec("GraphNode")
_VALUES: Final = (_spec("Alias"), _spec("DataNode"))
_CONTAINERS: Final = (_spec("List"), _spec("Tuple", "2024.12.0"), _spec("Set"), _spec("Dict"))
_CONVERT: Final = _fusion("_task_spec:convert_legacy_graph", "2024.9.0")
_FUSE_LINEAR: Final = _fusion("_task_spec:fuse_linear_task_spec", "2024.12.0")
_FUSE_ROOTS: Final = _fusion("blockwise:fuse_roots", "2021.1")
_OPTIMIZE_BLOCKWISE: Final = _fusion("blockwise:optimize_blockwise", "2021.1")
_LAYER: Final = _fusion("highlevelgraph:MaterializedLayer", "2021.3.0")
_FUSION: Final = (_CONVERT, _FUSE_LINEAR, _FUSE_ROOTS, _OPTIMIZE_BLOCKWISE, _LAYER)
_FLATTEN: Final = Name(
    "dask",
    "dask.core:flatten",
    "to find the keys that a computation asks for",
    "2021.1",
    "Limited arrays, bags and delayed cannot be computed.",
)
_TOMBSTONE: Final = Name(
    "dask",
    "dask._expr:_AnnotationsTombstone",
    "to tell tasks of a layer that have limits from those that have none",
    "2025.4.0",
    "Versions before this one have no such type, and need none.",
)
_KEY_SPLIT: Final = Name(
    "dask",
    "dask.utils:key_split",
    "to name the function of a task in messages",
    "2021.1",
    "Messages name the key of the task.",
)
_DASKS_OWN: Final = {
    kind: Name(
        "dask",
        f"dask.{module}:optimize",
        f"to optimize {kind}s without limits as Dask does",
        "2021.1",
        f"Once annotate() has been used, no {kind} can be computed in this process.",
    )
    for kind, module in (
        ("array", "array.optimization"),
        ("bag", "bag.core"),
        ("delayed", "delayed"),
    )
}
NAMES: Final = (
    _TASK,
    _NODE,
    *_VALUES,
    *_CONTAINERS,
    *_FUSION,
    _FLATTEN,
    _TOMBSTONE,
    _KEY_SPLIT,
    *_DASKS_OWN.values(),
)

# -- nodes ---------------------------------------------------------------------------------


def is_task(node: object) -> bool:
    """Whether a node is a call of a function, and nothing more special."""
    return type(node) is _TASK.get()


def is_value(node: object) -> bool:
    """Whether a node is a value, or stands for that of another one: nothing of a user's runs."""
    return isinstance(node, tuple(name.get() for name in _VALUES))


def runs_nothing(argument: Any) -> bool:
    """Whether an argument can be had without a call of something that may be the user's."""
    if type(argument) in [name.get() for name in _CONTAINERS]:
        return all(map(runs_nothing, argument.args))
    return is_value(argument) or not isinstance(argument, _NODE.get())


def arguments_of(task: Any, data: Mapping[Any, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """The arguments that the function of a task is called with.

    Args:
        task: A node that `is_task`.
        data: The values that it depends on, by key.
    """
    args, kwargs = _TASK.get()(task.key, _as_given, *task.args, **task.kwargs)(data)
    return args, kwargs


def _as_given(*args: Any, **kwargs: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
    return args, kwargs


def function_name(key: Any) -> str:
    """The name of the function of a task, from the task's key."""
    split = _KEY_SPLIT.find()
    return str(key if split is None else split(key))


# -- optimization --------------------------------------------------------------------------


def can_fuse() -> bool:
    """Whether this version of Dask has all that the functions below need."""
    return all(name.is_there for name in _FUSION)


def fuse_blocks(graph: Any, keys: list[Any]) -> Any:
    """Fuse the layers of a graph that work block by block, where their annotations agree."""
    return _FUSE_ROOTS.get()(_OPTIMIZE_BLOCKWISE.get()(graph, keys=keys), keys=keys)


def tasks_of(graph: Any) -> dict[Any, Any]:
    """The nodes of a graph, by key."""
    tasks: dict[Any, Any] = _CONVERT.get()(graph.to_dict())
    return tasks


def fuse_chains(tasks: dict[Any, Any], keep: set[Any]) -> dict[Any, Any]:
    """Fuse chains of tasks, none of them across one of the keys that are to be kept."""
    fused: dict[Any, Any] = _FUSE_LINEAR.get()(tasks, keep)
    return fused


def target_of(task: Any) -> Any:
    """The key that a node stands for, if it is another name of it; else None."""
    return task.target if isinstance(task, _VALUES[0].get()) else None


def layer_of(tasks: Mapping[Any, Any], annotations: Mapping[str, Any]) -> Any:
    """A layer of a graph that has these tasks, and these annotations."""
    return _LAYER.get()(tasks, annotations)


def is_no_annotation(value: object) -> bool:
    """Whether Dask has put this for a task of a layer that has not an annotation of its own."""
    tombstone = _TOMBSTONE.find()
    return value is None or (tombstone is not None and isinstance(value, tombstone))


def flat(keys: Any) -> list[Any]:
    """The keys that a computation asks for, in one list."""
    return list(_FLATTEN.get()(keys if isinstance(keys, list | set) else [keys]))


def optimize_as_dask(kind: str, graph: Any, keys: Any, options: Mapping[str, Any]) -> Any:
    """Optimize a graph as Dask does by itself.

    Args:
        kind: "array", "bag" or "delayed".
        graph: What to optimize.
        keys: What is asked for.
        options: What Dask passes to optimizations.
    """
    return _DASKS_OWN[kind].get()(graph, keys, **options)
