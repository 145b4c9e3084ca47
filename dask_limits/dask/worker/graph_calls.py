"""What a node of a Dask graph calls, and with what."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any, Final, TypeAlias

from dask._task_spec import Alias, DataNode, Dict, GraphNode, List, Set, Task, Tuple
from dask.utils import key_split

from dask_limits.dask.nodes import JoblibBatch, Node
from dask_limits.dask.packed import run_packed

Call: TypeAlias = tuple[Callable[..., Any], tuple[Any, ...], dict[str, Any]]

_CONTAINERS: Final = (List, Tuple, Set, Dict)


def call_of(node: GraphNode, data: dict[Any, Any]) -> Call:
    """What is to run in a task process: a function, and its arguments.

    Where it can be, it is the user's own function with the values themselves: then the task
    process need not import Dask (0.1 s and 5 MiB in each new one), and errors and stacks show
    nothing that is not the user's.

    Args:
        node: What to run.
        data: The values that it depends on, by key.
    """
    if type(node) is not Task or not all(
        map(_runs_nothing, itertools.chain(node.args, node.kwargs.values()))
    ):
        return Node(node, key_split(node.key)), (data,), {}
    args, kwargs = Task(node.key, _as_given, *node.args, **node.kwargs)(data)
    if node.func is run_packed:
        packed, put_in = args
        return packed, (put_in,), {}
    if type(getattr(node.func, "func", None)).__module__ == "joblib._dask":
        return JoblibBatch(node.func, key_split(node.key)), args, kwargs
    return node.func, args, kwargs


def _runs_nothing(argument: object) -> bool:
    """Whether an argument can be had without a call of something that may be the user's."""
    if type(argument) in _CONTAINERS:
        return all(map(_runs_nothing, argument.args))  # type: ignore[attr-defined]
    return not isinstance(argument, GraphNode) or isinstance(argument, Alias | DataNode)


def _as_given(*args: Any, **kwargs: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
    return args, kwargs
