from __future__ import annotations

from collections.abc import Callable
from typing import Any

from dask_limits.dask.batch import PackedBatch, call_name
from dask_limits.dask.compat.graphs import arguments_of
from dask_limits.dask.compat.joblib import is_batch
from dask_limits.dask.nodes import JoblibBatch, Node
from dask_limits.in_short import arguments_in_short


def call_of(
    node: Any, data: dict[Any, Any]
) -> tuple[Callable[..., Any], tuple[Any, ...], dict[str, Any]]:
    """What to run in a task process for a node that depends on these values, by key.

    If possible, this is the user's own function with the values themselves: then the task process
    does not import Dask (0.1 s and 5 MiB in each new one), and errors and stacks show only what is
    the user's.
    """
    if (arguments := arguments_of(node, data)) is None:
        return Node(node, call_name(node.key)), (data,), {}
    args, kwargs = arguments
    if is_batch(node.func):
        return JoblibBatch(node.func, call_name(node.key)), args, kwargs
    return node.func, args, kwargs


def in_short(node: Any, data: dict[Any, Any]) -> str:
    """The arguments of the call of a node; of several calls, those of the first."""
    args, kwargs = arguments_of(node, data) or ((), {})
    if args and isinstance(args[0], PackedBatch):
        return args[0].arguments[0]
    return arguments_in_short(args, kwargs)
